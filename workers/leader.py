"""The one beat that leads: any number may run, and the one that holds a lock in PostgreSQL ticks.

A beat that dies loses its connection and with it the lock; the next one ticks within a second. A host that vanishes without a
word keeps the lock until keepalives notice, about fifteen seconds (``cardsync.db``).
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

import structlog
from celery.beat import Scheduler
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

log = structlog.get_logger(__name__)

LEADER_LOCK: Final = 0x6C65616465720001  # "leader", 1
STANDBY_SECONDS: Final = 0.5

_TRY = text("SELECT pg_try_advisory_lock(cast(:key AS bigint))")
_ALIVE = text("SELECT 1")
_GIVE_UP = text("SELECT pg_advisory_unlock(cast(:key AS bigint))")


class Leadership:
    """Whether this process leads. ``engine`` commits each statement by itself, so that no transaction stays open."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None

    def holds(self) -> bool:
        """Take the lead, or make sure of it with one round trip; false while another has it, or the database is away."""
        try:
            if self._connection is not None:
                self._connection.execute(_ALIVE)
                return True
            connection = self._engine.connect()
            if connection.execute(_TRY, {"key": LEADER_LOCK}).scalar_one():
                self._connection = connection
                log.info("beat_leads")
                return True
            connection.close()
        except SQLAlchemyError as error:
            log.warning("beat_lost_the_lead", error=type(error).__name__)
            self.release()
        return False

    def release(self) -> None:
        """Give the lead up: at once if the database can be told so, else by ending the session that holds it."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with contextlib.suppress(SQLAlchemyError):
            connection.execute(_GIVE_UP, {"key": LEADER_LOCK})
        connection.invalidate()  # closed for real: a pooled session must not keep the lock if it could not be told
        connection.close()


class TickScheduler(Scheduler):  # type: ignore[misc]  # Celery has no types
    """Celery's scheduler, its schedule in memory, each tick published once and never waited for.

    Celery's own way holds one producer, and waits for its connection for ever: a beat that waits cannot be stopped.
    """

    producer = None

    def send_task(self, *args: Any, **kwargs: Any) -> Any:
        """Publish with the app's own pool of producers, without retries: the next tick is a second away."""
        return self.app.send_task(*args, **{**kwargs, "producer": None, "retry": False})

    def apply_entry(self, entry: Any, producer: Any = None) -> None:  # noqa: ARG002  (Celery's signature)
        """Send one due entry; a broker that is away costs this tick alone."""
        try:
            self.apply_async(entry, producer=None, advance=False)
        except Exception as error:  # noqa: BLE001  (brokers' clients raise many kinds)
            log.warning("tick_not_sent", error=type(error.__cause__ or error).__name__)
