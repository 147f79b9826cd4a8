"""The breaker opens on a ratio, lets one call try, and that one decides (L7)."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from mcp_chassis.downstream import Breaker, states
from mcp_chassis.errors import NotNow
from tests.support.inside import Clock, Log

PAUSE = 10.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the breaker's clock."""
    clock = Clock()
    monkeypatch.setattr("mcp_chassis.downstream.time", clock)
    return clock


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    """Return a closed breaker with the numbers of the documentation."""
    return Breaker("weather", ratio=0.5, minimum=10, window=30, pause=PAUSE)


def state_of(breaker: Breaker) -> str:
    """Return its state as a word, which a type checker does not follow."""
    return breaker.state


def call(breaker: Breaker, *, failed: bool) -> None:
    """Make one call from beginning to end."""
    breaker.leave(breaker.enter(), failed=failed)


def opened(breaker: Breaker) -> Breaker:
    """Return it after ten failures."""
    for _ in range(10):
        call(breaker, failed=True)
    assert state_of(breaker) == "open"
    return breaker


def refusal(breaker: Breaker) -> NotNow:
    """Return what a call is told that must not begin."""
    with pytest.raises(NotNow) as refused:
        breaker.enter()
    return refused.value


def shown() -> float | None:
    """Return the state as the metrics tell it."""
    number = REGISTRY.get_sample_value("mcp_breaker_state", {"service": "weather"})
    assert number == ("closed", "half_open", "open").index(states["weather"])  # /health tells the same
    return number


def test_L7_service_that_fails_every_second_call_opens_it(breaker: Breaker) -> None:
    for number in range(9):
        call(breaker, failed=number % 2 == 1)
    assert state_of(breaker) == "closed"

    call(breaker, failed=True)

    assert state_of(breaker) == "open"


def test_L7_smaller_share_of_failures_keeps_it_closed(breaker: Breaker) -> None:
    for number in range(300):
        call(breaker, failed=number % 3 == 2)

    assert state_of(breaker) == "closed"


def test_L7_few_failures_mean_nothing(breaker: Breaker) -> None:
    for _ in range(9):
        call(breaker, failed=True)

    assert state_of(breaker) == "closed"


def test_L7_failures_are_forgotten_after_the_window(breaker: Breaker, clock: Clock) -> None:
    for _ in range(9):
        call(breaker, failed=True)

    clock.now += 31
    call(breaker, failed=True)

    assert state_of(breaker) == "closed"


def test_L7_open_breaker_refuses_at_once_with_the_time_that_is_left(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 2.5

    refused = refusal(breaker)

    assert (refused.code, refused.seconds) == ("breaker_open", 7.5)
    assert "weather is failing" in str(refused)


def test_L7_after_the_pause_one_call_tries_and_success_closes_it(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += PAUSE

    trial = breaker.enter()
    refused = [refusal(breaker).code for _ in range(5)]
    state = breaker.state
    breaker.leave(trial, failed=False)

    assert (state, refused) == ("half_open", ["breaker_open"] * 5)
    assert state_of(breaker) == "closed"
    call(breaker, failed=True)
    assert state_of(breaker) == "closed"


def test_L7_failed_trial_opens_it_for_another_pause(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += PAUSE
    trial = breaker.enter()
    clock.now += 1

    breaker.leave(trial, failed=True)

    assert state_of(breaker) == "open"
    assert refusal(breaker).seconds == PAUSE


def test_L7_cancelled_trial_lets_another_try_after_the_pause(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += PAUSE

    breaker.abandon(breaker.enter())

    assert state_of(breaker) == "open"
    clock.now += PAUSE
    breaker.leave(breaker.enter(), failed=False)
    assert state_of(breaker) == "closed"


def test_L7_trial_that_never_ends_does_not_shut_the_service_out(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += PAUSE
    breaker.enter()

    clock.now += PAUSE
    second = breaker.enter()

    breaker.leave(second, failed=False)
    assert state_of(breaker) == "closed"


@pytest.mark.parametrize("failed", [True, False])
def test_L7_calls_from_before_it_opened_do_not_decide_the_trial(failed: bool, breaker: Breaker, clock: Clock) -> None:
    late, cancelled = breaker.enter(), breaker.enter()
    opened(breaker)
    clock.now += PAUSE
    trial = breaker.enter()

    breaker.leave(late, failed=failed)
    breaker.abandon(cancelled)

    assert state_of(breaker) == "half_open"
    assert refusal(breaker).code == "breaker_open"
    breaker.leave(trial, failed=False)
    assert state_of(breaker) == "closed"


def test_L7_late_calls_do_not_prolong_the_pause(breaker: Breaker, clock: Clock) -> None:
    late = [breaker.enter() for _ in range(20)]
    opened(breaker)
    clock.now += PAUSE - 1

    for ticket in late:
        breaker.leave(ticket, failed=True)

    assert refusal(breaker).seconds == 1


def test_L7_state_is_in_the_metrics_and_each_change_has_its_line(breaker: Breaker, clock: Clock, log: Log) -> None:
    seen = [shown()]
    opened(breaker)
    seen.append(shown())
    clock.now += PAUSE
    trial = breaker.enter()
    seen.append(shown())
    breaker.leave(trial, failed=False)
    seen.append(shown())

    assert seen == [0, 2, 1, 0]
    changes = [(line["service"], line["state"]) for line in log.lines("breaker_changed")]
    assert changes == [("weather", "open"), ("weather", "half_open"), ("weather", "closed")]
