"""Whether PostgreSQL takes hints at the moment: a breaker, so that one payer finds out and the others do not wait.

Whoever finds that it does not says so (``lost``). From then on nobody asks it but a probe, which writes as a hint is written
and undoes it; the first that works in time lets everybody through again. A connection that is in use for too long is cut,
whoever uses it: a frozen server, or a network that swallows packets, frees nobody by itself. That goes for readers too: the
few threads of the API, all waiting for a frozen server, would answer nobody until it wakes.

Rule: nothing here waits for the database on the thread of a caller.
"""

from __future__ import annotations

import threading
import time
from typing import Final

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cardsync.lifelines import Lifelines
from cardsync.store import inbox

log = structlog.get_logger(__name__)

# A payer waits two seconds at the most: one for the database, and the rest is for the disk.
WRITE_SECONDS: Final = 1.0
CUT_SECONDS: Final = 1.25  # who waits has gone by then, and a server that is merely slow has ended the statement itself
# Readers may ask several questions of a server that is there, each with its own time-out; one that is lost gets less.
READERS_CUT_SECONDS: Final = 30.0
READERS_CUT_SECONDS_WHILE_LOST: Final = 2.0
TICK_SECONDS: Final = 0.25
PROBE_EVERY_SECONDS: Final = 0.5
PROBE_SECONDS: Final = 0.5  # half of what a hint is given: a database that is slower than this is not there yet
# Connecting to a frozen server takes until its time-out: so many hang at the most, and each may be the first to get through.
PROBES_AT_ONCE: Final = 4
INGEST_CONNECTIONS: Final = PROBES_AT_ONCE + 2  # ... beside the one that writes and the one that drains


class Reach:
    """The breaker of one process. ``engine`` is the one that hints are written with, ``readers`` the one for all the rest.

    Connections of both may be cut.
    """

    def __init__(self, engine: Engine, *, readers: Engine) -> None:
        self._engine = engine
        self._lifelines = Lifelines(engine)
        self._readers_lifelines = Lifelines(readers)
        self._lock = threading.Lock()
        self._is_there = True
        self._outage = 0
        self._lost_at = 0.0
        self._probes = 0
        self._probed_at = float("-inf")
        self._watcher: threading.Thread | None = None
        self._closed = threading.Event()

    @property
    def is_there(self) -> bool:
        """Whether it is worth asking."""
        return self._is_there

    def lost(self, error: Exception) -> None:
        """Say that it does not take hints. Returns at once; saying it again does no harm."""
        self.start()
        with self._lock:
            if not self._is_there:
                return
            self._is_there = False
            self._outage += 1
            self._lost_at = self._probed_at = time.monotonic()
        state = getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None
        log.warning("database_lost", error=type(error).__name__, sqlstate=state)

    def start(self) -> None:
        """Begin to watch over the connections, in the process that uses them."""
        with self._lock:
            if self._watcher is None and not self._closed.is_set():
                self._watcher = threading.Thread(target=self._watch, name="reach", daemon=True)
                self._watcher.start()

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(TICK_SECONDS):
            self._lifelines.cut(in_use_seconds=CUT_SECONDS)
            patience_seconds = READERS_CUT_SECONDS if self._is_there else READERS_CUT_SECONDS_WHILE_LOST
            self._readers_lifelines.cut(in_use_seconds=patience_seconds)
            with self._lock:
                due = not self._is_there and time.monotonic() - self._probed_at >= PROBE_EVERY_SECONDS
                if not due or self._probes >= PROBES_AT_ONCE:
                    continue
                self._probes += 1
                self._probed_at = time.monotonic()
            threading.Thread(target=self._probe, args=(self._outage,), name="reach-probe", daemon=True).start()

    def _probe(self, outage: int) -> None:
        works = self._works()
        with self._lock:
            self._probes -= 1
            if not works or self._is_there or outage != self._outage:
                return
            self._is_there = True
            away_seconds = time.monotonic() - self._lost_at
        log.warning("database_back", away_seconds=round(away_seconds, 1))

    def _works(self) -> bool:
        for _ in range(2):  # what the pool holds may have died with the server
            began = time.monotonic()
            try:
                with self._engine.connect().execution_options(isolation_level="READ COMMITTED") as connection:
                    inbox.try_out(connection)
                    connection.rollback()
            except SQLAlchemyError as error:
                if not (isinstance(error, DBAPIError) and error.connection_invalidated):
                    return False
            else:
                return time.monotonic() - began <= PROBE_SECONDS
        return False
