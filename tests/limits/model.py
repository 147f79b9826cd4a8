"""What the limits mean, as plainly as it can be said: lists of what happened, gone through again for each question.

Nothing here is shared with the product but the words of a question and of an answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from mcp_chassis.state.store import Bucket, Budget, Conduct, Decision, Refusing

A_DAY = 24 * 60 * 60 * 1_000_000


class Model:
    """A store that remembers everything; the caller tells the time of each question, in microseconds."""

    def __init__(self) -> None:
        self.admitted: defaultdict[str, list[tuple[int, int, int]]] = defaultdict(list)
        """Of each bucket: when, interval, burst."""
        self.spent: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        """Of each budget: when, cost."""
        self.strikes: defaultdict[str, list[int]] = defaultdict(list)
        """Of each conduct: when a refusal counted against it."""
        self.revoked: set[str] = set()

    def admit(
        self, now: int, revocations: Sequence[str], conduct: Conduct | None, buckets: Sequence[Bucket]
    ) -> Decision:
        """Decide about a request."""
        if self.revoked & set(revocations):
            return Decision("revoked", 0, 0, now)
        return self.take(now, conduct, buckets, None)

    def take(self, now: int, conduct: Conduct | None, buckets: Sequence[Bucket], budget: Budget | None) -> Decision:
        """Decide about a call."""
        refusals: list[tuple[int, Refusing, bool]] = []
        for bucket in buckets:
            if (early := self._early(now, bucket)) > 0:
                refusals.append((early, bucket.limit, bucket.own))
        if budget is not None:
            today = [cost for when, cost in self.spent[budget.name] if when // A_DAY == now // A_DAY]
            if sum(today) + budget.cost > budget.units:
                refusals.append(((now // A_DAY + 1) * A_DAY - now, "budget", True))
        longest = max((wait for wait, _, _ in refusals), default=0)
        if conduct is not None and (left := self._suspended_until(conduct) - now) > 0:
            return Decision("suspended", max(left, longest), 0, now)
        if refusals:
            refusing = next(limit for wait, limit, _ in refusals if wait == longest)
            length = 0
            if conduct is not None and any(own for _, _, own in refusals):
                self.strikes[conduct.name].append(now)
                length = max(0, self._suspended_until(conduct) - now)
            return Decision(refusing, max(longest, length), length, now)
        for bucket in buckets:
            self.admitted[bucket.name].append((now, bucket.interval, bucket.burst))
        if budget is not None:
            self.spent[budget.name].append((now, budget.cost))
        return Decision(None, max((0, *(self._early(now, bucket) for bucket in buckets))), 0, now)

    def _early(self, now: int, bucket: Bucket) -> int:
        """Return by how much a call comes too early: a vessel that each call fills and that time empties."""
        level, before = 0, 0
        for when, interval, burst in self.admitted[bucket.name]:
            level = min(max(0, level - (when - before)), interval * burst) + interval
            before = when
        level = min(max(0, level - (now - before)), bucket.interval * bucket.burst)
        return level + bucket.interval - bucket.interval * bucket.burst

    def _suspended_until(self, conduct: Conduct) -> int:
        """Return when the last suspension ends, 0 if there was none."""
        rules = conduct.escalation
        counted: list[int] = []
        known, ends = 0, 0
        for strike in self.strikes[conduct.name] if rules.refusals else []:
            if counted and strike >= counted[0] + rules.window:
                counted = []
            counted.append(strike)
            if len(counted) < rules.refusals:
                continue
            forgotten = (strike - ends) // rules.decay if known else 0
            known = max(0, known - forgotten)
            ends = strike + min(rules.first << known, rules.longest)
            known, counted = known + 1, []
        return ends
