"""A request id for every request, and security headers for every answer.

The header ``X-Request-ID`` names the request to everybody who logs it: a client, the proxy. A problem's ``request_id`` promises
more: a line of our log has it (``note_line``). Lines that anybody can cause at will are limited, so not every request has one.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Final

import structlog
from flask import Flask, Response, g, request

from cardsync import metrics

_has_line: Final[ContextVar[bool]] = ContextVar("has_line", default=False)

_USABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

# Answers are data for programs: no browser may frame, sniff, store or run them.
_HEADERS: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Server", "cardsync"),  # without one of ours, the server's own name would stand there
)
_CONTENT_POLICY: Final = "default-src 'none'; frame-ancestors 'none'"
_HEADERS_OF_DATA: Final = (*_HEADERS, ("Content-Security-Policy", _CONTENT_POLICY))


def register(app: Flask) -> None:
    """Give every request an id and every answer its headers."""
    app.before_request(_begin)
    app.after_request(finish)


def _begin() -> None:
    g.began = time.perf_counter()
    begin(request.environ.get("HTTP_X_REQUEST_ID", ""))


def seconds_so_far() -> float:
    """How long the request that is answered now has taken so far."""
    return time.perf_counter() - float(g.get("began", time.perf_counter()))


def begin(given: str) -> None:
    """Take the id that the request came with, if it is usable, for every line that is logged from here on."""
    # An id tells lines apart and guards nothing: it needs no system call, and none at which threads change.
    usable = given if _USABLE_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=usable)
    _has_line.set(False)


def note_line(level: int) -> None:
    """Note that a line of the log has the id of the request that is answered now, if lines of this level are written."""
    if logging.getLogger().isEnabledFor(level):
        _has_line.set(True)


def has_line() -> bool:
    """Whether a line of the log has the id of the request that is answered now."""
    return _has_line.get()


def finish(response: Response) -> Response:
    """Add the headers that every answer has."""
    headers = response.headers
    headers.extend(_HEADERS)
    headers.setdefault("Content-Security-Policy", _CONTENT_POLICY)
    headers.add("X-Request-ID", request_id())
    if request.endpoint is None or not request.endpoint.startswith(
        "webhook."
    ):  # its own figures are in web.ingest.endpoint
        route = "none" if request.url_rule is None else str(request.url_rule)
        metrics.REQUEST_SECONDS.labels(route, str(response.status_code)).observe(seconds_so_far())
    return response


def all_of(content_type: str, own: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same headers for an answer of data that is written without a ``Response``; ``own`` are its own beside them."""
    return [("Content-Type", content_type), *_HEADERS_OF_DATA, *own, ("X-Request-ID", request_id())]


def request_id() -> str:
    """The id of the request that is answered now."""
    found: str = structlog.contextvars.get_contextvars().get("request_id", "")
    return found
