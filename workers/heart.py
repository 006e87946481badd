"""The heart of a process: a thread that says every few seconds that the process is at work.

It says so only while that is true. If a thread has ended, the process ends too (``cardsync.threads``). If a loop with a ``Pulse``
stands still, there is no heartbeat, and ``cardsync health`` says so.

The heart waits for nothing but its own statement, which has a time-out. A database that is away is no sign of illness: there is
no heartbeat then, and ``cardsync health`` cannot ask for one either.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from cardsync.store import heartbeats
from cardsync.store.heartbeats import Kind, Process
from cardsync.threads import VitalThread, before_end

log = structlog.get_logger(__name__)

STANDS_STILL_SECONDS: Final = 20.0  # a turn of the beat's loop waits for one statement and one message
CLOSE_SECONDS: Final = 1.0


def this_process(kind: Kind) -> Process:
    """This process: its host's name, and its number there."""
    return Process(kind, heartbeats.this_host(), os.getpid())


class Pulse:
    """A loop calls ``turn`` each time round; ``is_beating`` is false once it stands still."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._at = now()

    def turn(self) -> None:
        """Say that the loop goes on."""
        self._at = self._now()

    def is_beating(self) -> bool:
        """Whether the last turn is recent."""
        return self._now() - self._at < STANDS_STILL_SECONDS


class Heart:
    """Writes heartbeats on a thread of its own until ``close``, or until the process ends itself.

    ``connections`` are the most that the process may hold. While ``is_there`` is false, nothing is written.
    """

    def __init__(
        self,
        engine: Engine,
        process: Process,
        *,
        pulse: Pulse | None = None,
        connections: int | None = None,
        is_there: Callable[[], bool] = lambda: True,
    ) -> None:
        self._engine, self._process, self._pulse = engine, process, pulse
        self._connections, self._is_there = connections, is_there
        is_shown = process.kind in heartbeats.SHOWN
        self._every_seconds = heartbeats.SHOWN_EVERY_SECONDS if is_shown else heartbeats.EVERY_SECONDS
        self._stopping = threading.Event()
        self._thread = VitalThread(self._run, name="heart", may_end=self._stopping.is_set)
        self._take_back = before_end(self._leave)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Stop, and remove the row: a process that was told to stop is not missed."""
        self._take_back()
        self._leave()

    def _leave(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)
        if not self._is_there():
            return
        with contextlib.suppress(SQLAlchemyError), self._engine.begin() as connection:
            heartbeats.leave(connection, self._process)

    def _run(self) -> None:
        while not self._stopping.is_set():
            if self._is_there() and (self._pulse is None or self._pulse.is_beating()):
                self._beat()
            self._stopping.wait(self._every_seconds)

    def _beat(self) -> None:
        try:
            with self._engine.begin() as connection:
                heartbeats.beat(connection, self._process, here=dt.datetime.now(dt.UTC), connections=self._connections)
        except Exception as error:  # noqa: BLE001  (a thread's border; that the database is away is logged by those who need it)
            log.debug("no_heartbeat", error=type(error).__name__)
