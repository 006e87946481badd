"""The application as granian serves it (RSGI): the webhook on the event loop, everything else in Flask on threads.

Why two: a notification is a few hundred microseconds of Python and one wait, and a payer is waiting. On threads the waits and
the hand-overs cost more than the work. On the loop hundreds of notifications wait at once for one commit, a slow body holds
nothing, and no reader of the API can hold up a hint. The API is ordinary blocking code, and stays that.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final

from flask import Flask
from sqlalchemy import Engine

from cardsync.errors import MalformedBody
from cardsync.store import feed
from cardsync.stories.receive import Authentic, Receipt
from cardsync.web import headers, long_polls, wsgi_bridge
from cardsync.web.ingest.body import BodyReader
from cardsync.web.ingest.endpoint import Endpoint, Group, Head
from cardsync.web.long_polls import LongPolls
from cardsync.web.requests import API_BODY_MAX_BYTES, announced_length_of
from cardsync.web.responses import Problem
from cardsync.web.services import Services

if TYPE_CHECKING:
    from granian._granian import RSGIHTTPProtocol as HTTPProtocol
    from granian.rsgi import Scope

# What an orchestrator and Prometheus ask never stands behind readers: a process that is thought dead while it takes hints is
# taken out of service, and the hints are lost. Few threads do: their waits are bounded, and their answers kept for a moment.
_READY_PATH: Final = "/readyz"
# Told to a balancer before the process stops: it sends new connections elsewhere, and what still comes here is answered.
_LEAVING: Final = '{"status": "not ready", "checks": {"process": "was told to stop"}}'
_HEALTH_PATHS: Final = frozenset(("/livez", "/readyz", "/metrics"))
HEALTH_THREADS: Final = 4
_CHANGES_PATH: Final = "/v1/changes"
_BY_HEADERS: Final = frozenset((411, 413))  # the answers for which no byte of the body was read
_WITH_A_BODY: Final = frozenset(("POST", "PUT", "PATCH", "DELETE"))


class LoopSender:
    """An RSGI request: its body arrives on the event loop, and its coroutine waits."""

    __slots__ = ("_bodies", "_protocol")

    def __init__(self, protocol: HTTPProtocol, bodies: BodyReader) -> None:
        self._protocol, self._bodies = protocol, bodies

    async def examined(self, length: int, examine: Callable[[bytes], Authentic]) -> Authentic:
        """Read on the loop; a large body is examined off it."""
        return await self._bodies.take(self._protocol, length, examine)

    async def written(self, group: Group, authentic: Authentic, *, wait_seconds: float) -> Receipt:
        """Wait on the loop."""
        return await group.write(authentic, wait_seconds=wait_seconds)


class Dispatcher:
    """``answer`` is an RSGI application. ``threads`` bounds how many of the API's requests Flask works at.

    ``is_leaving`` says whether the process was told to stop: it waits until its balancer noticed, or ends at once.
    """

    is_leaving: Callable[[], bool]

    def __init__(self, app: Flask, endpoint: Endpoint, *, threads: int) -> None:
        self._app = app
        self._endpoint = endpoint
        self.is_leaving = lambda: False
        self._bodies = BodyReader()
        self._polls = LongPolls(partial(_head, Services.of_app(app).engine), is_leaving=lambda: self.is_leaving())
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="api")
        self._health_threads = ThreadPoolExecutor(HEALTH_THREADS, thread_name_prefix="health")

    async def answer(self, scope: Scope, protocol: HTTPProtocol) -> None:
        """Answer one request."""
        if scope.method == "POST" and scope.path in self._endpoint.paths:
            await self._take(scope, protocol)
        elif scope.path == _READY_PATH and self.is_leaving():
            protocol.response_str(503, headers.all_of("application/json", ()), _LEAVING)
        else:
            await self._pass_on(scope, protocol)

    async def _take(self, scope: Scope, protocol: HTTPProtocol) -> None:
        """A notification."""
        sent = scope.headers
        head = Head(
            content_length=sent.get("content-length") or "",
            content_type=sent.get("content-type") or "",
            is_chunked="transfer-encoding" in sent,
            request_id=sent.get("x-request-id") or "",
            traceparent=sent.get("traceparent") or "",
        )
        answer = await self._endpoint.answer(head, LoopSender(protocol, self._bodies))
        if answer.status in _BY_HEADERS:
            await self._bodies.throw_away(protocol)
        protocol.response_str(answer.status, headers.all_of(answer.content_type, answer.headers), answer.body)

    async def _pass_on(self, scope: Scope, protocol: HTTPProtocol) -> None:
        """Anything else: Flask decides, the body read only as far as Flask itself would read it."""
        environ = wsgi_bridge.environ_of(scope)
        try:
            announced = announced_length_of(environ, API_BODY_MAX_BYTES)
            environ["wsgi.input"] = io.BytesIO(await self._bodies.read(protocol, announced) if announced else b"")
        except MalformedBody:
            environ["wsgi.input"] = io.BytesIO()
        except Problem:  # Flask refuses it in its own words, where a body is wanted at all
            environ["wsgi.input"] = io.BytesIO()
            if scope.method in _WITH_A_BODY:
                await self._bodies.throw_away(protocol)
        threads = self._health_threads if scope.path in _HEALTH_PATHS else self._threads
        again = None
        if scope.path == _CHANGES_PATH:
            again, environ[long_polls.MAY_WAIT] = {**environ, long_polls.WAITED: True}, self._polls.has_room
        answer = await asyncio.get_running_loop().run_in_executor(threads, wsgi_bridge.call, self._app, environ)
        if again is not None and long_polls.WAITS in environ:
            await self._polls.wait(*environ[long_polls.WAITS])
            answer = await asyncio.get_running_loop().run_in_executor(threads, wsgi_bridge.call, self._app, again)
        protocol.response_bytes(answer.status, answer.headers, answer.body)

    def close(self) -> None:
        """Let what Flask works at end."""
        self._threads.shutdown(wait=False)
        self._health_threads.shutdown(wait=False)
        self._bodies.close()
        self._polls.close()


def _head(engine: Engine) -> int:
    with engine.connect() as connection:
        return feed.head(connection)
