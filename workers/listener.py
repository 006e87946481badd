"""The ear: deletions that were asked for are rung for the moment their asker's transaction commits, whoever asked and however.

A service of the merchant's asks by SQL alone and has no bell of ours; PostgreSQL's NOTIFY, sent by ``request_deletion`` itself,
is one. It needs a session of its own. When that is lost, a new one is made with a growing wait, and rings for whatever became due
meanwhile; and what nobody heard, the sweep rings for.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from cardsync.store import deleting, deletions

log = structlog.get_logger(__name__)

LOOK_UP_SECONDS: Final = 0.5  # how long a stop may go unnoticed
FIRST_WAIT_SECONDS: Final = 0.5
LONGEST_WAIT_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 3.0
AT_ONCE: Final = 500

_LISTEN = text(f"LISTEN {deletions.CHANNEL}")


class Listener:
    """Rings ``ring`` for every deletion that is asked for, on a thread of its own, until ``close``.

    ``engine`` commits each statement by itself (``autocommit``), so that no transaction stays open; it is the listener's own.
    """

    def __init__(self, engine: Engine, ring: Callable[[Sequence[uuid.UUID]], None]) -> None:
        self._engine = engine
        self._ring = ring
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, within a bound."""
        self._stopping.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        wait_seconds = FIRST_WAIT_SECONDS
        while not self._stopping.is_set():
            try:
                with self._engine.connect() as connection:
                    self._begin(connection)
                    wait_seconds = FIRST_WAIT_SECONDS
                    self._hear(connection)
            except Exception as error:  # noqa: BLE001  (a thread's border; the driver's own errors come through here bare)
                log.warning("listener_lost_the_database", error=type(error).__name__, wait_seconds=wait_seconds)
                self._stopping.wait(wait_seconds)
                wait_seconds = min(2 * wait_seconds, LONGEST_WAIT_SECONDS)
        with contextlib.suppress(SQLAlchemyError):
            self._engine.dispose()

    def _begin(self, connection: Connection) -> None:
        """Listen first, then look: what is asked for in between is heard, what was asked for before is seen."""
        connection.execute(_LISTEN)
        missed = deleting.due(connection, again_seconds=0.0, limit=AT_ONCE)
        if missed:
            self._ring(missed)
        log.info("listening", missed=len(missed))

    def _hear(self, connection: Connection) -> None:
        """Ring for what is heard until told to stop. Raises what the driver raises when the session is lost."""
        driver: Any = connection.connection.driver_connection
        try:
            while not self._stopping.is_set():
                heard = [
                    _deletion_id(notice.payload) for notice in driver.notifies(timeout=LOOK_UP_SECONDS, stop_after=1)
                ]
                self._ring([deletion_id for deletion_id in heard if deletion_id is not None])
        finally:
            connection.invalidate()  # it listens: no session for anybody else


def _deletion_id(payload: str) -> uuid.UUID | None:
    """Anybody who may connect can notify; what is no id is nothing to us."""
    try:
        return uuid.UUID(payload)
    except ValueError:
        return None
