"""Connections that can be cut from another thread: a thread that hangs on PostgreSQL is freed in a bounded time.

Why: a server that is frozen, and a network that swallows packets behind a live proxy, keep acknowledging. No time-out of the
server's fires and no keepalive of the kernel's; the thread that waits for an answer would wait for ever.

Rule: each connection's socket is held by a second descriptor until the connection is closed, so that a cut never
hits another socket that got the same number.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import Any

from sqlalchemy import Engine, event


class ConnectionWatchdog:
    """Knows which of an engine's connections are in use, and since when."""

    def __init__(self, engine: Engine) -> None:
        self._lock = threading.Lock()
        self._in_use: dict[int, tuple[float, socket.socket]] = {}
        # First of all: what SQLAlchemy asks a new server may hang too.
        event.listen(engine, "connect", self._connected, insert=True)
        event.listen(engine, "checkout", self._taken)
        event.listen(engine, "checkin", self._given_back)
        event.listen(engine, "close", self._closing)

    def cut(self, *, in_use_seconds: float) -> int:
        """Cut those that are in use for longer than this; how many. Their users get an ``OperationalError``."""
        since = time.monotonic() - in_use_seconds
        with self._lock:
            stuck = [line for taken_at, line in self._in_use.values() if taken_at <= since]
            for line in stuck:
                with contextlib.suppress(OSError):  # the other side has closed it already
                    line.shutdown(socket.SHUT_RDWR)
        return len(stuck)

    def _connected(self, connection: Any, record: Any) -> None:
        record.info[self] = socket.socket(fileno=os.dup(connection.fileno()))
        self._taken(connection, record, None)

    def _taken(self, _connection: Any, record: Any, _proxy: Any) -> None:
        with self._lock:
            if self in record.info:  # else it was made before this object
                self._in_use[id(record)] = (time.monotonic(), record.info[self])

    def _given_back(self, _connection: Any, record: Any) -> None:
        with self._lock:
            self._in_use.pop(id(record), None)

    def _closing(self, _connection: Any, record: Any) -> None:
        with self._lock:
            self._in_use.pop(id(record), None)
            line = record.info.pop(self, None)
            if line is not None:
                line.close()
