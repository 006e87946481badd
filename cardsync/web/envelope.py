"""What every request and every answer has: a request id, and headers that tell browsers to keep their hands off."""

from __future__ import annotations

import re
import uuid
from typing import Final

import structlog
from flask import Flask, Response, request

_USABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

# Answers are data for programs: nothing of them may be framed, sniffed, stored or run.
_HEADERS: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Server", "cardsync"),  # without one of ours, the server's own name would stand there
)
_CONTENT_POLICY: Final = "default-src 'none'; frame-ancestors 'none'"
_HEADERS_OF_JSON: Final = (
    ("Content-Type", "application/json"),
    *_HEADERS,
    ("Content-Security-Policy", _CONTENT_POLICY),
)


def register(app: Flask) -> None:
    """Give every request its id before, and every answer its headers after."""
    app.before_request(lambda: begin(request.environ.get("HTTP_X_REQUEST_ID", "")))
    app.after_request(finish)


def begin(given: str) -> None:
    """Take the id that the request came with, if it is usable, for every line that is logged from here on."""
    request_id = given if _USABLE_ID.fullmatch(given) else uuid.uuid4().hex
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=request_id)


def finish(response: Response) -> Response:
    """Add the headers that every answer has."""
    headers = response.headers
    headers.extend(_HEADERS)
    headers.setdefault("Content-Security-Policy", _CONTENT_POLICY)
    headers.add("X-Request-ID", structlog.contextvars.get_contextvars().get("request_id", ""))
    return response


def headers_of_json() -> list[tuple[str, str]]:
    """The same headers for an answer of JSON, for who writes it without a ``Response``."""
    request_id = structlog.contextvars.get_contextvars().get("request_id", "")
    return [*_HEADERS_OF_JSON, ("X-Request-ID", request_id)]
