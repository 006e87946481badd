"""``sweep``: pick the customers that get this tick's routine calls, and make them due.

Any number of sweeps may run at once: one holds the lock, the others find nothing to do. The lock is a row that is held while one
short transaction runs, so that it is free again within milliseconds. If it cannot be had and no sweep has run for
``STANDSTILL_SECONDS``, something else holds it: a counter and one line say so, and another line says that it is over.

No more looks are made due than are worked off: where workers do not keep up (a slow Ottu, too few threads), the next ticks make
none. What a tick did not make due is not made up for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from cardsync import db, metrics
from cardsync.core.schedule import choose
from cardsync.episodes import Episode
from cardsync.settings import Settings
from cardsync.store import brake, feed, locks, schedule
from cardsync.store.calls import budget, ledger

log = structlog.get_logger(__name__)

CUSTOMERS_AT_ONCE: Final = 500
WAITING_TICKS: Final = 2  # ticks whose looks may wait for a thread: one that is worked off, and the next
LEAST_WAITING: Final = 5  # where a tick makes one or none due, a worker that is busy for a few seconds costs no turn
TRIES_IN_VAIN: Final = 3  # a second apart
# Of a tick's routine calls, while customers are held whose brake was released. The other half goes on as ever, and also
# tells whether the fault goes on for customers that the brake does not hold.
SHARE_OF_HELD: Final = 0.5


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


def sweep(engine: Engine, policy: SweepPolicy, *, fraction: float) -> tuple[int, ...]:
    """Make this tick's customers due, and return them.

    ``fraction`` in [0, 1), random, rounds the tick's share so that many ticks add up.
    """
    with engine.begin() as connection:
        feed.number_waiting(connection)
        has_lock = locks.try_lock(connection, "sweep")
    if not has_lock:
        _tell_of_a_standstill(engine)
        return ()
    _tries.in_vain = 0
    _standstill.is_over()
    try:
        made_due = _routine(engine, policy, fraction)
    except SQLAlchemyError as error:
        _put_off.goes_on(error=type(error).__name__, why=db.why(error))
        return ()
    _put_off.is_over()
    return made_due


def _routine(engine: Engine, policy: SweepPolicy, fraction: float) -> tuple[int, ...]:
    """Pick the customers that get this tick's routine calls."""
    with engine.begin() as connection:
        if not locks.try_lock(connection, "sweep"):
            return ()
        released = brake.release_to_tell(connection)  # before the gate's row, as everywhere
        share = budget.routine_calls_now(connection, daily_calls=policy.daily_calls)
        waiting = schedule.waiting(connection, most=WAITING_TICKS * CUSTOMERS_AT_ONCE)
        ledger.forget(connection)
    if released is not None:
        log.warning("removal_brake_released", customers_accepted=released)
    limit = min(CUSTOMERS_AT_ONCE, math.floor(share + fraction))
    limit = min(limit, max(LEAST_WAITING, WAITING_TICKS * limit) - waiting)
    if limit <= 0 or not policy.lists:
        return ()
    with (
        engine.begin() as connection
    ):  # another one: a call that waits for the gate's row need not wait for this choice
        if not locks.try_lock(connection, "sweep"):
            return ()
        held = brake.held_to_look_at(connection, limit=limit)
        for_held = min(len(held), _part_of_held(limit, share, fraction))
        candidates = schedule.candidates(connection, shortest_seconds=policy.look_again_seconds, limit=limit)
        chosen = choose(candidates, turn=schedule.turns_taken(connection), limit=limit - for_held)
        routine = schedule.take_turns(connection, chosen)
        again = schedule.make_due(connection, held[: limit - len(chosen)])
        return (*routine, *again)


def _part_of_held(limit: int, share: float, fraction: float) -> int:
    """How many of ``limit`` calls go to held customers. What the rounding of ``share`` left over is a fair coin for this one."""
    left_over = (share + fraction) % 1.0 / min(1.0, share)
    return math.floor(limit * SHARE_OF_HELD + min(left_over, 1.0 - 1e-9))


# Of this process, whichever of its threads sweeps.
@dataclass(slots=True)
class _Tries:
    """Sweeps in a row that did not get the lock."""

    in_vain: int = 0


_tries = _Tries()
_standstill = Episode("sweep_lock_is_not_free", level="error")
_put_off = Episode("routine_sweep_put_off")


def _tell_of_a_standstill(engine: Engine) -> None:
    """Count and log, once, that no sweep has run for a while although this one wants to; it is over once any sweep runs.

    Not at the first try: after an outage of the database's none has run, and one of those who begin at once has the lock.
    """
    with engine.connect() as connection:
        last = schedule.last_sweep(connection)
    if last is None or last.seconds_ago < schedule.STANDSTILL_SECONDS:
        _tries.in_vain = 0
        _standstill.is_over()
        return
    _tries.in_vain += 1
    if _tries.in_vain >= TRIES_IN_VAIN and _standstill.goes_on(
        seconds=round(last.seconds_ago), table="cardsync.locks", name="sweep"
    ):
        metrics.LOCK_WAITS.labels("sweep").inc()
