"""The wire: time, size, connections, proxies, secrets; and requests as Ottu's description has them."""

from __future__ import annotations

import json
import logging
import socket
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from openapi_core import OpenAPI
from openapi_core.testing import MockRequest

from cardsync.core.cards import Token
from cardsync.dev.servers.ports import free_port
from cardsync.errors import CardsyncError, InvalidAnswer, Misconfigured, OttuUnavailable
from cardsync.ottu import OttuClient
from cardsync.ottu.handler import MAX_ANSWER_BYTES
from cardsync.settings import Settings

SPEC = Path(__file__).parents[1] / "data" / "ottu-openapi.yaml"
TEXT = "tok-fake-secret-0001"
TOKEN = Token(TEXT)
KEY = "key-fake-0001"
HEAD = b"HTTP/1.1 200 OK\r\n"
SECONDS = 60.0  # a deadline: only a bug takes so long


def card(token, customer_id="c-1"):
    return {"token": token, "customer_id": customer_id, "pg_code": "fake-pg", "number": None}


def listed(client, **more):
    return client.list_cards("sandbox", "c-1", **{"deadline_seconds": 60, **more})


DRIPS = {
    "the status line": (b"HTTP/1.1 200 O", b"K"),
    "a header": (HEAD + b"X-Slow: ", b"a"),
    "informational answers": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "the body": (HEAD + b"Content-Length: 9999999\r\n\r\n[", b" "),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "a chunk's size": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x"),
    "nothing": (b"", b""),
}


@pytest.mark.parametrize(("start", "then"), DRIPS.values(), ids=DRIPS.keys())
def test_a_dripping_answer_is_cut_off_at_the_time_out(ottu, make_client, start, then):
    client = make_client(ottu_timeout_s=0.8)
    for call in (lambda: listed(client), lambda: client.delete_card("sandbox", "c-1", TOKEN)):
        ottu.does(lambda talk: talk.drip(start, then))
        began = time.monotonic()
        with pytest.raises(OttuUnavailable, match="ReadTimeout"):
            call()
        assert 0.7 < time.monotonic() - began < SECONDS


def test_a_list_ends_at_its_deadline_with_all_its_pages(ottu, make_client):
    client = make_client(ottu_timeout_s=2 * SECONDS)
    ottu.answers(200, {"count": 2, "next": "?offset=1", "results": [card("tok-fake-0001")]})
    ottu.does(lambda talk: talk.drip(HEAD + b"X-Slow: ", b"a"))
    began = time.monotonic()
    with pytest.raises(OttuUnavailable):
        listed(client, deadline_seconds=0.4)
    assert time.monotonic() - began < SECONDS


def test_after_a_cut_off_call_the_client_is_as_good_as_new(ottu, make_client):
    client = make_client()
    ottu.does(lambda talk: talk.drip(HEAD + b"Content-Length: 99\r\n\r\n", b" "))
    with pytest.raises(OttuUnavailable):
        listed(client, deadline_seconds=1)
    ottu.answers(200, [])
    assert listed(client).calls == 1
    assert ottu.connections == 2


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_socket_that_nobody_accepts_on_is_cut_off_too(make_client, scheme):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        client = make_client(ottu_base_url=f"{scheme}://127.0.0.1:{deaf.getsockname()[1]}", ottu_timeout_s=0.3)
        began = time.monotonic()
        with pytest.raises(OttuUnavailable):
            listed(client)
        assert time.monotonic() - began < SECONDS


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"SSH-2.0-hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n[]",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n[]",
        b"HTTP/1.1 302 Found\r\nLocation: http://[::1:x\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_an_answer_that_is_no_http_or_not_whole_is_no_answer(ottu, client, raw):
    def reply(talk):
        talk.close_connection = True
        talk.wfile.write(raw)

    ottu.does(reply)
    with pytest.raises(OttuUnavailable):
        listed(client)


def test_a_large_answer_is_cut_off(ottu, client):
    def reply(talk):
        talk.close_connection = True
        talk.wfile.write(HEAD + b"\r\n")
        for _ in range(MAX_ANSWER_BYTES):  # until the client hangs up
            talk.wfile.write(b" " * 65_536)

    for call in (lambda: listed(client), lambda: client.delete_card("sandbox", "c-1", TOKEN)):
        ottu.does(reply)
        with pytest.raises(InvalidAnswer, match=str(MAX_ANSWER_BYTES)):
            call()


def test_a_refused_connection_and_failed_tls_are_no_answer(ottu, make_client):
    for url in (f"http://127.0.0.1:{free_port()}", ottu.url.replace("http:", "https:")):
        client = make_client(ottu_base_url=url)
        with pytest.raises(OttuUnavailable, match="ConnectError"):
            listed(client)
        with pytest.raises(OttuUnavailable, match="ConnectError"):
            client.delete_card("sandbox", "c-1", TOKEN)


def test_certificates_are_verified(tls_ottu, make_client, monkeypatch):
    ottu, certificate = tls_ottu
    by_name, by_number = ottu.url.replace("127.0.0.1", "localhost"), ottu.url
    with pytest.raises(OttuUnavailable, match="ConnectError"):
        listed(make_client(ottu_base_url=by_name))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with pytest.raises(OttuUnavailable, match="ConnectError"):
        listed(make_client(ottu_base_url=by_number))
    assert ottu.seen == []
    ottu.answers(200, [])
    ottu.does(lambda talk: talk.drip(HEAD + b"X-Slow: ", b"a"))
    client = make_client(ottu_base_url=by_name)
    assert listed(client).calls == 1
    with pytest.raises(OttuUnavailable, match="ReadTimeout"):
        listed(client, deadline_seconds=1)


def test_calls_share_one_connection(ottu, make_client):
    client = make_client()
    for environment in ("sandbox", "production"):
        ottu.answers(200, [], {"Set-Cookie": "session=1"})
        ottu.answers(404, {"detail": "x"})
        client.list_cards(environment, "c-1", deadline_seconds=60)
        client.delete_card(environment, "c-1", TOKEN)
    assert len(ottu.seen) == 4
    assert ottu.connections == 1
    assert not any("cookie" in seen.headers for seen in ottu.seen)


def test_a_base_address_may_have_a_path(ottu, make_client):
    ottu.answers(200, [])
    listed(make_client(ottu_base_url=f"{ottu.url}/stand-in/"))
    assert ottu.seen[0].target == "/stand-in/b/pbl/v2/card/"


def test_eight_threads_each_get_their_own_answer(ottu, make_client):
    def reply(talk):
        payload = json.loads(talk.seen.body)
        token = f"tok-{payload['type']}-{payload['customer_id']}"
        talk.send(200, json.dumps([card(token, payload["customer_id"])]).encode())

    ottu.always = reply
    client = make_client(worker_threads=8, web_threads=1)

    def call(n):
        environment = ("sandbox", "production")[n % 2]
        found = client.list_cards(environment, f"c-{n}", deadline_seconds=60)
        return [c.token.reveal() for c in found.cards] == [f"tok-{environment}-c-{n}"]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(160)))
    assert ottu.connections <= 8


def test_one_threads_short_time_is_not_anothers(ottu, make_client):
    ottu.always = lambda talk: talk.send(200, b"[]") if b"fast" in talk.seen.body else talk.drip(HEAD, b"")
    client = make_client(ottu_timeout_s=SECONDS)
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(client.list_cards, "sandbox", "slow", deadline_seconds=0.5)
        for _ in range(20):
            assert client.list_cards("sandbox", "fast", deadline_seconds=SECONDS).calls == 1
        assert isinstance(slow.exception(timeout=SECONDS), OttuUnavailable)


def test_proxies_of_the_environment_are_ignored_on_this_machine(ottu, make_client, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    ottu.answers(200, [])
    assert listed(make_client()).calls == 1


def test_proxies_of_the_environment_are_used_elsewhere(ottu, make_client, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, ottu.url.replace("http://", "http://user:pass@"))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    ottu.answers(502)
    with pytest.raises(OttuUnavailable, match="ProxyError"):
        listed(make_client(ottu_base_url="https://acme.invalid"))
    assert (ottu.seen[0].method, ottu.seen[0].target) == ("CONNECT", "acme.invalid:443")
    assert ottu.seen[0].headers["proxy-authorization"] == "Basic dXNlcjpwYXNz"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"ottu_api_key": "key"}, "OTTU_MERCHANT_ID"),
        ({"ottu_merchant_id": "acme.invalid"}, "OTTU_API_KEY"),
    ],
)
def test_unusable_settings_are_named_when_the_client_is_made(given, name):
    with pytest.raises(Misconfigured, match=name) as raised:
        OttuClient(Settings(**given))
    assert "fake" not in str(raised.value)


def _reset(talk):
    talk.close_connection = True


FAILURES = {
    "cut": _reset,
    "dripped": lambda talk: talk.drip(HEAD, b""),
    "401": lambda talk: talk.send(401, json.dumps({"detail": f"{KEY} {TEXT}"}).encode()),
    "405": lambda talk: talk.send(405, json.dumps({"detail": TEXT}).encode()),
    "429": lambda talk: talk.send(429, TEXT.encode()),
    "500": lambda talk: talk.send(500, TEXT.encode()),
    "redirected": lambda talk: talk.send(302, b"", {"Location": f"http://127.0.0.1:9{talk.seen.target}"}),
    "redirected nowhere": lambda talk: talk.send(302, b"", {"Location": f"http://[{TEXT}"}),
    "no JSON": lambda talk: talk.send(201, f'[{{"token": "{TEXT}"'.encode()),
    "too large": lambda talk: talk.send(200, TEXT.encode() * (MAX_ANSWER_BYTES // len(TEXT) + 1)),
    "unusable": lambda talk: talk.send(
        201 if talk.command == "DELETE" else 200, json.dumps([card(TEXT), card(TEXT * 9, "another")]).encode()
    ),
}


@pytest.mark.parametrize("reply", FAILURES.values(), ids=FAILURES.keys())
def test_no_error_and_no_log_line_shows_token_key_or_address(ottu, make_client, reply, everything_logged, capfd):
    client = make_client(ottu_timeout_s=0.3 if reply is FAILURES["dripped"] else SECONDS)
    ottu.always = reply
    for call in (lambda: listed(client), lambda: client.delete_card("sandbox", "c-1", TOKEN)):
        with pytest.raises(CardsyncError) as raised:
            call()
        _assert_clean(raised.value)
    _assert_quiet(everything_logged, capfd)


def test_success_is_as_quiet(ottu, make_client, everything_logged, capfd):
    client = make_client()
    ottu.answers(200, [card(TEXT)])
    ottu.answers(204)
    ottu.answers(403, {"detail": f"card {TEXT} is locked"})
    assert TEXT not in repr(listed(client))
    client.delete_card("sandbox", "c-1", TOKEN)
    assert TEXT not in repr(client.delete_card("sandbox", "c-1", TOKEN))
    _assert_quiet(everything_logged, capfd)


def test_a_level_set_on_the_root_later_does_not_bring_the_urls_back(ottu, make_client, caplog):
    client = make_client()
    caplog.set_level(logging.DEBUG)
    ottu.answers(204)
    client.delete_card("sandbox", "c-1", TOKEN)
    assert TEXT not in caplog.text


def _assert_clean(error):
    text = "".join(traceback.format_exception(error))
    links, rest = [], [error]
    while rest:
        link = rest.pop()
        links.append(link)
        rest += [e for e in (link.__cause__, link.__context__) if e is not None and e not in links]
    for link in links:
        text += str(link) + repr(link.args) + repr(vars(link))
        assert not hasattr(link, "request")
    assert not any(secret in text for secret in (TEXT, KEY, "/b/pbl/"))


def _assert_quiet(caplog, capfd):
    printed = "".join(capfd.readouterr()) + caplog.text + "".join(repr(vars(r)) for r in caplog.records)
    assert not any(secret in printed for secret in (TEXT, KEY))


def test_our_requests_are_those_of_ottus_description(ottu, make_client):
    # Basic, not a key: the description lists Basic and Bearer only.
    client = make_client(ottu_api_key=None, ottu_username="u", ottu_password="p")
    ottu.answers(200, {"count": 2, "next": "?limit=1&offset=1", "results": [card("tok-fake-0001")]})
    ottu.answers(200, {"count": 2, "next": None, "results": [card("tok-fake-0002")]})
    ottu.answers(204)
    listed(client)
    client.delete_card("production", "shopper 1/ü", Token("9999000011112222"))
    spec = OpenAPI.from_file_path(str(SPEC))
    assert len(ottu.seen) == 3
    for seen in ottu.seen:
        target = urlsplit(seen.target)
        spec.validate_request(
            MockRequest(
                ottu.url,
                seen.method.lower(),
                target.path,
                args=dict(parse_qsl(target.query)),
                headers={name.title(): value for name, value in seen.headers.items()},
                data=seen.body,
                content_type=seen.headers.get("content-type", ""),
            )
        )
