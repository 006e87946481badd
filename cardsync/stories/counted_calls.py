"""What every call to Ottu does beside its own work: be counted, tell the gate how it ended, log what that began or ended for all.

Counting a call before it is made is ``store.calls.budget.spend_call``. ``ask_agreement`` and ``reconcile_now.ask_once`` count by
``CountedCall``, whose transaction does nothing else; that of ``reconcile``, ``delete`` and ``inquire`` also renews a ticket,
writes an intent down or asks Ottu's own limits. Log lines are for states: one when calls stop, one when they go
on. How often a call was put off meanwhile is counted by the metrics.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog
from sqlalchemy import Engine

from cardsync.core.call_budget import Lane
from cardsync.core.trouble import TABLE, Call, Trouble
from cardsync.errors import named, places
from cardsync.store.calls import budget, failures, gate
from cardsync.store.calls.gate import Turn

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class CountedCall:
    """One call, counted in a transaction of its own just before it is made. ``made``: it was let through."""

    engine: Engine
    lane: Lane
    who: int
    daily_calls: int
    call_seconds: float
    made: bool = False

    def spend(self) -> None:
        """Count the call. Raises ``CallsPaused`` or ``BudgetSpent`` if it must not be made now."""
        with self.engine.begin() as connection:
            budget.spend_call(
                connection, self.lane, who=self.who, daily_calls=self.daily_calls, call_seconds=self.call_seconds
            )
        self.made = True


def tell(engine: Engine, error: Exception | None, *, call: Call, who: int) -> None:
    """Tell the gate how a call ended that changes nothing else, in a transaction of its own."""
    with engine.begin() as connection:
        if error is None:
            turn = gate.heard(connection, "answered", who=who)
        else:
            turn = failures.told(connection, error, call=call, who=who).turn
    log_turn(turn)


def log_turn(turn: Turn | None) -> None:
    """Log that calls stop or go on; called after the commit."""
    if turn is None:
        return
    if turn.began:
        log.error("calls_stopped", reason=turn.reason, because=gate.BECAUSE[turn.reason])
    else:
        log.warning("calls_go_on", reason=turn.reason)


def log_unforeseen(error: Exception, trouble: Trouble, **ids: object) -> None:
    """Log an error that no row of ``core.trouble`` foresees, by its class and its places: its text may hold a secret."""
    if trouble is TABLE["unforeseen"]:
        log.error("unforeseen_after_a_call", error=named(error), where=places(error), **ids)
