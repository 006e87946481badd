"""The shipped proxy, on a host and in containers: it passes on what is right, and says in its log why it did not."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from cardsync.dev.servers.ports import free_port
from cardsync.web.problems import KINDS
from tests.e2e.nginx import FOLDER, Nginx
from tests.tls import Authority
from tests.waiting import until


class Application(BaseHTTPRequestHandler):
    """Says what it was asked for."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        said = json.dumps({"path": self.path, "bytes": len(body), "from": self.headers["X-Forwarded-For"]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def application() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Application)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(params=["host", "nginx"])
def proxy(
    request: pytest.FixtureRequest, tmp_path: Path, services: Path, application: ThreadingHTTPServer
) -> Iterator[tuple[Nginx, httpx.Client]]:
    certificate, key = Authority.make(tmp_path).certificate("127.0.0.1")
    folder = tmp_path / "nginx"
    folder.mkdir()
    made = Nginx(
        folder, request.param, port=free_port(), application=application.server_port, certificate=certificate, key=key
    )
    assert "test is successful" in made.check()
    scheme = "https" if request.param == "host" else "http"
    verify = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    with httpx.Client(
        base_url=f"{scheme}://127.0.0.1:{made.port}", verify=verify, trust_env=False, timeout=RAW_SECONDS
    ) as client:
        yield made.start(), client
    made.stop()


def test_a_notification_passes_and_what_is_not_ours_does_not(proxy: tuple[Nginx, httpx.Client]) -> None:
    _, client = proxy
    answer = client.post("/webhooks/ottu", content=b"x" * 100_000)
    assert answer.json() == {"path": "/webhooks/ottu", "bytes": 100_000, "from": "127.0.0.1"}
    assert client.get("/metrics").status_code == 404
    assert client.post("/webhooks/ottu", content=b"x" * 1_048_577).status_code == 413


def test_a_web_that_is_away_is_told_in_the_log_and_no_query_is(
    proxy: tuple[Nginx, httpx.Client], application: ThreadingHTTPServer
) -> None:
    made, client = proxy
    application.shutdown()
    application.server_close()
    answer = client.get("/v1/cards", params={"customer_id": "a customer"})
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    until(lambda: "/v1/cards" in made.log(), "the proxy has written its line")
    (line,) = [json.loads(one) for one in made.log().splitlines() if "/v1/cards" in one]
    assert (line["status"], line["upstream_status"]) == (503, "502")
    assert "customer" not in made.log() + (made.folder / "error.log").read_text()


RAW_SECONDS = 60.0


def _raw(made: Nginx, request: bytes, *, tls: bool) -> tuple[int, dict[str, str], dict[str, object]]:
    """Send bytes that no client library would send, and read the answer."""
    with socket.create_connection(("127.0.0.1", made.port), RAW_SECONDS) as plain:
        if tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection: socket.socket = context.wrap_socket(plain)
        else:
            connection = plain
        connection.settimeout(RAW_SECONDS)
        with contextlib.suppress(OSError):  # the proxy may answer, and close, before it has read all of it
            connection.sendall(request)
        answer = HTTPResponse(connection)
        answer.begin()
        return answer.status, {n.lower(): v for n, v in answer.getheaders()}, json.loads(answer.read())


LONG = b"x" * 40_000
REFUSED = {
    "no such path": (b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", 404, "not_found"),
    "no such method": (b"TRACE /v1/cards HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method_not_allowed"),
    "not HTTP": (b"GET /v1/cards HTTP/1.1\r\nHost x\r\n\r\n", 400, "bad_request"),
    "a line that is not HTTP": (b"nonsense\r\n\r\n", 400, "bad_request"),
    "a long address": (b"GET /v1/cards?" + LONG + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "uri_too_long"),
    "a long header": (b"GET /v1/cards HTTP/1.1\r\nHost: x\r\nA: " + LONG + b"\r\n\r\n", 431, "header_too_large"),
    "a large body": (
        b"POST /v1/deletions HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n",
        413,
        "body_too_large",
    ),
    "a transfer encoding": (
        b"POST /v1/deletions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: rot13\r\n\r\n",
        501,
        "not_implemented",
    ),
    "a version of tomorrow": (b"GET /v1/cards HTTP/4.0\r\nHost: x\r\n\r\n", 400, "bad_request"),
    "plain HTTP on TLS": (b"GET /v1/cards HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad_request"),
}


def test_what_the_proxy_refuses_has_the_shape_of_the_applications_errors(proxy: tuple[Nginx, httpx.Client]) -> None:
    made, client = proxy
    has_tls = client.base_url.scheme == "https"
    for name, (request, status, code) in REFUSED.items():
        on_tls = name == "plain HTTP on TLS"
        if on_tls and not has_tls:
            continue
        answered, headers, problem = _raw(made, request, tls=has_tls and not on_tls)
        assert (answered, problem["code"]) == (status, code), name
        assert headers["content-type"] == "application/problem+json", name
        _assert_a_problem(problem, headers)


def test_an_address_that_an_operator_denies_finds_nothing_in_the_same_shape(
    tmp_path: Path, services: Path, application: ThreadingHTTPServer
) -> None:
    made = Nginx(tmp_path, "nginx", port=free_port(), application=application.server_port)
    locations = tmp_path / "cardsync" / "locations.conf"
    opening = "location ^~ /webhooks/ {"
    shipped = locations.read_text(encoding="utf-8")
    assert opening in shipped
    locations.write_text(shipped.replace(opening, f"{opening} deny all;"), encoding="utf-8")
    made.start()
    try:
        request = b"POST /webhooks/ottu HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        status, headers, problem = _raw(made, request, tls=False)
        assert (status, problem["code"], headers["content-type"]) == (404, "not_found", "application/problem+json")
        _assert_a_problem(problem, headers)
    finally:
        made.stop()


def _assert_a_problem(problem: dict[str, object], headers: dict[str, str]) -> None:
    kind = KINDS[str(problem["code"])]
    assert (problem["type"], problem["title"], problem["status"]) == (kind.type, kind.title, kind.status)
    assert problem["detail"]
    assert problem["request_id"] == headers["x-request-id"]
    assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")
    assert ("retry-after" in headers) == (problem["status"] in (429, 503, 504))


def test_every_page_of_the_proxy_is_a_kind_of_the_application() -> None:
    pages = (FOLDER / "cardsync" / "problems.conf").read_text(encoding="utf-8")
    found = [json.loads(one) for one in re.findall(r"return \d+ '(\{.*\})\\n'", pages)]
    assert len(found) == 10
    for problem in found:
        kind = KINDS[problem["code"]]
        assert (problem["type"], problem["title"], problem["status"]) == (kind.type, kind.title, kind.status)


def test_a_web_that_is_away_and_too_many_requests_say_when_to_come_again(
    proxy: tuple[Nginx, httpx.Client], application: ThreadingHTTPServer
) -> None:
    made, client = proxy
    made.stop()
    made.lower_the_rate()
    made.start()
    application.shutdown()
    application.server_close()
    with ThreadPoolExecutor(8) as many:  # a hundred may pass at once
        answers = list(many.map(lambda _: client.get("/v1/cards", headers={"X-Request-ID": "mine-1"}), range(300)))
    assert {answer.status_code for answer in answers} == {429, 503}
    for answer in answers:
        _assert_a_problem(answer.json(), dict(answer.headers))
        assert answer.headers["x-request-id"] == "mine-1"


def test_the_proxy_lets_a_long_poll_wait_for_as_long_as_it_may() -> None:
    from cardsync.web.api.change_schemas import WAIT_MAX

    shared = (FOLDER / "cardsync" / "locations.conf").read_text(encoding="utf-8")
    found = re.search(r"location = /v1/changes \{[^}]*proxy_read_timeout (\d+)s;", shared)
    assert found is not None
    assert int(found.group(1)) > WAIT_MAX
