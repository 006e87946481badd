"""Every error of the application as RFC 9457 ``application/problem+json``, by one table from error to status and kind.

No error's answer or log line holds the request's content, a stack trace, or a library's own text: a database's
message can quote a row, and a row can hold a token.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import structlog
from flask import Flask, Response
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RoutingException

from cardsync.db import why
from cardsync.episodes import Episode
from cardsync.errors import (
    Conflict,
    InvalidSignature,
    MalformedBody,
    NotFound,
    Refused,
    SpoolUnusable,
    Transient,
    places,
)
from cardsync.web import headers, problems

log = structlog.get_logger(__name__)
# While the database or the disk is away every request meets it. Some may succeed meanwhile: those that only read, say.
_database_away, _spool_unusable = Episode("database_away"), Episode("spool_unusable", level="error")
QUIET_SECONDS: Final = 30.0

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = 5
_DATABASE_AWAY: Final = "The database cannot be reached at the moment; nothing was changed."
NOWHERE: Final = "Neither the database nor the disk takes the notification at the moment; it is not kept."
_OURS: Final = "Something went wrong on our side; the request id finds it in our logs."

# From the special to the general: the first match counts. A refusal has a code of its own (``errors.Refused``). A detail of None
# stands for the error's own text, which is written to be shown.
TABLE: Final[tuple[tuple[type[Exception], HTTPStatus, str | None, str | None], ...]] = (
    (MalformedBody, HTTPStatus.BAD_REQUEST, None, None),
    (InvalidSignature, HTTPStatus.UNAUTHORIZED, None, None),
    (NotFound, HTTPStatus.NOT_FOUND, None, None),
    (Conflict, HTTPStatus.CONFLICT, None, None),
    (Refused, HTTPStatus.UNPROCESSABLE_ENTITY, None, None),
    (SpoolUnusable, HTTPStatus.SERVICE_UNAVAILABLE, "nothing_durable", NOWHERE),
    (Transient, HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", None),
    (SQLAlchemyError, HTTPStatus.SERVICE_UNAVAILABLE, "database_unavailable", _DATABASE_AWAY),
    (Exception, HTTPStatus.INTERNAL_SERVER_ERROR, "request_failed", _OURS),
)
# RFC 9110 wants a challenge with every 401; a notification's proof is inside its body.
_HEADERS: Final[dict[HTTPStatus, dict[str, str]]] = {
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": 'Signature realm="webhooks"'},
    HTTPStatus.SERVICE_UNAVAILABLE: {"Retry-After": str(RETRY_AFTER_SECONDS)},
}


_HEADERS_OF_ALL: Final = {HTTPStatus.SERVICE_UNAVAILABLE: _HEADERS[HTTPStatus.SERVICE_UNAVAILABLE]}


class Problem(HTTPException):
    """An error of one of the kinds of ``web.problems``; ``extensions`` are added to the problem's members."""

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = problems.KINDS[kind]
        self.code: int = int(self.kind.status)
        self.headers = {**_HEADERS_OF_ALL.get(self.kind.status, {}), **(headers or {})}
        self.extensions = dict(extensions or {})


def register(app: Flask) -> None:
    """Answer every error of ``app``, foreseen or not."""
    app.register_error_handler(Exception, answer)
    app.after_request(_promise_what_holds)


def _promise_what_holds(response: Response) -> Response:
    """After all lines about the request are written. Any answer is a time to see that a trouble is over."""
    for trouble in (_database_away, _spool_unusable):
        trouble.is_over_unless_met(QUIET_SECONDS)
    if response.mimetype == MEDIA_TYPE and not headers.has_line():
        response.set_data(as_promised(response.get_data(as_text=True)))
    return response


def as_promised(problem: str) -> str:
    """The problem, without its request id if no line of the log has it: a person would search in vain."""
    if headers.has_line():
        return problem
    return json.dumps({name: value for name, value in json.loads(problem).items() if name != "request_id"})


@dataclass(frozen=True, slots=True)
class ProblemDocument:
    """A problem as it is sent: the status, the JSON, and the headers of its own."""

    status: int
    body: str
    headers: tuple[tuple[str, str], ...]


def answer(error: Exception) -> Response:
    """Turn an error into its answer; log those that are ours."""
    if isinstance(error, HTTPException) and (isinstance(error, RoutingException) or error.code is None):
        return Response(status=error.code or 500, headers=dict(error.get_headers()))
    document = problem_of(error)
    return Response(document.body, document.status, list(document.headers), content_type=MEDIA_TYPE)


def problem_of(error: Exception) -> ProblemDocument:
    """Turn an error into its problem; log those that are ours."""
    if isinstance(error, Problem):
        return _problem(error.kind, error.kind.status, error.description or "", error.headers, error.extensions)
    if isinstance(error, HTTPException) and error.code is not None:
        status = HTTPStatus(error.code)
        kept = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}
        kind = problems.KINDS[
            problems.OF_STATUS.get(error.code, "bad_request" if error.code < 500 else "request_failed")
        ]
        return _problem(kind, status, f"{status.description or status.phrase}.", kept)
    status, code, detail = next((s, c, d) for known, s, c, d in TABLE if isinstance(error, known))
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log_ours(error, status)
    kind = problems.KINDS[error.code if isinstance(error, Refused) else code or problems.OF_STATUS[status]]
    return _problem(kind, status, detail or str(error), _HEADERS.get(status, {}))


def _problem(
    kind: problems.Kind,
    status: HTTPStatus,
    detail: str,
    headers: Mapping[str, str],
    extensions: Mapping[str, object] | None = None,
) -> ProblemDocument:
    request_id = structlog.contextvars.get_contextvars().get("request_id")
    members = {
        "type": kind.type,
        "code": kind.code,
        "title": kind.title,
        "status": int(status),
        "detail": detail or kind.title,
        **({} if request_id is None else {"request_id": request_id}),
        **(extensions or {}),
    }
    return ProblemDocument(int(status), json.dumps(members), tuple(headers.items()))


def _log_ours(error: Exception, status: HTTPStatus) -> None:
    """Log what failed and where, in words that cannot hold content: types, SQL states, places in the code."""
    facts: dict[str, Any] = {"error": type(error).__name__, "status": int(status)}
    if isinstance(error, DBAPIError):
        facts["sqlstate"] = getattr(error.orig, "sqlstate", None)
    if isinstance(error, SQLAlchemyError):
        if _database_away.goes_on(**facts, why=why(error)):
            headers.note_line(logging.WARNING)
        return
    if isinstance(error, SpoolUnusable):
        if _spool_unusable.goes_on(**facts, why=str(error)):
            headers.note_line(logging.ERROR)
        return
    log.error("request_failed", **facts, where=places(error))
    headers.note_line(logging.ERROR)


def json_answer(text: str, status: int = HTTPStatus.OK, *, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with text that is JSON already."""
    return Response(text, status=int(status), headers=dict(headers or {}), content_type="application/json")
