"""The one budget of calls for all processes: each call is let through and counted before it is made, in one step.

The step holds the gate's row until the caller's transaction ends, so no other process counts at the same time. The decision is
pure (``core.call_budget``); the calls of the last 24 hours stand in the ledger.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from cardsync.core import call_budget
from cardsync.core.call_budget import Lane
from cardsync.store.calls import gate, ledger
from cardsync.store.calls.permits import Permits


def spend_call(
    connection: Connection, lane: Lane, *, who: int, daily_calls: int, call_seconds: float, may_probe: bool = True
) -> None:
    """Count one call about customer ``who`` before it is made. Raises ``CallsPaused`` or ``BudgetSpent`` if it must not be.

    While the breaker is open the call is its probe, for ``call_seconds``; with ``may_probe`` false it is not made then.
    A caller that is refused must roll its transaction back.
    """
    permits = Permits(connection, daily_calls=daily_calls, call_seconds=call_seconds)
    refused = permits.ask(lane, who=who, may_probe=may_probe)
    if refused is not None:
        raise refused
    permits.save()
    ledger.count(connection, lane)


def calls_left(connection: Connection, *, daily_calls: int, lane: Lane = "deletion") -> int:
    """How many calls a lane may still make now under the allowance of 24 hours; by default the lane that may use all of it."""
    return call_budget.left(lane, daily_calls, ledger.spent(connection))


_TICK = text("""
    UPDATE cardsync.gate AS g SET swept_at = clock_timestamp()
    FROM (SELECT swept_at AS before FROM cardsync.gate FOR UPDATE) AS last
    RETURNING coalesce(extract(epoch FROM g.swept_at - last.before), 0)::float8
""")


def routine_calls_now(connection: Connection, *, daily_calls: int) -> float:
    """Note that the routine sweep runs now; return how many customers it may make due, as a fraction that adds up over ticks.

    It is none while calls are paused or throttled, and at most one while the circuit breaker waits for a probe.
    """
    elapsed: float = connection.execute(_TICK).scalar_one()
    due = call_budget.sweeps_due(daily_calls, ledger.spent_by_lane(connection), elapsed)
    return min(due, gate.routine_calls_at_once(connection))
