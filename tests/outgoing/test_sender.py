"""Sending to an endpoint, against a real server: what its answer tells, and what it can't do to us."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from structlog.testing import capture_logs

from cardsync.core.delivery import LONGEST_ASKED_SECONDS
from cardsync.dev.servers.ports import free_port
from cardsync.outgoing import sender as sender_module
from cardsync.outgoing.sender import KEEPALIVE_SECONDS, Ended, Message, Sender
from tests.outgoing.endpoints import Endpoint, answer, hangs, says
from tests.waiting import until

SECONDS = 60.0  # for what takes a moment on a machine that is not busy


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has an address here takes connections and ends its answers, however slow the machine is."""
    monkeypatch.setattr(sender_module, "CONNECT_SECONDS", SECONDS)
    monkeypatch.setattr(sender_module, "ANSWER_SECONDS", SECONDS)


@pytest.fixture
def sender() -> Iterator[Sender]:
    made = Sender(call_seconds=SECONDS)
    yield made
    made.close()


def send(sender: Sender, answer: bytes) -> tuple[Ended, list[bytes]]:
    with closing(Endpoint(says(answer))) as endpoint:
        message = Message(endpoint.url, {"Content-Type": "application/json", "webhook-id": "1"}, b"{}")
        return sender.send(message).result(SECONDS), endpoint.requests


def test_one_post_with_the_body_as_it_is_and_no_header_but_ours(sender: Sender) -> None:
    ended, (request,) = send(sender, answer("204 No Content"))
    assert ended == Ended(204)
    head, _, body = request.partition(b"\r\n\r\n")
    assert (head.split(b"\r\n")[0], body) == (b"POST /hook HTTP/1.1", b"{}")
    names = {line.split(b":")[0].lower() for line in head.split(b"\r\n")[1:]}
    assert names == {b"host", b"user-agent", b"content-type", b"webhook-id", b"content-length"}


def test_a_redirect_is_not_followed(sender: Sender) -> None:
    ended, requests = send(sender, answer("302 Found", "Location: http://169.254.169.254/"))
    assert ended.status == 302
    assert len(requests) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (["Retry-After: 7"], 7.0),
        (["Retry-After: 99999999999"], LONGEST_ASKED_SECONDS),
        (["Date: Thu, 26 Nov 2026 12:00:00 GMT", "Retry-After: Thu, 26 Nov 2026 12:02:00 GMT"], 120.0),
        (["Date: Thu, 26 Nov 2026 12:00:00 GMT", "Retry-After: Thu, 26 Nov 2026 11:00:00 GMT"], 0.0),
        (["Date: Thu, 26 Nov 2026 12:00:00 -0000", "Retry-After: Thu, 26 Nov 2026 12:02:00 GMT"], 120.0),
        (["Retry-After: Thu, 26 Nov 2026 12:02:00 GMT"], None),
        (["Retry-After: soon"], None),
        ([], None),
    ],
)
def test_a_wish_to_wait_is_read_by_the_endpoints_own_clock_up_to_a_day(
    sender: Sender, headers: list[str], seconds: float | None
) -> None:
    ended, _ = send(sender, answer("503 Service Unavailable", *headers))
    assert (ended.status, ended.retry_after_seconds) == (503, seconds)


def test_an_endpoint_that_says_nothing_ends_with_the_calls_time_and_holds_no_other_up() -> None:
    with closing(Endpoint(hangs)) as silent:
        message = Message(silent.url, {}, b"{}")
        with closing(Sender(call_seconds=SECONDS)) as sender:
            waiting = sender.send(message)
            assert send(sender, answer("200 OK"))[0].status == 200
            assert not waiting.done()
        with closing(Sender(call_seconds=0.5)) as sender:
            assert sender.send(message).result(SECONDS) == Ended(None, "no answer in time")


def test_what_is_no_http_and_what_listens_nowhere_end_with_words_that_name_no_address(sender: Sender) -> None:
    ended, _ = send(sender, b"SSH-2.0-server\r\n")
    assert ended == Ended(None, "the connection was cut, or what came is no HTTP")
    nowhere = Message(f"http://127.0.0.1:{free_port()}/", {}, b"{}")
    assert sender.send(nowhere).result(SECONDS) == Ended(None, "no connection")


def test_a_refused_address_is_never_connected_to(sender: Sender) -> None:
    ended = sender.send(Message("http://169.254.169.254/", {}, b"{}")).result(SECONDS)
    assert ended.status is None
    assert "address" in str(ended.error)
    assert "169" not in str(ended.error)


def test_a_name_that_is_looked_up_for_long_holds_up_no_other_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, let_go, look_up = list[str](), threading.Event(), socket.getaddrinfo

    def slow(host: str, *arguments: object, **more: object) -> object:
        asked.append(host)
        if host != "localhost":
            let_go.wait()
            raise socket.gaierror
        return look_up(host, *arguments, **more)  # type: ignore[call-overload]

    monkeypatch.setattr("socket.getaddrinfo", slow)
    sender = Sender(call_seconds=SECONDS)
    try:
        with closing(Endpoint(says(answer("200 OK")))) as endpoint:
            waiting = [sender.send(Message("https://slow.example.invalid/", {}, b"{}")) for _ in range(100)]
            for url in (endpoint.url, endpoint.url.replace("127.0.0.1", "localhost")):
                assert sender.send(Message(url, {}, b"{}")).result(SECONDS) == Ended(200)
        assert sorted(asked) == ["localhost", "slow.example.invalid"]  # one for all calls, and none for an address
        let_go.set()
        assert {one.result(SECONDS) for one in waiting} == {Ended(None, "no connection")}
    finally:
        let_go.set()  # a thread that waited on would hold up the end of the process
        sender.close()


@pytest.mark.parametrize("host", ["orders..example.com", "." + "a" * 64 + ".example.com", "a" * 64])
def test_a_name_that_is_none_ends_like_one_that_is_not_known(sender: Sender, host: str) -> None:
    ends = list[Ended]()
    assert sender.send(Message(f"https://{host}/", {}, b"{}"), ends.append).result(SECONDS) == Ended(
        None, "no connection"
    )
    assert ends == [Ended(None, "no connection")]


def test_an_error_that_nobody_foresaw_is_the_messages_end_and_is_logged_once_without_its_text(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> None:
        raise LookupError("a text that may quote what was sent")

    monkeypatch.setattr(sender_module.addresses, "literal", fails)
    ends = list[Ended]()
    with capture_logs() as lines:
        for _ in range(2):
            sender.send(Message("https://203.0.113.7/", {}, b"{}"), ends.append).result(SECONDS)
    assert ends == [Ended(None, "could not be sent")] * 2
    assert [(line["event"], line["error"]) for line in lines] == [("message_could_not_be_sent", "LookupError")]
    assert "quote" not in str(lines)


def test_an_error_that_nobody_foresaw_after_the_status_changes_nothing(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(_: object) -> None:
        raise LookupError

    monkeypatch.setattr(sender_module, "_read_some", fails)
    assert send(sender, answer("410 Gone"))[0] == Ended(410)


def serve_and_stay(connection: socket.socket) -> None:
    connection.sendall(answer("200 OK", body=b"{}", stays=True))


def send_two(endpoint: Endpoint) -> list[Ended]:
    message = Message(endpoint.url, {}, b"{}")
    with closing(Sender(call_seconds=SECONDS)) as sender:
        return [sender.send(message).result(SECONDS) for _ in range(2)]


def test_messages_in_a_burst_share_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "KEEPALIVE_SECONDS", SECONDS)
    with closing(Endpoint(serve_and_stay)) as endpoint:
        assert send_two(endpoint) == [Ended(200)] * 2
        assert (len(endpoint.requests), endpoint.connections) == (2, 1)


def test_a_connection_that_idled_for_as_long_as_servers_keep_one_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert KEEPALIVE_SECONDS < 2.0  # gunicorn's, the shortest of the common servers'
    monkeypatch.setattr(sender_module, "KEEPALIVE_SECONDS", 0.0)
    with closing(Endpoint(serve_and_stay)) as endpoint:
        assert send_two(endpoint) == [Ended(200)] * 2
        assert (len(endpoint.requests), endpoint.connections) == (2, 2)


def test_a_connection_that_its_server_has_closed_without_a_word_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sender_module, "KEEPALIVE_SECONDS", SECONDS)
    with closing(Endpoint(says(answer("200 OK", body=b"{}", stays=True)))) as endpoint:
        message = Message(endpoint.url, {}, b"{}")
        with closing(Sender(call_seconds=SECONDS)) as sender:
            for number in (1, 2):
                assert sender.send(message).result(SECONDS) == Ended(200)
                until(lambda wanted=number: endpoint.closed == wanted, "the server closes the connection")
        assert endpoint.connections == 2
