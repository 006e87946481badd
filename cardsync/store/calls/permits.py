"""Permits: which of several calls may be made now, decided and counted together under the gate's row.

A claim asks for many calls at once, and a story for one. Both come here, so that there is one way through the gate: the row is
locked, what the budget has left is read, each call is asked for by its lane and customer, and in the end what changed is written.
The decisions are pure (``core.throttle``, ``core.circuit_breaker``, ``core.call_budget``).
"""

from __future__ import annotations

from functools import cached_property
from typing import Final

from cardsync.core import call_budget
from cardsync.core.call_budget import Lane
from cardsync.db import Transaction
from cardsync.errors import BudgetSpent, CallsPaused
from cardsync.store.calls import gate, ledger
from cardsync.store.calls.gate import Passing

LONGEST_WAIT_SECONDS: Final = 3_600.0


class Permits:
    """The calls that may be made in this transaction, which holds the gate's row until it ends.

    Making it locks the row, and in a pipeline waits for nothing.
    """

    def __init__(self, connection: Transaction, *, daily_calls: int, call_seconds: float) -> None:
        self._connection, self._daily_calls, self._call_seconds = connection, daily_calls, call_seconds
        self._locked, self._spent = gate.lock(connection), ledger.ask_spent_by_lane(connection)

    @cached_property
    def _by_lane(self) -> dict[Lane, int]:
        return self._spent()

    @cached_property
    def _passing(self) -> Passing:
        return self._locked()

    @property
    def is_free(self) -> bool:
        """Whether nothing pauses, slows down or probes: then only the budget bounds the number of calls."""
        return self._passing.is_free

    def left(self, lane: Lane) -> int:
        """How many calls of this lane the budget has now."""
        left = call_budget.left(lane, self._daily_calls, sum(self._by_lane.values()))
        shares = {"repeat": call_budget.repeats_left, "read": call_budget.reads_left}
        if lane in shares:
            left = min(left, shares[lane](self._daily_calls, self._by_lane.get(lane, 0)))
        return left

    def ask(self, lane: Lane, *, who: int, may_probe: bool = True) -> CallsPaused | BudgetSpent | None:
        """Take a permit for one call about customer ``who``; the refusal if it must not be made now.

        While the breaker is open the call is its probe; with ``may_probe`` false it is not made then.
        """
        paused = self._passing.refusal(lane, who, may_probe=may_probe)
        if paused is not None:
            return paused
        if not self.left(lane):
            wait = min(LONGEST_WAIT_SECONDS, max(1.0, ledger.frees_in_seconds(self._connection)))
            return BudgetSpent("the calls of the last 24 hours are used up", retry_after_seconds=wait)
        self._passing = self._passing.after_a_call(who, call_seconds=self._call_seconds)
        self._by_lane[lane] = self._by_lane.get(lane, 0) + 1
        return None

    def save(self) -> None:
        """Write what the permits changed of the gate; counting them is the caller's, in the statement that takes tickets."""
        gate.save(self._connection, self._passing)
