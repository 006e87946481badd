"""A TCP proxy on loopback that a test can cut, as a broken network does, freeze, as one that swallows packets, or slow down."""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
import time
from typing import Final

from cardsync.dev.servers.ports import free_port

CHUNK_BYTES: Final = 65_536
RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER that closes with a reset, as a crash of the other side does


class TcpProxy:
    """Passes connections on to ``target``, on the same ``port`` through all cuts.

    With ``one_way_seconds`` every byte arrives that much later, each way, as from a server in another zone: what is sent
    meanwhile is on its way at the same time.
    """

    def __init__(self, target: tuple[str, int], *, one_way_seconds: float = 0.0) -> None:
        self.port = free_port()
        self._one_way_seconds = one_way_seconds
        self._target = target
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._lost: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.join()

    def join(self) -> None:
        """Undo ``cut``."""
        self._listener = listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        threading.Thread(target=self._accept, args=(listener,), name="proxy", daemon=True).start()

    def cut(self) -> None:
        """Refuse new connections and reset those there are."""
        self.thaw()
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts; closing alone does not
            listener.close()
        with self._lock:
            for end in self._open:
                _reset(end)
            self._open.clear()

    def freeze(self) -> None:
        """Keep all connections open, take new ones, and pass nothing on."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Undo ``freeze``; what was swallowed is passed on now."""
        self._flowing.set()

    def lose(self) -> None:
        """Swallow all that comes on the connections there are, and say nothing; new ones are passed on."""
        with self._lock:
            self._lost |= self._open

    def find(self) -> None:
        """End what ``lose`` left: its ends learn that there is nobody."""
        with self._lock:
            for end in self._lost:
                _reset(end)
            self._open -= self._lost
            self._lost.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target, timeout=30)
                far.settimeout(None)
            except OSError:
                _reset(near)
                continue
            with self._lock:
                self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), name="proxy-pump", daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        if self._one_way_seconds > 0:
            self._pump_late(source, sink)
        else:
            with contextlib.suppress(OSError):
                while data := source.recv(CHUNK_BYTES):
                    self._pass_on(source, sink, data)
        self._end(source, sink)

    def _pump_late(self, source: socket.socket, sink: socket.socket) -> None:
        """Read on one thread and write on this one, so that what follows does not wait for what is on its way."""
        on_its_way = _OnItsWay()

        def read() -> None:
            data = b""
            with contextlib.suppress(OSError):
                while data := source.recv(CHUNK_BYTES):
                    on_its_way.put((time.monotonic() + self._one_way_seconds, data))
            on_its_way.put((0.0, b""))

        threading.Thread(target=read, name="proxy-read", daemon=True).start()
        with contextlib.suppress(OSError):
            while True:
                arrives_at, data = on_its_way.get()
                if not data:
                    return
                time.sleep(max(0.0, arrives_at - time.monotonic()))
                self._pass_on(source, sink, data)

    def _pass_on(self, source: socket.socket, sink: socket.socket, data: bytes) -> None:
        self._flowing.wait()
        if source not in self._lost:
            sink.sendall(data)

    def _end(self, source: socket.socket, sink: socket.socket) -> None:
        with self._lock:
            self._open -= {source, sink}
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # the other pump, waiting in recv, ends with it


class _OnItsWay(queue.SimpleQueue["tuple[float, bytes]"]):
    """What was read, and when it is to arrive; no bytes are the end."""


class CuttingProxy(TcpProxy):
    """Cuts all connections at its ``nth`` message, from either side, and takes new ones half a second later."""

    AWAY_SECONDS: Final = 0.5

    def __init__(self, target: tuple[str, int], nth: int) -> None:
        self.was_cut = threading.Event()
        self._left, self._counting = nth, threading.Lock()
        super().__init__(target)

    def _pass_on(self, source: socket.socket, sink: socket.socket, data: bytes) -> None:
        with self._counting:
            self._left -= 1
            is_the_one = self._left == 0
        if is_the_one:
            self.cut()
            threading.Timer(self.AWAY_SECONDS, self._come_back).start()
        else:
            super()._pass_on(source, sink, data)

    def _come_back(self) -> None:
        self.join()
        self.was_cut.set()


def _reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        end.shutdown(socket.SHUT_RDWR)
    end.close()
