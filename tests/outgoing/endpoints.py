"""An endpoint on a socket of its own: it says what a test wants, byte by byte, also what no server of HTTP would.

Each connection has a thread, which reads a request (its body is always ``{}``), notes it, and lets the test's function answer.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

Serve = Callable[[socket.socket], object]


class Endpoint:
    """Listens until ``close``. ``serve`` is called with the connection after each request that came on it."""

    def __init__(self, serve: Serve) -> None:
        self.requests = list[bytes]()
        self.connections = self.closed = 0
        self._serve = serve
        self._kept = list[socket.socket]()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/hook"

    def close(self) -> None:
        """Listen no more, and end every connection."""
        for one in (self._listening, *self._kept):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for it
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self.connections += 1
                self._kept.append(connection)
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the other side has read enough, or the test closed it
            while request := self._read(connection):
                self.requests.append(request)
                self._serve(connection)
        connection.close()
        self.closed += 1

    @staticmethod
    def _read(connection: socket.socket) -> bytes:
        request = b""
        while not request.endswith(b"{}") and (block := connection.recv(65_536)):
            request += block
        return request


def answer(status: str, *headers: str, body: bytes = b"", stays: bool = False) -> bytes:
    """A whole answer; with ``stays`` it doesn't say that the connection will be closed."""
    ends = () if stays else ("Connection: close",)
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", *ends, "", ""]
    return "\r\n".join(lines).encode() + body


def says(answer: bytes) -> Serve:
    """Say this, and close the connection."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(answer)
        connection.close()

    return serve


def hangs(_: socket.socket) -> None:
    """Say nothing, and keep the connection."""
