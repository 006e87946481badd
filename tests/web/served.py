"""The application as ``cardsync web`` serves it, without a server: WSGI requests of a test go through the dispatcher on a loop.

So that one test can drive both ways in: ``werkzeug``'s client calls a WSGI application, the Flask one or this one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from functools import cache
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, Final

from flask import Flask

from cardsync.web import create_dispatcher

PATIENCE_SECONDS: Final = 60.0


@cache
def loop() -> asyncio.AbstractEventLoop:
    """One event loop for all tests of a process, on a thread of its own."""
    made = asyncio.new_event_loop()
    threading.Thread(target=made.run_forever, name="served", daemon=True).start()
    return made


class Served:
    """A WSGI application whose requests the dispatcher answers, as granian would have it do."""

    def __init__(self, app: Flask) -> None:
        self._dispatcher = create_dispatcher(app)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        protocol = _Protocol(environ)
        answered = asyncio.run_coroutine_threadsafe(self._dispatcher.answer(_scope(environ), protocol), loop())
        answered.result(PATIENCE_SECONDS)
        status, headers, body = protocol.answers[-1]
        start_response(f"{status} {HTTPStatus(status).phrase}", headers)
        return [body]


class _Protocol:
    """One RSGI request: its body is the WSGI request's, and its answer is noted."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self._environ = environ
        self.answers: list[tuple[int, list[tuple[str, str]], bytes]] = []

    async def __call__(self) -> bytes:
        try:
            body: bytes = self._environ["wsgi.input"].read()
        except OSError as error:  # granian says it like this
            raise RuntimeError("the protocol is closed") from error
        return body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while part := self._environ["wsgi.input"].read(65_536):
            yield part

    def response_str(self, status: int, headers: list[tuple[str, str]], body: str) -> None:
        self.answers.append((status, headers, body.encode()))

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.answers.append((status, headers, body))


def _scope(environ: dict[str, Any]) -> Any:
    names = {"CONTENT_TYPE": "content-type", "CONTENT_LENGTH": "content-length"}
    names |= {name: name[5:].lower().replace("_", "-") for name in environ if name.startswith("HTTP_")}
    # Granian leaves out headers whose value is not ASCII, and those that are empty are not sent by this client.
    headers = {names[n]: v for n, v in environ.items() if n in names and v and str(v).isascii()}
    return SimpleNamespace(
        method=environ["REQUEST_METHOD"],
        path=environ["PATH_INFO"].encode("latin-1").decode(),
        query_string=environ.get("QUERY_STRING", ""),
        http_version="1.1",
        scheme="http",
        server="127.0.0.1:80",
        client="127.0.0.1:50000",
        headers=headers,
    )
