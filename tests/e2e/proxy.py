"""A TCP proxy on loopback that a test can cut, as a broken network does, or freeze, as one that swallows packets."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Final

from cardsync.dev.ports import free_port

CHUNK_BYTES: Final = 65_536
RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER that closes with a reset, as a crash of the other side does


class TcpProxy:
    """Passes connections on to ``target``, on the same ``port`` through all cuts."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.port = free_port()
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
                far = socket.create_connection(self._target, timeout=2)
                far.settimeout(None)
            except OSError:
                _reset(near)
                continue
            with self._lock:
                self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), name="proxy-pump", daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                self._flowing.wait()
                if source not in self._lost:
                    sink.sendall(data)
        with self._lock:
            self._open -= {source, sink}
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # the other pump, waiting in recv, ends with it


def _reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        end.shutdown(socket.SHUT_RDWR)
    end.close()
