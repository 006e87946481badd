"""Leader election: any number of beats may run, and the one that holds a lease in PostgreSQL sends the ticks.

The lease is a row of a private table (``store.locks``), taken under a random id and renewed before every tick, by the
database's clock. A beat that is killed is followed by another when its lease ends, ``LEASE_SECONDS`` after its last renewal. One
that is stopped gives the lease back, and another leads within ``STANDBY_SECONDS``. Nothing is held open in between, so that it
works through a pooler in transaction mode, and a host that vanishes is noticed no later than a process that is killed. A beat
that stood still for longer than its lease finds another leader, and stands by.

Rejected: an advisory lock of the session, which any login could take; a row's lock, which needs a transaction that stays open.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any, Final

import structlog
from celery.beat import Scheduler
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from cardsync import broker, db, metrics
from cardsync.episodes import Episode
from cardsync.store import locks
from workers.app import is_elsewhere

log = structlog.get_logger(__name__)

STANDBY_SECONDS: Final = 0.5
# Renewed twice a second: four renewals may be slow or lost before another beat takes over.
LEASE_SECONDS: Final = 2.5
STUCK_SECONDS: Final = 30.0


class Leadership:
    """Whether this process leads. ``engine`` commits each statement by itself, so that no transaction stays open.

    ``now`` is a clock for intervals, in seconds: how long this process cannot ask is told by no database.
    """

    def __init__(
        self, engine: Engine, *, holder: uuid.UUID | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine, self._now = engine, now
        self._holder = uuid.uuid4() if holder is None else holder
        self._leads = False
        self._stuck_since: float | None = None
        self._stuck = Episode("leader_lock_cannot_be_had", level="error")

    def leads(self) -> bool:
        """Whether this process led when it asked last."""
        return self._leads

    def holds(self) -> bool:
        """Take or renew the lease; false while another beat has it, or the database does not answer."""
        try:
            with self._engine.connect() as connection:
                leads = locks.lease(connection, "leader", self._holder, lease_seconds=LEASE_SECONDS)
        except SQLAlchemyError as error:
            self._note(False, because=db.why(error))
            self._note_stuck(error)
            return False
        self._stuck_since = None
        self._stuck.is_over()
        self._note(leads, because="another beat leads")
        return leads

    def release(self) -> None:
        """Give the lease back; if the database cannot be told so, the lease ends by itself."""
        if not self._leads:
            return
        self._leads = False
        try:
            with self._engine.connect() as connection:
                locks.let_go(connection, "leader", self._holder)
        except SQLAlchemyError as error:
            log.warning("beat_kept_its_lease", error=type(error).__name__, why=db.why(error))

    def _note(self, leads: bool, *, because: str) -> None:
        """One line when the lead begins, and one when it ends."""
        if leads and not self._leads:
            log.info("beat_leads")
        if self._leads and not leads:
            log.warning("beat_lost_the_lead", because=because)
        self._leads = leads

    def _note_stuck(self, error: SQLAlchemyError) -> None:
        """Count and log, once, that the lease could be neither taken nor seen with another beat for half a minute."""
        if self._stuck_since is None:
            self._stuck_since = self._now()
        if self._now() - self._stuck_since < STUCK_SECONDS:
            return
        if self._stuck.goes_on(seconds=round(STUCK_SECONDS), why=db.why(error)):
            metrics.LOCK_WAITS.labels("leader").inc()


class TickScheduler(Scheduler):  # type: ignore[misc]  # Celery has no types
    """Celery's scheduler, its schedule in memory, each tick published once and never waited for.

    Celery's own way holds one producer, and waits for its connection for ever: a beat that waits cannot be stopped.
    """

    producer = None
    is_elsewhere = False  # the broker's address was changed: another scheduler must be made
    _not_sent = Episode("ticks_not_sent")

    def send_task(self, *args: Any, **kwargs: Any) -> Any:
        """Publish with the app's own pool of producers, without retries: the next tick is a second away."""
        return self.app.send_task(*args, **{**kwargs, "producer": None, "retry": False})

    def apply_entry(self, entry: Any, producer: Any = None) -> None:  # noqa: ARG002  (Celery's signature)
        """Send one due entry; a broker that is away costs this tick alone."""
        try:
            self.apply_async(entry, producer=None, advance=False)
        except Exception as error:  # noqa: BLE001  (brokers' clients raise many kinds)
            cause = error.__cause__ or error
            self._not_sent.goes_on(error=type(cause).__name__, why=broker.why(cause))
            self.is_elsewhere = is_elsewhere(self.app)
        else:
            self._not_sent.is_over()
