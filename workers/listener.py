"""The listener: it rings for a requested deletion at the moment when the request's transaction commits.

A service of the merchant may request a deletion in SQL alone, and such a service has no bell of ours. So ``request_deletion``
itself sends PostgreSQL's NOTIFY, and the listener turns it into a bell. Listening needs a session of its own. When the session is
lost, a new one is made, with a growing wait between tries.

**A notice is believed in nothing.** PostgreSQL lets every login send any notice on any channel, as often as it likes. So a notice
only wakes the listener for a *look*: number what waits for its place in the feed (``store.feed``), and ring for the deletions
that were asked for and not rung for yet, which an index finds. Retries are the sweep's, which rings for no more than the budget
has calls for. The first notice after a quiet time causes a look at once; from then on looks are at least ``REST_SECONDS`` apart,
and the notices that arrive meanwhile are thrown away and cause one look together. So a flood of forged notices costs a fixed
number of statements a second and delays no bell by more than that rest. Notices are read without a pause, because PostgreSQL
keeps what a listener has not read for the whole server. If no notice comes, a look follows every ``QUIET_SECONDS``; if no
listener is there, the sweep rings.

Rejected: believing the id in a notice (a forged one made workers and broker busy for deletions that are not due); a shared secret
in the payload (every login may listen, and reads it).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any, Final

import structlog
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from cardsync import db
from cardsync.episodes import Episode
from cardsync.store import feed
from cardsync.store.deletions import requests, transitions
from cardsync.threads import VitalThread

log = structlog.get_logger(__name__)

REST_SECONDS: Final = 0.2  # between two looks: five looks a second at most, two statements each
QUIET_SECONDS: Final = 0.5  # the longest time without a look, and until a stop is noticed
FIRST_WAIT_SECONDS: Final = 0.5
LONGEST_WAIT_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 3.0

_LISTEN = text(f"LISTEN {requests.CHANNEL}")


class Listener:
    """Calls ``wake`` when deletions were asked for, on a thread of its own, until ``close``.

    ``engine`` commits each statement by itself (``autocommit``), so that no transaction stays open; it is the listener's own.
    """

    def __init__(self, engine: Engine, wake: Callable[[], None]) -> None:
        self._engine = engine
        self._wake = wake
        self._lost = Episode("listener_lost_the_database")
        self._stopping = threading.Event()
        self._thread = VitalThread(self._run, name="listener", may_end=self._stopping.is_set)
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
                    connection.execute(_LISTEN)  # before the first look: a request in between is heard
                    self._hear(connection)
            except Exception as error:  # noqa: BLE001  (a thread's border; the driver's own errors come through here bare)
                begins = self._lost.goes_on(error=type(error).__name__, why=db.why(error))
                wait_seconds = FIRST_WAIT_SECONDS if begins else min(2 * wait_seconds, LONGEST_WAIT_SECONDS)
                self._stopping.wait(wait_seconds)
        with contextlib.suppress(SQLAlchemyError):
            self._engine.dispose()

    def _hear(self, connection: Connection) -> None:
        """Look, rest, and wait for a notice, until told to stop. Raises the driver's error when the session is lost."""
        driver: Any = connection.connection.driver_connection
        try:
            noticed = is_listening = False
            while not self._stopping.is_set():
                self._look(connection)
                self._lost.is_over()  # not sooner: a database that lets us in may refuse the look, again and again
                if not is_listening:
                    log.info("listening")
                    is_listening = True
                meanwhile = _read_notices(driver, REST_SECONDS) if noticed else 0
                noticed = bool(meanwhile or _read_notices(driver, QUIET_SECONDS, stop_after=1))
        finally:
            connection.invalidate()  # a session that listens must not go back to the pool

    def _look(self, connection: Connection) -> None:
        """Number what waits, then wake for what was asked for: a worker that calls holds the customer for a while."""
        try:
            feed.number_waiting(connection)
        finally:
            if transitions.newly_asked(connection):
                self._wake()


def _read_notices(driver: Any, seconds: float, *, stop_after: int | None = None) -> int:
    """Read notices for that long, or up to the first one, and throw them away; return how many there were."""
    return sum(1 for _ in driver.notifies(timeout=seconds, stop_after=stop_after))
