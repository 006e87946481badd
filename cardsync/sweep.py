"""``sweep``: ring again for what nobody answered, and look at those of whom nothing was heard, as the schedule says.

It decides and returns; the caller rings, after the commit. Any number of sweeps may run at once: one holds the lock, the others
find nothing to do.
"""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from cardsync.core.schedule import choose
from cardsync.settings import Settings
from cardsync.store import brake, budget, customers, deleting, gate, inbox, schedule

log = structlog.get_logger(__name__)

# A bell is answered within milliseconds. Five seconds is late enough to call it lost, and early enough that a flushed broker
# costs a shopper's card no more than that.
LOST_AFTER_SECONDS: Final = 5.0
RING_AGAIN_SECONDS: Final = 10.0
EVENTS_AT_ONCE: Final = 2_000
CUSTOMERS_AT_ONCE: Final = 500  # and as many deletions


@dataclass(frozen=True, slots=True)
class Due:
    """What is due to be rung for."""

    event_ids: tuple[uuid.UUID, ...] = ()
    customers: tuple[int, ...] = ()
    deletions: tuple[uuid.UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class SweepPolicy:
    """The settings that this story goes by. ``lists`` is false where Ottu offers no list (KSA)."""

    daily_calls: int
    look_again_seconds: float
    lists: bool

    @classmethod
    def of(cls, settings: Settings) -> SweepPolicy:
        """Take the policy from the settings."""
        return cls(
            daily_calls=settings.ottu_daily_calls,
            look_again_seconds=settings.look_again_seconds,
            lists=settings.ottu_cards_api == "enabled",
        )


def sweep(engine: Engine, policy: SweepPolicy, *, fraction: float) -> Due:
    """Find what to ring for. ``fraction`` in [0, 1), random, rounds the share of a tick so that many ticks add up."""
    lost = _lost_bells(engine, policy)
    if lost.event_ids or lost.customers or lost.deletions:
        log.info("rung_again", events=len(lost.event_ids), customers=len(lost.customers), deletions=len(lost.deletions))
    try:
        routine = _routine(engine, policy, fraction) if policy.lists else ()
    except SQLAlchemyError as error:
        # Counting all cards at the begin of a pass may take too long: never at the cost of the bells above.
        log.warning("routine_sweep_put_off", error=type(error).__name__)
        routine = ()
    return Due(lost.event_ids, (*lost.customers, *routine), lost.deletions)


def _lost_bells(engine: Engine, policy: SweepPolicy) -> Due:
    """What is due, and was rung for in vain or not at all."""
    with engine.begin() as connection:
        if not brake.try_sweep_lock(connection):
            return Due()
        event_ids = inbox.overdue(
            connection,
            older_seconds=LOST_AFTER_SECONDS,
            again_seconds=RING_AGAIN_SECONDS - LOST_AFTER_SECONDS,
            limit=EVENTS_AT_ONCE,
        )
        most = gate.worth_ringing_for(connection, most=CUSTOMERS_AT_ONCE)
        # Also where Ottu offers no API for cards: what was asked for by SQL is then told that it cannot be done.
        calls = deleting.due(connection, again_seconds=RING_AGAIN_SECONDS, limit=most)
        due = customers.due(connection, again_seconds=RING_AGAIN_SECONDS, limit=most) if policy.lists else []
    return Due(tuple(event_ids), tuple(due), tuple(calls))


def _routine(engine: Engine, policy: SweepPolicy, fraction: float) -> tuple[int, ...]:
    """Those of whom nothing was heard whom this tick's calls go to."""
    with engine.begin() as connection:
        if not brake.try_sweep_lock(connection):
            return ()
        brake.begin_pass_if_over(connection)
        share = budget.routine_calls_now(connection, daily_calls=policy.daily_calls)
    with engine.begin() as connection:  # another one: who waits for the gate's row need not wait for this choice
        if not brake.try_sweep_lock(connection):
            return ()
        limit = min(CUSTOMERS_AT_ONCE, math.floor(share + fraction))
        if limit == 0:
            return ()
        heads = schedule.heads(connection, shortest_seconds=policy.look_again_seconds, limit=limit)
        chosen = choose(heads, turn=schedule.turns_dealt(connection), limit=limit)
        return tuple(schedule.deal(connection, chosen))
