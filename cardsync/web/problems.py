"""Every error of the application as RFC 9457 ``application/problem+json``, by one table from error to status.

No answer and no log line of an error holds what was sent, a stack trace, or a library's own text: a database's
message can quote a row, and a row can hold a token.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import structlog
from flask import Flask, Response
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RoutingException

from cardsync.errors import Conflict, InvalidSignature, MalformedBody, NotFound, Refused, SpoolUnusable, Transient
from cardsync.web.steadylog import SteadyLog

log = structlog.get_logger(__name__)
_away = SteadyLog()  # while database or disk are, every request finds it so

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = 5
_DATABASE_AWAY: Final = "The database cannot be reached at the moment; nothing was changed."
NOWHERE: Final = "Neither the database nor the disk takes the notification at the moment; it is not kept."
_OURS: Final = "Something went wrong on our side; the request id finds it in our logs."

# From the special to the general: the first that fits counts. A detail of None means the error's own text, which is
# written to be shown.
TABLE: Final[tuple[tuple[type[Exception], HTTPStatus, str | None], ...]] = (
    (MalformedBody, HTTPStatus.BAD_REQUEST, None),
    (InvalidSignature, HTTPStatus.UNAUTHORIZED, None),
    (NotFound, HTTPStatus.NOT_FOUND, None),
    (Conflict, HTTPStatus.CONFLICT, None),
    (Refused, HTTPStatus.UNPROCESSABLE_ENTITY, None),
    (SpoolUnusable, HTTPStatus.SERVICE_UNAVAILABLE, NOWHERE),
    (Transient, HTTPStatus.SERVICE_UNAVAILABLE, None),
    (SQLAlchemyError, HTTPStatus.SERVICE_UNAVAILABLE, _DATABASE_AWAY),
    (Exception, HTTPStatus.INTERNAL_SERVER_ERROR, _OURS),
)
# RFC 9110 wants a challenge with every 401; a notification's proof is inside its body.
_HEADERS: Final[dict[HTTPStatus, dict[str, str]]] = {
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": 'Signature realm="webhooks"'},
    HTTPStatus.SERVICE_UNAVAILABLE: {"Retry-After": str(RETRY_AFTER_SECONDS)},
}


class Problem(HTTPException):
    """An error that has an HTTP status and nothing else to say about it; ``extensions`` join the problem's members."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = int(status)
        self.headers = dict(headers or {})
        self.extensions = dict(extensions or {})


def register(app: Flask) -> None:
    """Answer every error of ``app``, foreseen or not."""
    app.register_error_handler(Exception, answer)


def answer(error: Exception) -> Response:
    """Turn an error into its answer; log those that are ours."""
    if isinstance(error, HTTPException):
        return _answer_http(error)
    status, detail = next((s, d) for kind, s, d in TABLE if isinstance(error, kind))
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log_ours(error, status)
    return problem(status, detail or str(error), headers=_HEADERS.get(status, {}))


def problem(
    status: HTTPStatus,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    extensions: Mapping[str, object] | None = None,
) -> Response:
    """Write a problem. ``about:blank``: the status says all that there is of its type (RFC 9457, section 4.2.1)."""
    request_id = structlog.contextvars.get_contextvars().get("request_id")
    members = {
        "type": "about:blank",
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
        **({} if request_id is None else {"request_id": request_id}),
        **(extensions or {}),
    }
    return Response(json.dumps(members), status=int(status), headers=dict(headers or {}), content_type=MEDIA_TYPE)


def _answer_http(error: HTTPException) -> Response:
    if isinstance(error, RoutingException) or error.code is None:
        return Response(status=error.code or 500, headers=dict(error.get_headers()))
    status = HTTPStatus(error.code)
    if isinstance(error, Problem):
        return problem(status, error.description or "", headers=error.headers, extensions=error.extensions)
    kept = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}
    return problem(status, f"{status.description or status.phrase}.", headers=kept)


def _log_ours(error: Exception, status: HTTPStatus) -> None:
    """Say what and where, in words that cannot hold content: types, SQL states, places in the code."""
    facts: dict[str, Any] = {"error": type(error).__name__, "status": int(status)}
    if isinstance(error, DBAPIError):
        facts["sqlstate"] = getattr(error.orig, "sqlstate", None)
    if isinstance(error, SQLAlchemyError):
        _away.warning("database_away", **facts)
        return
    if isinstance(error, SpoolUnusable):
        _away.warning("spool_unusable", **facts, why=str(error))
        return
    frames = traceback.extract_tb(error.__traceback__)
    log.error("request_failed", **facts, where=[f"{f.filename}:{f.lineno} {f.name}" for f in frames[-8:]])
