"""The application as granian serves it (RSGI): the webhook on the event loop, everything else in Flask on threads.

Why two: a notification is a few hundred microseconds of Python and one wait, and a payer is waiting. On threads the waits and
the hand-overs cost more than the work; on the loop hundreds wait at once for one commit, a slow body holds nothing, and no
reader of the API can hold up a hint. The API is ordinary blocking code, and stays that.

Rules: both ways give the same answers, by the same code. The context of structlog is one for the whole loop: it is set after the
last ``await`` of a request, never before one.
"""

from __future__ import annotations

import asyncio
import io
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from flask import Flask

from cardsync.errors import MalformedBody
from cardsync.web import envelope
from cardsync.web.inputs import API_BODY_MAX_BYTES, announced_length
from cardsync.web.intake import Intake
from cardsync.web.keeping import Keeping
from cardsync.web.problems import Problem
from cardsync.web.reach import Reach
from cardsync.web.webhook import PATH, Webhook

if TYPE_CHECKING:
    from granian._granian import RSGIHTTPProtocol as HTTPProtocol
    from granian.rsgi import Scope

# What an orchestrator and Prometheus ask never stands behind readers: a process that is thought dead while it takes hints is
# taken out of service, and the hints are lost. Few threads do: their waits are bounded, and their answers kept for a moment.
_HEALTH_PATHS: Final = frozenset(("/livez", "/readyz", "/metrics"))
HEALTH_THREADS: Final = 4
_NAMES: Final = {"content-length": "CONTENT_LENGTH", "content-type": "CONTENT_TYPE"}


class Front:
    """``answer`` is an RSGI application. ``threads`` bounds how many of the API's requests Flask works at."""

    def __init__(self, app: Flask, webhook: Webhook, reach: Reach, *, threads: int) -> None:
        self._app = app
        self._webhook = webhook
        self._intake = Intake()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="api")
        self._health_threads = ThreadPoolExecutor(HEALTH_THREADS, thread_name_prefix="health")
        self._keeping = Keeping(webhook, reach)

    async def answer(self, scope: Scope, protocol: HTTPProtocol) -> None:
        """Answer one request."""
        if scope.method == "POST" and scope.path == PATH:
            await self._take(scope, protocol)
        else:
            await self._pass_on(scope, protocol)

    async def _take(self, scope: Scope, protocol: HTTPProtocol) -> None:
        """A notification."""
        began = time.perf_counter()
        headers = _headers(scope)
        try:
            length = announced_length(headers, self._webhook.max_bytes)
            authentic = await self._intake.take(protocol, length, self._webhook.examine)
            receipt = await self._keeping.keep(authentic)
        except Exception as error:  # noqa: BLE001  (the table of errors knows them all)
            self._refuse(headers, protocol, error, began)
        else:
            envelope.begin(headers.get("HTTP_X_REQUEST_ID", ""))
            body = self._webhook.succeed(receipt, began=began)
            protocol.response_str(self._webhook.ack_status, envelope.headers_of_json(), body)

    def _refuse(self, headers: Mapping[str, str], protocol: HTTPProtocol, error: Exception, began: float) -> None:
        envelope.begin(headers.get("HTTP_X_REQUEST_ID", ""))
        response = envelope.finish(self._webhook.fail(error, began=began))
        protocol.response_bytes(response.status_code, list(response.headers.items()), response.get_data())

    async def _pass_on(self, scope: Scope, protocol: HTTPProtocol) -> None:
        """Anything else: Flask decides, the body read only as far as Flask itself would read it."""
        environ = _environ(scope)
        try:
            announced = announced_length(environ, API_BODY_MAX_BYTES)
            environ["wsgi.input"] = io.BytesIO(await self._intake.read(protocol, announced) if announced else b"")
        except (Problem, MalformedBody):  # Flask refuses it in its own words, where a body is wanted at all
            environ["wsgi.input"] = io.BytesIO()
        threads = self._health_threads if scope.path in _HEALTH_PATHS else self._threads
        answer = await asyncio.get_running_loop().run_in_executor(threads, _ask, self._app, environ)
        protocol.response_bytes(answer.status, answer.headers, answer.body)

    def close(self) -> None:
        """Let what Flask works at end."""
        self._threads.shutdown(wait=False)
        self._health_threads.shutdown(wait=False)
        self._intake.close()


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


def _ask(app: Flask, environ: dict[str, Any]) -> _Answer:
    """Call a WSGI application to its end, on a thread."""
    told: list[tuple[int, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], _: object = None) -> Callable[[bytes], object]:
        told.append((int(status.split(" ", 1)[0]), headers))
        return lambda _data: None

    answered: Iterable[bytes] = app(environ, start_response)
    try:
        body = b"".join(answered)
    finally:
        close = getattr(answered, "close", None)
        if close is not None:
            close()
    status, headers = told[-1]
    return _Answer(status, headers, body)


def _headers(scope: Scope) -> dict[str, str]:
    """The headers under their names in WSGI. Granian leaves those out whose value is not ASCII."""
    found: dict[str, str] = {}
    for name, value in scope.headers.items():
        key = _NAMES.get(name) or "HTTP_" + name.upper().replace("-", "_")
        found[key] = f"{found[key]},{value}" if key in found else value
    return found


def _environ(scope: Scope) -> dict[str, Any]:
    """A request as WSGI has it (PEP 3333), without its body."""
    host, _, port = scope.server.rpartition(":")
    client, _, client_port = scope.client.rpartition(":")
    return {
        **_headers(scope),
        "REQUEST_METHOD": scope.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": scope.path.encode("utf-8").decode("latin-1"),
        "QUERY_STRING": scope.query_string,
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        "SERVER_NAME": host,
        "SERVER_PORT": port,
        "REMOTE_ADDR": client,
        "REMOTE_PORT": client_port,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.scheme,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
