"""A load generator: on each of its connections it sends its next request as soon as it has its answer.

The rules: one thread, no allocation to speak of and no JSON between two requests, so that the generator takes as little as
it can of the cores it shares with what it measures; every answer but a 200 ends the run. Requests are made beforehand and
each is sent once.
"""

from __future__ import annotations

import gc
import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

SILENCE_SECONDS: Final = 20.0  # more than Ottu's own patience: a server that says nothing for that long has failed
_END_OF_HEAD: Final = b"\r\n\r\n"
_LENGTH: Final = b"\r\ncontent-length:"
_LAST_CHUNK: Final = b"0\r\n\r\n"


class NotAcknowledgedError(Exception):
    """An answer was not a 200, or none came."""


@dataclass(slots=True)
class Measured:
    """One round: how many requests were answered 200, in what time, and how long each took."""

    acknowledged: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)  # seconds
    ran_out: bool = False  # there were too few requests for the time
    processor: dict[str, float] = field(default_factory=dict)  # seconds of each part that was measured


def drive(address: tuple[str, int], requests: Sequence[bytes], *, connections: int, seconds: float) -> Measured:
    """Send ``requests`` for ``seconds``; those under way at the end are waited for, and count.

    Raises ``NotAcknowledgedError``.
    """
    waiting = iter(requests)
    measured = Measured()
    gc.disable()  # a collection over tens of thousands of prepared bodies would show as a stall of the server
    began = time.perf_counter()
    try:
        _run(address, waiting, measured, connections, began + seconds)
    finally:
        gc.enable()
    measured.seconds = time.perf_counter() - began
    return measured


def _run(
    address: tuple[str, int], waiting: Iterator[bytes], measured: Measured, connections: int, deadline: float
) -> None:
    with selectors.DefaultSelector() as selector:
        lines = [Line(address) for _ in range(connections)]
        try:
            for line in lines:
                if _send_next(line, waiting, measured):
                    selector.register(line.socket, selectors.EVENT_READ, line)
            while selector.get_map():
                ready = selector.select(SILENCE_SECONDS)
                if not ready:
                    raise NotAcknowledgedError(f"no answer within {SILENCE_SECONDS:g} seconds")
                for key, _ in ready:
                    _go_on(key.data, selector, waiting, measured, deadline)
        finally:
            for line in lines:
                line.socket.close()


def _go_on(
    line: Line, selector: selectors.BaseSelector, waiting: Iterator[bytes], measured: Measured, deadline: float
) -> None:
    """Read what is there; after a whole answer, send the next request unless time is over."""
    if not line.read():
        return
    now = time.perf_counter()
    measured.latencies.append(now - line.sent_at)
    measured.acknowledged += 1
    if line.closing or now >= deadline:
        selector.unregister(line.socket)
        line.socket.close()
    if now >= deadline:
        return
    if line.closing:
        if _send_next(line, waiting, measured):
            selector.register(line.socket, selectors.EVENT_READ, line)
    elif not _send_next(line, waiting, measured):
        selector.unregister(line.socket)


def _send_next(line: Line, waiting: Iterator[bytes], measured: Measured) -> bool:
    request = next(waiting, None)
    if request is None:
        measured.ran_out = True
        return False
    line.send(request)
    return True


class Line:
    """One connection; opened again where the server closes it after each answer, at the expense of that request's time."""

    __slots__ = ("_address", "_received", "closing", "sent_at", "socket")

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._received = b""
        self.closing = True
        self.sent_at = 0.0
        self.socket = socket.socket()

    def send(self, request: bytes) -> None:
        """Send a request."""
        self.sent_at = time.perf_counter()
        if self.closing:
            self.open()
        self.socket.sendall(request)

    def open(self) -> None:
        """Connect, in place of the connection before."""
        self.socket.close()
        self.socket = socket.create_connection(self._address, timeout=SILENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.closing = False

    def read(self) -> bool:
        """Whether the answer is whole now. Raises ``NotAcknowledgedError`` if it is none, or not a 200."""
        data = self.socket.recv(65_536)
        received = self._received = self._received + data
        end = received.find(_END_OF_HEAD)
        if end < 0:
            if not data:
                raise NotAcknowledgedError("the connection was cut")
            return False
        head = received[:end].lower()
        if received[9:12] != b"200":
            raise NotAcknowledgedError(received[:400].decode("latin-1"))
        if not _is_whole(head, received[end + len(_END_OF_HEAD) :]):
            if not data:
                raise NotAcknowledgedError("the connection was cut")
            return False
        self._received = b""
        self.closing = b"\r\nconnection: close" in head
        return True


def _is_whole(head: bytes, content: bytes) -> bool:
    if b"\r\ntransfer-encoding: chunked" in head:
        return content.endswith(_LAST_CHUNK)
    at = head.find(_LENGTH)
    if at < 0:
        raise NotAcknowledgedError("an answer without a length")
    return len(content) >= int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0])


class Pace:
    """Requests one at a time on one connection, for where single times matter and not the rate."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._line = Line(address)

    def send(self, request: bytes) -> tuple[float, float]:
        """Send one and wait for its 200; when it was sent, and when answered (``time.perf_counter``)."""
        self._line.send(request)
        while not self._line.read():
            pass
        return self._line.sent_at, time.perf_counter()

    def close(self) -> None:
        """Close the connection."""
        self._line.socket.close()
