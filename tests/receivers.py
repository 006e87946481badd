"""An endpoint of the merchant's in a test's own hands: a real HTTP server that verifies each message as a receiver would.

``standardwebhooks`` is the specification's own library: a message that it does not take is noted in ``refused``.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

PATIENCE_SECONDS: Final = 120.0  # for what comes at once on a machine that is not busy


@dataclass(frozen=True)
class Received:
    """One message that was verified."""

    message_id: str
    body: bytes
    headers: dict[str, str]
    path: str

    @property
    def content(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Answer:
    """What the receiver answers, after ``before``; with ``cut`` the connection is closed instead."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    before: Callable[[], object] = lambda: None
    cut: bool = False


class Receiver:
    """``answer`` decides on each message; ``secret`` is the endpoint's, set once it is known."""

    def __init__(self, answer: Callable[[Received], Answer | int] = lambda _: 200) -> None:
        self.answer = answer
        self.secret = ""
        self.received: list[Received] = []
        self.refused: list[str] = []
        self.most_at_once = 0
        self._at_once = 0
        self._changed = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver._take(self)

            def do_GET(self) -> None:  # what a redirect that is followed would be
                receiver._take(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()

    def wait_for(self, holds: Callable[[list[Received]], bool], seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until what was received is as wanted; fail at the deadline."""
        with self._changed:
            assert self._changed.wait_for(lambda: holds(self.received), seconds), (self.received, self.refused)

    def ids(self) -> list[str]:
        """The ids of the messages, in order of their arrival."""
        with self._changed:
            return [one.message_id for one in self.received]

    def _take(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            if self.secret:
                Webhook(self.secret).verify(body, headers)
        except (WebhookVerificationError, ValueError) as error:
            with self._changed:
                self.refused.append(f"{error}: {headers}")
            self._answer(request, Answer(400))
            return
        received = Received(headers.get("webhook-id", ""), body, headers, request.path)
        with self._changed:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self.received.append(received)
            self._changed.notify_all()
        try:
            decided = self.answer(received)
            answer = Answer(decided) if isinstance(decided, int) else decided
            answer.before()
        finally:
            with self._changed:
                self._at_once -= 1
        self._answer(request, answer)

    def _answer(self, request: BaseHTTPRequestHandler, answer: Answer) -> None:
        if answer.cut:
            request.close_connection = True
            request.connection.close()
            return
        request.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(answer.body)
