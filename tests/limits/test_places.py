"""Places are counted of one holder and in all; nobody waits, and what ends is counted out (L2, L10)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_chassis.http import Refused, place_for
from mcp_chassis.places import Full, Place, Places
from tests.limits.servers import caller


def test_L2_holder_is_told_whose_share_is_used_up() -> None:
    places = Places(3, each=2)
    places.take("ann")
    places.take("ann")

    with pytest.raises(Full) as own:
        places.take("ann")
    places.take("bob")
    with pytest.raises(Full) as others:
        places.take("eve")

    assert (own.value.own, others.value.own) == (True, False)
    assert places.taken == 3


def test_L2_without_a_share_one_holder_may_have_all() -> None:
    places = Places(2)
    places.take("ann")
    places.take("ann")
    with pytest.raises(Full):
        places.take("ann")


def test_L2_place_is_free_when_the_last_who_holds_it_lets_go() -> None:
    places = Places(1)
    place = places.take("ann")
    with place:
        with place:
            pass
        assert places.taken == 1
    assert places.taken == 0
    assert vars(places)["_held"] == {}


def test_L2_place_is_free_after_a_failure() -> None:
    places = Places(1)
    with pytest.raises(ZeroDivisionError), places.take("ann"):
        raise ZeroDivisionError
    places.take("bob")


def test_L2_call_that_begins_after_its_request_ended_is_counted_once_in_and_once_out() -> None:
    # Given a request that is over before its call begins, while somebody else took the place
    places = Places(1)
    place = places.take("ann")
    with place:
        pass
    with places.take("bob"):
        # When the call begins, it is counted though there is no room: it runs
        with place:
            assert places.taken == 2
        assert places.taken == 1
    # Then nothing is left over, neither taken nor free
    assert places.taken == 0
    assert vars(places)["_held"] == {}


@given(st.integers(1, 4), st.integers(1, 4), st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40))
def test_L2_places_are_never_more_than_their_number_and_none_is_lost(
    maximum: int, each: int, events: list[tuple[str, bool]]
) -> None:
    places, held = Places(maximum, each), list[tuple[str, Place]]()
    for who, comes in events:
        mine = [entry for entry in held if entry[0] == who]
        if comes and len(mine) < each and len(held) < maximum:
            held.append((who, places.take(who).__enter__()))
        elif comes:
            with pytest.raises(Full) as full:
                places.take(who)
            assert full.value.own == (len(mine) >= each)
        elif mine:
            held.remove(mine[0])
            mine[0][1].__exit__()
        assert places.taken == len(held)


@pytest.mark.parametrize(
    ("who", "status", "reason"), [(0, 429, "too_many_streams_of_caller"), (1, 503, "too_many_streams")]
)
def test_L2_refusal_says_whose_share_is_used_up_and_when_to_try_again(who: int, status: int, reason: str) -> None:
    places = Places(1, each=1)
    assert place_for(caller(0), places, "streams", 2.0) is not None

    with pytest.raises(Refused) as refused:
        place_for(caller(who), places, "streams", 2.0)

    assert (refused.value.status, refused.value.reason) == (status, reason)
    assert "2 s" in str(vars(refused.value))
