"""What senders do who mean no good, against ``cardsync web`` as it runs: real processes, raw bytes on real sockets."""

from __future__ import annotations

import json
import re
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress

import psutil

from cardsync.cli.web import CONNECTIONS
from cardsync.web.rate_limits import LINES_A_SECOND
from tests import payloads
from tests.web.test_server import ANSWER_SECONDS, Server, ask, environ, start

__all__ = ["environ", "start"]  # fixtures

IDLE = 2_500  # more than granian held by itself: the backlog, divided by the processes
LINES = (b"POST /webhooks/ottu HTTP/1.1", b"Host: x", b"Connection: close", b"Content-Type: application/json")
UNSIGNED = b'{"a":1}'
LENGTH = b"Content-Length: 7"


def request(*more: bytes, lines: tuple[bytes, ...] = LINES, body: bytes = UNSIGNED, end: bytes = b"\r\n") -> bytes:
    return end.join([*lines, *more, b"", b""]) + body


HIDDEN = b"0\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n"  # a request inside the body of another
WITHOUT_CLOSE = tuple(line for line in LINES if not line.startswith(b"Connection"))
# What is sent, and the statuses that it gets: 401 means that it was read like any other, and nobody vouched for it.
SENT: dict[str, tuple[bytes, list[int]]] = {
    "a length beside chunks": (
        request(LENGTH, b"Transfer-Encoding: chunked", body=b"7\r\n" + UNSIGNED + HIDDEN),
        [411],
    ),
    "a request hidden in chunks": (
        request(b"Content-Length: 4", b"Transfer-Encoding: chunked", lines=WITHOUT_CLOSE, body=HIDDEN),
        [411],
    ),
    "an encoding that is none": (request(LENGTH, b"Transfer-Encoding: xchunked"), [400]),
    "two lengths": (request(LENGTH, b"Content-Length: 6"), [400]),
    "a list of lengths": (request(b"Content-Length: 7, 7"), [400]),
    "a length with a sign": (request(b"Content-Length: +7"), [400]),
    "a length below nothing": (request(b"Content-Length: -7"), [400]),
    "a length of thirty digits": (request(b"Content-Length: " + b"9" * 30), [400]),
    "a folded header": (request(b"X-Folded: a", b" b", LENGTH), [400]),
    "a space before the colon": (request(b"Content-Length : 7"), [400]),
    "a NUL in a header": (request(b"X-Nul: a\0b", LENGTH), [400]),
    "a bare CR in a header": (request(b"X-Return: a\rb", LENGTH), [400]),
    "an escape in the request's id": (request(b"X-Request-ID: a\x1b[31m", LENGTH), [400]),
    "bare LF at the ends of lines": (request(LENGTH, end=b"\n"), [401]),
    "the address of another host": (
        request(LENGTH, lines=(b"POST http://evil.test/webhooks/ottu HTTP/1.1", *LINES[1:])),
        [401],
    ),
    "a header of a megabyte": (request(b"X-Long: " + b"a" * 1_000_000, LENGTH), [431]),
    "five hundred headers": (request(*(b"X-%d: a" % n for n in range(500)), LENGTH), [431]),
    "an address of 70 kB": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", [414]),
    "control characters in the address": (
        b"GET /%0a%0d%1b[31m%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        [404],
    ),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", [400]),
    "two requests in one": (request(LENGTH, lines=WITHOUT_CLOSE) + request(LENGTH), [401, 401]),
    "deeply nested": (request(b"Content-Length: 200000", body=b'{"a":' * 40_000), [400]),
    "an integer of a million digits": (
        request(b"Content-Length: 1000006", body=b'{"a":' + b"9" * 1_000_000 + b"}"),
        [401],
    ),
    "SQL": (request(b"Content-Length: 43", body=b'{"signature": "\' OR 1=1; DROP TABLE cards"}'), [401]),
}


def exchange(server: Server, sent: bytes) -> bytes:
    """All that comes back until the other side hangs up."""
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=ANSWER_SECONDS)) as connection:
        with suppress(ConnectionError):  # it may hang up before it has read everything
            connection.sendall(sent)
        return b"".join(_received(connection))


def _received(connection: socket.socket) -> Iterator[bytes]:
    with suppress(ConnectionError):
        while data := connection.recv(65_536):
            yield data


def test_whatever_is_sent_gets_its_status_and_one_line_of_log_at_the_most(start: Callable[..., Server]) -> None:
    server = start("--workers", "1", CARDSYNC_LOG_FORMAT="json")
    answers = {what: exchange(server, sent) for what, (sent, _) in SENT.items()}
    statuses = {what: [int(s) for s in re.findall(rb"HTTP/1\.1 (\d{3})", got)] for what, got in answers.items()}
    assert statuses == {what: expected for what, (_, expected) in SENT.items()}
    assert ask(server, "POST", "/webhooks/ottu", payloads.signed(payloads.save_card())) == 200
    server.process.terminate()
    assert server.process.stdout is not None
    for line in server.process.stdout.read().splitlines():
        assert line.isprintable()
        assert isinstance(json.loads(line), dict)


def test_answers_have_the_headers_of_an_api_and_name_no_server(start: Callable[..., Server]) -> None:
    server = start("--workers", "1")
    for sent in (request(LENGTH), request(lines=(b"GET /livez HTTP/1.1", *LINES[1:3]), body=b"")):
        headers = exchange(server, sent).partition(b"\r\n\r\n")[0].lower()
        assert b"granian" not in headers
        for expected in (
            b"x-content-type-options: nosniff",
            b"cache-control: no-store",
            b"cross-origin-resource-policy: same-origin",
            b"content-security-policy: default-src 'none'",
            b"server: cardsync",
        ):
            assert headers.count(expected) == 1


def test_thousands_of_idle_connections_and_slow_bodies_hold_no_hint_up_and_end_in_their_time(
    start: Callable[..., Server],
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    server = start("--workers", "1")
    (child,) = psutil.Process(server.process.pid).children()
    assert child.rlimit(psutil.RLIMIT_NOFILE)[0] >= min(hard, CONNECTIONS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with ExitStack() as held:
            connections = []
            for number in range(IDLE):
                connections.append(
                    held.enter_context(
                        closing(socket.create_connection(("127.0.0.1", server.port), timeout=2 * ANSWER_SECONDS))
                    )
                )
                if number % 2 == 0:  # at once: one that stays idle for too long gets no answer any more
                    connections[-1].sendall(request(b"Content-Length: 1000", body=b"{"))
            assert ask(server, "POST", "/webhooks/ottu", payloads.signed(payloads.save_card())) == 200
            answer = _trickle(connections[0])
            assert b" 400 " in answer
            assert b"did not arrive" in answer
            assert connections[1].recv(4_096) == b""
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _trickle(connection: socket.socket) -> bytes:
    """Send a byte now and then until there is an answer; all of it, until the other side hangs up."""
    connection.settimeout(0.5)
    deadline = time.monotonic() + 2 * ANSWER_SECONDS
    answer = b""
    while time.monotonic() < deadline:
        if not answer:
            with suppress(ConnectionError):
                connection.sendall(b" ")
        try:
            data = connection.recv(4_096)
        except TimeoutError:
            continue
        except ConnectionError:
            break
        if not data:
            break
        answer += data
    return answer


def test_a_flood_of_wrong_signatures_is_refused_with_few_lines_and_leaves_hints_alone(
    start: Callable[..., Server],
) -> None:
    server = start("--workers", "1", CARDSYNC_LOG_FORMAT="json")
    forged = payloads.signed(payloads.save_card(), key="a-key-of-somebody-else")
    began = time.monotonic()
    for _ in range(300):
        assert ask(server, "POST", "/webhooks/ottu", forged) == 401
    assert ask(server, "POST", "/webhooks/ottu", payloads.signed(payloads.save_card())) == 200
    seconds = int(time.monotonic() - began) + 2
    server.process.terminate()
    assert server.process.stdout is not None
    refused = [line for line in server.process.stdout.read().splitlines() if "hint_refused" in line]
    assert 0 < len(refused) <= LINES_A_SECOND * seconds
