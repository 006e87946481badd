"""What bounds a call: its times, on a clock that a test moves, and how much of an answer is read."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Final

import pytest

from cardsync.core.delivery import CALL_SECONDS
from cardsync.outgoing import sender as sender_module
from cardsync.outgoing.sender import ANSWER_BYTES, ANSWER_SECONDS, CONNECT_SECONDS, Ended, Message, Sender
from tests.outgoing.clocks import SECONDS, StandingClock
from tests.outgoing.endpoints import Endpoint, answer, hangs
from tests.waiting import until

BLOCK: Final = b"x" * 65_536
STREAM_MAX: Final = 1_024 * len(BLOCK)  # far more than the buffers of two sockets hold
CUT_OFF: Final = b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"  # a part of a body, and no more
TOO_LATE: Final = Ended(None, "no answer in time")


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def sender(clock: StandingClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sender]:
    with monkeypatch.context() as patched:
        patched.setattr("asyncio.new_event_loop", lambda: clock)
        made = Sender()
    yield made
    made.close()


def post(url: str) -> Message:
    return Message(url, {}, b"{}")


def test_the_bounds_are_those_that_the_documents_name() -> None:
    assert (CALL_SECONDS, CONNECT_SECONDS, ANSWER_BYTES) == (10.0, 5.0, 64 * 1_024)
    assert ANSWER_SECONDS < CALL_SECONDS


@pytest.mark.parametrize(("seconds", "ended"), [(9.0, Ended(200)), (9.99, Ended(200)), (10.01, TOO_LATE)])
def test_an_answer_within_ten_seconds_is_taken_and_a_later_one_is_not(
    clock: StandingClock, sender: Sender, seconds: float, ended: Ended
) -> None:
    may_answer = threading.Event()

    def serve(connection: socket.socket) -> None:
        may_answer.wait()
        connection.sendall(answer("200 OK"))

    with closing(Endpoint(serve)) as endpoint:
        under_way = sender.send(post(endpoint.url))
        until(lambda: endpoint.requests, "the message arrives")
        clock.move(seconds)
        assert under_way.done() is (ended == TOO_LATE)
        may_answer.set()
        assert under_way.result(SECONDS) == ended


def test_a_call_has_ten_seconds_in_all_however_often_something_comes(clock: StandingClock, sender: Sender) -> None:
    parts: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def serve(connection: socket.socket) -> None:
        while part := parts.get():
            connection.sendall(part)

    with closing(Endpoint(serve)) as endpoint:
        under_way = sender.send(post(endpoint.url))
        until(lambda: endpoint.requests, "the message arrives")
        for part in (b"HTTP/1.1 200 OK\r\n", b"X-More: to come\r\n"):
            asked = len(clock.bounds)
            parts.put(part)
            until(lambda before=asked: len(clock.bounds) > before, "the part is read, and the next one is waited for")
            clock.move(4.9)
        assert not under_way.done()
        clock.move(0.3)
        parts.put(b"")
        assert under_way.result(SECONDS) == TOO_LATE


@pytest.mark.parametrize("status", [200, 204, 410, 500])
@pytest.mark.parametrize("whose", ["the body's", "the call's"])
def test_a_status_is_the_end_of_a_call_whose_body_never_ends(
    clock: StandingClock, sender: Sender, monkeypatch: pytest.MonkeyPatch, status: int, whose: str
) -> None:
    body_seconds, ends_after = (3.0, 3.0) if whose == "the body's" else (1_000.0, CALL_SECONDS)
    monkeypatch.setattr(sender_module, "ANSWER_SECONDS", body_seconds)
    head = f"HTTP/1.1 {status} Said\r\nRetry-After: 7\r\n".encode()
    if status == 204:  # it has no body: what follows is no HTTP
        ends_after = 0.0
    with closing(Endpoint(lambda connection: connection.sendall(head + CUT_OFF))) as endpoint:
        under_way = sender.send(post(endpoint.url))
        if ends_after:
            until(lambda: body_seconds in clock.bounds, "the status arrives")
            clock.move(ends_after)
        assert under_way.result(SECONDS) == Ended(status, retry_after_seconds=7.0)


@pytest.mark.parametrize("status", [200, 410])
def test_a_status_is_the_end_of_a_call_whose_body_is_cut(sender: Sender, status: int) -> None:
    def serve(connection: socket.socket) -> None:
        connection.sendall(f"HTTP/1.1 {status} Said\r\n".encode() + CUT_OFF)
        connection.close()

    with closing(Endpoint(serve)) as endpoint:
        assert sender.send(post(endpoint.url)).result(SECONDS) == Ended(status)


def test_of_an_answer_64_kib_are_read_and_then_nothing_more_is_waited_for(sender: Sender) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"
    with closing(Endpoint(lambda connection: connection.sendall(head + b"x" * (64 * 1_024 + 1)))) as endpoint:
        assert sender.send(post(endpoint.url)).result(SECONDS) == Ended(200)  # no time passed


def test_a_body_of_64_kib_is_read_to_its_end_and_the_connection_is_used_again(sender: Sender) -> None:
    whole = answer("200 OK", body=b"x" * 64 * 1_024, stays=True)
    with closing(Endpoint(lambda connection: connection.sendall(whole))) as endpoint:
        for _ in range(2):
            assert sender.send(post(endpoint.url)).result(SECONDS) == Ended(200)
        assert endpoint.connections == 1


@pytest.mark.parametrize("head", [b"", b"Content-Length: 1000000000000\r\n"])
def test_an_answer_without_an_end_is_cut_off_and_its_server_cannot_send_it(sender: Sender, head: bytes) -> None:
    sent, is_cut = 0, threading.Event()

    def serve(connection: socket.socket) -> None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
        with contextlib.suppress(OSError):
            while sent < STREAM_MAX:
                sent += connection.send(BLOCK)
        is_cut.set()

    with closing(Endpoint(serve)) as endpoint:
        assert sender.send(post(endpoint.url)).result(SECONDS) == Ended(200)
        until(is_cut.is_set, "the server sees that the connection was closed")
        assert sent < STREAM_MAX


@contextmanager
def nobody_accepts(_: pytest.MonkeyPatch) -> Iterator[str]:
    """A listening socket whose backlog is full: the kernel answers no further connection."""
    with socket.socket() as listening, ExitStack() as waiting:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(8):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"


@contextmanager
def nobody_knows_the_name(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    found = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: found.wait() and [])
    try:
        yield "https://slow.example.invalid/"
    finally:
        found.set()  # a thread that waited on would hold up the end of the process


@contextmanager
def nobody_shakes_hands(_: pytest.MonkeyPatch) -> Iterator[str]:
    with closing(Endpoint(hangs)) as endpoint:
        yield f"https://127.0.0.1:{endpoint.port}/"


@pytest.mark.parametrize(
    ("hanging", "bounds"), [(nobody_accepts, 1), (nobody_knows_the_name, 1), (nobody_shakes_hands, 2)]
)
def test_a_connection_has_its_own_time_of_the_calls(
    clock: StandingClock,
    sender: Sender,
    monkeypatch: pytest.MonkeyPatch,
    hanging: Callable[[pytest.MonkeyPatch], contextlib.AbstractContextManager[str]],
    bounds: int,
) -> None:
    monkeypatch.setattr(sender_module, "CONNECT_SECONDS", 3.0)
    with hanging(monkeypatch) as url:
        under_way = sender.send(post(url))
        until(lambda: clock.bounds.count(3.0) == bounds, "the connection is waited for")
        clock.move(2.9)
        assert not under_way.done()
        clock.move(0.2)
        assert under_way.result(SECONDS) == TOO_LATE
