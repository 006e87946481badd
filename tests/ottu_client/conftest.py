"""A real HTTP server on the loopback that plays Ottu from a script, and a client of ours that talks to it."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import socket
import ssl
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cardsync.ottu import OttuClient
from cardsync.settings import Settings

Reply = Callable[["Conversation"], None]


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int


class Conversation(BaseHTTPRequestHandler):
    """Record a request, then let the script's next reply write to the socket."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: ScriptedOttu

    def setup(self) -> None:
        super().setup()
        self.number = self.server.opened(self.connection)

    def _play(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {k.lower(): v for k, v in self.headers.items()}
        self.seen = Seen(self.command, self.path, headers, body, self.number)
        try:
            self.server.next_reply(self.seen)(self)
        except OSError:
            self.close_connection = True  # the client hung up, as some tests want it to

    def do_POST(self) -> None:
        self._play()

    def do_DELETE(self) -> None:
        self._play()

    def do_CONNECT(self) -> None:
        self._play()

    def send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        (self.send_response_only if "Date" in (headers or {}) else self.send_response)(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def drip(self, start: bytes, then: bytes) -> None:
        """Write ``start``, then ``then`` again and again until the test is over or the client hangs up."""
        over = self.server.over
        self.close_connection = True
        self.wfile.write(start)
        while not over.wait(0.02):
            self.wfile.write(then)

    def log_message(self, *args: Any) -> None:
        pass


class ScriptedOttu(ThreadingHTTPServer):
    """Replies in the order in which they were scripted; ``always`` when the script is at its end."""

    daemon_threads = False  # joined at the end: nothing is left behind

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Conversation)
        self._tls = tls
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self.over = threading.Event()
        self.begin()

    def begin(self) -> None:
        """Forget the last test: what it saw, its script, and the replies that still drip."""
        self.over.set()
        self.over = threading.Event()
        self.seen: list[Seen] = []
        self.script: deque[Reply] = deque()
        self.always: Reply = lambda talk: talk.send(500)
        self._earlier = len(self._sockets)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.server_address[1]}"

    @property
    def connections(self) -> int:
        """How many were opened in this test."""
        return len(self._sockets) - self._earlier

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self._tls is not None:  # the handshake is the conversation's first read, not the accepting thread's
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def opened(self, connection: socket.socket) -> int:
        with self._lock:
            self._sockets.append(connection)
            return len(self._sockets)

    def next_reply(self, seen: Seen) -> Reply:
        with self._lock:
            self.seen.append(seen)
            return self.script.popleft() if self.script else self.always

    def answers(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        """Script one reply: bytes as they are, anything else as JSON, ``None`` as no body."""
        body = b"" if content is None else content if isinstance(content, bytes) else json.dumps(content).encode()
        self.script.append(lambda talk: talk.send(status, body, headers))

    def does(self, reply: Reply) -> None:
        """Script one reply that writes to the socket itself."""
        self.script.append(reply)

    def stop(self) -> None:
        self.over.set()
        self.shutdown()
        for connection in self._sockets:
            with contextlib.suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a cut connection is what many tests are about


@pytest.fixture(scope="session")
def server() -> Iterator[ScriptedOttu]:
    with _running(ScriptedOttu()) as server:
        yield server


@contextlib.contextmanager
def _running(server: ScriptedOttu) -> Iterator[ScriptedOttu]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()


@pytest.fixture
def tls_ottu(tmp_path: Path) -> Iterator[tuple[ScriptedOttu, Path]]:
    """Ottu behind TLS, and the file of its certificate: for localhost, signed by nobody."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    files = [
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with _running(ScriptedOttu(context)) as server:
        yield server, certificate


@pytest.fixture
def ottu(server: ScriptedOttu) -> ScriptedOttu:
    server.begin()
    return server


@pytest.fixture
def make_client(ottu: ScriptedOttu) -> Iterator[Callable[..., OttuClient]]:
    made: list[OttuClient] = []

    def make(**given: Any) -> OttuClient:
        made.append(OttuClient(_settings(ottu, **given)))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture(scope="session")
def client(server: ScriptedOttu) -> Iterator[OttuClient]:
    """One client for all tests that need no settings of their own: it takes 60 ms to make."""
    client = OttuClient(_settings(server))
    yield client
    client.close()


def _settings(server: ScriptedOttu, **given: Any) -> Settings:
    defaults = {"ottu_base_url": server.url, "ottu_api_key": "key-fake-0001", "ottu_timeout_s": 60.0}
    return Settings(**{**defaults, **given})


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """All loggers speak at DEBUG, but those that a client made after this silences."""
    for name in ("ottu-py", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    caplog.set_level(logging.DEBUG)
    return caplog
