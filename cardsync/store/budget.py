"""The one budget of calls for all processes: each call is let through and counted before it is made, in one step.

The step holds the gate's row until the caller's transaction ends, so nobody counts beside it. What it decides by is pure
(``core.allowance``); the calls of the last 24 hours stand in the ledger.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, text

from cardsync.core import allowance
from cardsync.core.allowance import Lane
from cardsync.errors import BudgetSpent
from cardsync.store import gate, ledger

LONGEST_WAIT_SECONDS: Final = 3_600.0


def spend_call(
    connection: Connection, lane: Lane, *, who: int, daily_calls: int, call_seconds: float, may_probe: bool = True
) -> None:
    """Count one call about customer ``who`` before it is made. Raises ``CallsPaused`` or ``BudgetSpent`` if it must not be.

    While the breaker is open the call is its probe, for ``call_seconds``; with ``may_probe`` false it is not made then.
    Whoever is refused rolls the transaction back.
    """
    gate.let_through(connection, lane, who=who, call_seconds=call_seconds, may_probe=may_probe)
    left = allowance.left(lane, daily_calls, ledger.spent(connection))
    if lane == "repeat":
        left = min(left, allowance.repeats_left(daily_calls, ledger.spent_by_lane(connection).get(lane, 0)))
    if not left:
        wait = min(LONGEST_WAIT_SECONDS, max(1.0, ledger.frees_in_seconds(connection)))
        raise BudgetSpent("the calls of the last 24 hours are used up", retry_after_seconds=wait)
    ledger.count(connection, lane)


def calls_left(connection: Connection, *, daily_calls: int, lane: Lane = "deletion") -> int:
    """How many calls of the last 24 hours' allowance a lane may still make; without ``lane``, all that there are."""
    return allowance.left(lane, daily_calls, ledger.spent(connection))


_TICK = text("""
    UPDATE cardsync.gate AS g SET swept_at = clock_timestamp()
    FROM (SELECT swept_at AS before FROM cardsync.gate FOR UPDATE) AS last
    RETURNING coalesce(extract(epoch FROM g.swept_at - last.before), 0)::float8
""")


def routine_calls_now(connection: Connection, *, daily_calls: int) -> float:
    """Note that the routine sweep runs now; return how many customers it may make due, so that many ticks add up.

    While calls are paused or their pace is limited it is none, and one where the breaker waits for a probe.
    """
    elapsed: float = connection.execute(_TICK).scalar_one()
    due = allowance.sweeps_due(daily_calls, ledger.spent_by_lane(connection), elapsed)
    return min(due, gate.routine_calls_at_once(connection))
