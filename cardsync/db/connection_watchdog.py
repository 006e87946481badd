"""Connections that can be cut from another thread: a thread that hangs on PostgreSQL is freed in a bounded time.

Why: a server that is frozen, and a network that swallows packets behind a live proxy, keep acknowledging. No time-out of the
server's fires and no keepalive of the kernel's; the thread that waits for an answer would wait for ever. The web's breaker cuts
within a second, because a payer waits there (``web.database_breaker``). In all other processes ``WatchdogThread`` cuts.

A commit that waits for a synchronous standby looks the same from here, and must not be cut: its session stays in the server for
as long as the standby is away, and each new try would leave one more, until the server takes no more. So the thread first asks
the server, in a session of its own, whether commits of this login wait. A server that gives no answer is silent.

Rule: each connection's socket is held by a second descriptor until the connection is closed, so that a cut never
hits another socket that got the same number.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

import structlog
from psycopg import Error as DriverError
from sqlalchemy import Connection, Engine, event

from cardsync.db.address import Place
from cardsync.db.session import STATEMENT_TIMEOUT_MS, Sessions, ask_in_time
from cardsync.episodes import Episode
from cardsync.threads import VitalThread

log = structlog.get_logger(__name__)

# The server ends a statement after five seconds, and a network that lost its answer is late by less than that.
SILENT_SECONDS: Final = 12.0
TICK_SECONDS: Final = 1.0
_COMMITS_WAIT: Final = """
    SELECT count(*) FROM pg_stat_activity
    WHERE usename = current_user AND datname = current_database() AND wait_event = 'SyncRep'
        AND clock_timestamp() - query_start > interval '1 second'
"""


@dataclass(slots=True)
class _Use:
    """A connection's socket, and since when its user waits."""

    line: socket.socket
    since: float


class ConnectionWatchdog:
    """Knows which of an engine's connections are in use, and since when.

    With ``by_statement`` the time counts from the last statement that was sent, so that a long transaction of short statements
    is not cut, and neither is a session that listens.
    """

    def __init__(self, engine: Engine, *, by_statement: bool = False) -> None:
        self._lock = threading.Lock()
        self._in_use: dict[int, _Use] = {}
        # First of all: what SQLAlchemy asks a new server may hang too.
        event.listen(engine, "connect", self._connected, insert=True)
        event.listen(engine, "checkout", self._taken)
        event.listen(engine, "checkin", self._given_back)
        event.listen(engine, "close", self._closing)
        if by_statement:
            event.listen(engine, "before_cursor_execute", self._goes_on)
            event.listen(engine, "commit", self._goes_on)

    def stuck(self, *, in_use_seconds: float) -> int:
        """How many are in use for longer than this."""
        with self._lock:
            return len(self._older_than(in_use_seconds))

    def cut(self, *, in_use_seconds: float) -> int:
        """Cut those that are in use for longer than this; how many. Their users get an ``OperationalError``."""
        with self._lock:
            stuck = self._older_than(in_use_seconds)
            for use in stuck:
                with contextlib.suppress(OSError):  # the other side has closed it already
                    use.line.shutdown(socket.SHUT_RDWR)
        return len(stuck)

    def _older_than(self, seconds: float) -> list[_Use]:
        since = time.monotonic() - seconds
        return [use for use in self._in_use.values() if use.since <= since]

    def _connected(self, connection: Any, record: Any) -> None:
        record.info[self] = _Use(socket.socket(fileno=os.dup(connection.fileno())), 0.0)
        self._taken(connection, record, None)

    def _taken(self, _connection: Any, record: Any, _proxy: Any) -> None:
        with self._lock:
            if self in record.info:  # else it was made before this object
                use = record.info[self]
                use.since = time.monotonic()
                self._in_use[id(record)] = use

    def _goes_on(self, connection: Connection, *_: object) -> None:
        use = connection.connection.info.get(self)
        if use is not None:
            use.since = time.monotonic()

    def _given_back(self, _connection: Any, record: Any) -> None:
        with self._lock:
            self._in_use.pop(id(record), None)

    def _closing(self, _connection: Any, record: Any) -> None:
        with self._lock:
            self._in_use.pop(id(record), None)
            use = record.info.pop(self, None)
            if use is not None:
                use.line.close()


class WatchdogThread:
    """Cuts the connections of ``engines`` on which a statement got no answer for ``silent_seconds``, until ``close``.

    ``place`` is where to ask whether commits wait for a standby; without it nothing is asked, as for engines that only read.
    """

    def __init__(self, *engines: Engine, place: Place | None, silent_seconds: float = SILENT_SECONDS) -> None:
        self._watchdogs = [ConnectionWatchdog(engine, by_statement=True) for engine in engines]
        self._silent_seconds = silent_seconds
        timeout = {"statement_timeout": str(STATEMENT_TIMEOUT_MS)}
        self._asking = None if place is None else Sessions(place, name="cardsync watchdog", settings=timeout)
        self._fails = Episode("connections_not_watched", level="error")
        self._stopping = threading.Event()
        self._thread = VitalThread(self._run, name="connection-watchdog", may_end=self._stopping.is_set)
        self._thread.start()

    def close(self) -> None:
        """Stop watching; a question that is under way ends by itself."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(min(TICK_SECONDS, self._silent_seconds / 2)):
            try:
                self._look_after()
            except Exception as error:  # noqa: BLE001  (a thread's border)
                self._fails.goes_on(error=type(error).__name__)
            else:
                self._fails.is_over()

    def _look_after(self) -> None:
        if not any(one.stuck(in_use_seconds=self._silent_seconds) for one in self._watchdogs) or self._commits_wait():
            return
        cut = sum(one.cut(in_use_seconds=self._silent_seconds) for one in self._watchdogs)
        if cut:
            log.warning("connections_cut", connections=cut, because="the database gave no answer")

    def _commits_wait(self) -> bool:
        """Whether the server answers, and says that commits of this login wait for a standby."""
        if self._asking is None:
            return False
        try:
            with contextlib.closing(self._asking.open()) as session:
                return int(ask_in_time(session, _COMMITS_WAIT)[0] or 0) > 0
        except DriverError:
            return False
