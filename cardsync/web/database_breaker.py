"""Whether PostgreSQL takes hints at the moment: a breaker, so that one payer finds out and the others do not wait.

A caller whose write fails opens the breaker (``trip``). From then on only a probe asks the database: it writes as a hint is
written, undoes that and commits, since a commit alone waits for a synchronous standby. The first probe that works in time closes
the breaker. A connection that is in use for too long is cut,
also one of a reader: a frozen server, or a network that swallows packets, ends no wait by itself, and the few threads of the
API would all wait for a frozen server and answer no request until it wakes.

Where the standby is away, each commit leaves a session behind that waits for as long as the standby is away, and PostgreSQL has a
bounded number of them. So no probe writes while sessions of our login wait, and what readers ask may write nothing meanwhile.
Each process leaves a few sessions behind, not one a second.

Rules: nothing here waits for the database on the thread of a caller. The two threads outlive every error: without the watcher,
or with probes that are counted and gone, the database would be away for this process until it is restarted.
"""

from __future__ import annotations

import threading
import time
from typing import Final

import structlog
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cardsync import db
from cardsync.db.connection_watchdog import ConnectionWatchdog
from cardsync.db.reasons import OTHER
from cardsync.store import intake
from cardsync.store.ops import replication
from cardsync.threads import VitalThread
from cardsync.web.rate_limits import RateLimitedLog

log = structlog.get_logger(__name__)

# A payer waits two seconds at the most: one for the database, and the rest is for the disk.
WRITE_SECONDS: Final = 1.0
CUT_SECONDS: Final = (
    1.25  # the hint has gone to disk by then, and a server that is merely slow has ended the statement itself
)
# Readers may ask several questions of a server that is there, each with its own time-out; one that is lost gets less.
READERS_CUT_SECONDS: Final = 30.0
READERS_CUT_SECONDS_WHILE_LOST: Final = 2.0
TICK_SECONDS: Final = 0.25
PROBE_EVERY_SECONDS: Final = 0.5
# Half of what a hint is given, for the same one statement: a database that is slower than this is not there yet. Connecting is
# not part of it: ten round trips and more to a server in another zone, and a hint finds a connection in the pool.
PROBE_SECONDS: Final = 0.5
# Connecting to a frozen server takes until its time-out: at most this many hang, and each may be the first to get through.
PROBES_AT_ONCE: Final = 4
INGEST_CONNECTIONS: Final = PROBES_AT_ONCE + 3  # ... beside the two that write and the one that drains


class DatabaseBreaker:
    """The breaker of one process. ``engine`` is the one that hints are written with, ``readers`` the one for all the rest.

    Connections of both may be cut.
    """

    def __init__(self, engine: Engine, *, readers: Engine) -> None:
        self._engine = engine
        self._watchdog = ConnectionWatchdog(engine)
        self._readers_watchdog = ConnectionWatchdog(readers)
        self._lock = threading.Lock()
        self._is_there = True
        self._outage = 0
        self._lost_at = 0.0
        self._probes = 0
        self._probed_at = float("-inf")
        self._watcher: threading.Thread | None = None
        self._closed = threading.Event()
        self._trouble = RateLimitedLog(1)
        self._commits_wait = False
        self._why: str | None = None  # the reason of the last failure, if it is known
        event.listen(readers, "begin", self._write_nothing_in_vain)

    @property
    def is_closed(self) -> bool:
        """Whether it is worth asking."""
        return self._is_there

    @property
    def trouble(self) -> str:
        """What is known of a database that takes no hints."""
        if self._commits_wait:
            return "waits for its synchronous standby"
        why = self._why
        return "takes no hints at the moment" + (f": {why}" if why else "")

    def trip(self, error: Exception) -> None:
        """Say that it does not take hints. Returns at once; saying it again does no harm."""
        self.start()
        with self._lock:
            if not self._is_there:
                return
            self._is_there = False
            self._outage += 1
            self._lost_at = self._probed_at = time.monotonic()
            self._note_why(error)
        state = getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None
        log.warning("database_lost", error=type(error).__name__, sqlstate=state, why=db.why(error))

    def start(self) -> None:
        """Begin to watch over the connections, in the process that uses them."""
        with self._lock:
            if self._watcher is None and not self._closed.is_set():
                watcher = VitalThread(self._watch, name="database-breaker", may_end=self._closed.is_set)
                watcher.start()
                self._watcher = watcher  # only one that runs

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(TICK_SECONDS):
            try:
                self._look_after()
            except Exception as error:  # noqa: BLE001  (a thread's border: no thread can be had now, say)
                self._trouble.warning("database_not_watched", error=type(error).__name__)

    def _look_after(self) -> None:
        """Cut what hangs, and probe a database that is away."""
        self._watchdog.cut(in_use_seconds=CUT_SECONDS)
        patience_seconds = READERS_CUT_SECONDS if self._is_there else READERS_CUT_SECONDS_WHILE_LOST
        if self._readers_watchdog.cut(in_use_seconds=patience_seconds):
            self.trip(TimeoutError())  # a commit that no hint found out about, perhaps; a probe knows in half a second
        with self._lock:
            due = not self._is_there and time.monotonic() - self._probed_at >= PROBE_EVERY_SECONDS
            if not due or self._probes >= PROBES_AT_ONCE:
                return
            probe = threading.Thread(target=self._probe, args=(self._outage,), name="database-probe", daemon=True)
            self._probed_at = time.monotonic()
            probe.start()
            self._probes += 1

    def _probe(self, outage: int) -> None:
        works = False
        try:
            works = self._works()
        except Exception as error:  # noqa: BLE001  (a thread's border; the driver's own errors come through here bare)
            self._trouble.warning("database_not_probed", error=type(error).__name__)
        finally:
            with self._lock:
                self._probes -= 1
        if works:
            self._note_back(outage)

    def _note_back(self, outage: int) -> None:
        with self._lock:
            if self._is_there or outage != self._outage:
                return
            self._is_there, self._commits_wait = True, False
            away_seconds = time.monotonic() - self._lost_at
        log.warning("database_back", away_seconds=round(away_seconds, 1))

    def _works(self) -> bool:
        """Whether a write succeeds in time. What the pool holds may have died with the server: then a new session is asked."""
        try:
            took_seconds = db.once_more_if_the_connection_was_dead(self._try_out_seconds)
        except SQLAlchemyError as error:
            self._note_why(error)
            return False
        return took_seconds is not None and took_seconds <= PROBE_SECONDS

    def _note_why(self, error: Exception) -> None:
        """Keep the reason for those who ask; it changes while a server starts, say, or turns out to be read-only."""
        found = db.why(error)
        self._why = None if found == OTHER else found

    def _try_out_seconds(self) -> float | None:
        """How long a write or its commit took; ``None`` if none was tried, since others wait for a standby."""
        with self._engine.connect().execution_options(isolation_level="READ COMMITTED") as connection:
            if self._waits_for_a_standby(connection):
                return None
            began = time.monotonic()
            intake.try_out(connection)
            written = time.monotonic()
            connection.commit()
            return max(written - began, time.monotonic() - written)

    def _waits_for_a_standby(self, connection: Connection) -> bool:
        waiting = replication.commits_that_wait(connection, longer_than_seconds=PROBE_SECONDS)
        if waiting and not self._commits_wait:
            log.warning("database_waits_for_standby", sessions=waiting)
        self._commits_wait = waiting > 0
        return self._commits_wait

    def _write_nothing_in_vain(self, connection: Connection) -> None:
        """Let a reader's transaction fail where it writes, as on a standby, rather than wait for its commit."""
        if self._commits_wait:
            connection.connection.cursor().execute("SET TRANSACTION READ ONLY")
