"""Idempotency keys of the API: every POST takes ``Idempotency-Key``, and says when an answer is given again.

The same key with the same request gets the same answer; with another request it gets 409. Keys belong to the owner of the API
key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from flask import Response, request
from sqlalchemy import Connection

from cardsync.core.idempotency import is_key, request_hash
from cardsync.store.access import kept_answers
from cardsync.store.access.kept_answers import KeptAnswer
from cardsync.web.api.auth import caller
from cardsync.web.requests import FieldError, unprocessable
from cardsync.web.responses import json_answer
from cardsync.web.services import services

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = {"Idempotent-Replayed": "true"}


def read_key() -> str | None:
    """The request's key, or ``None`` where it has none. 422 for one that is malformed."""
    key = request.headers.get(HEADER)
    if key is not None and not is_key(key):
        raise _wrong("invalid", "must be 1 to 255 visible ASCII characters")
    return key


def required_key() -> str:
    """The request's key. 422 if it is missing or malformed."""
    key = read_key()
    if key is None:
        raise _wrong("missing", "The header is required: 1 to 255 visible ASCII characters.")
    return key


def once(operation: str, content: Mapping[str, object], make: Callable[[Connection], Response]) -> Response:
    """Do ``make`` in a transaction, once for each idempotency key; without a key, each time.

    ``content`` is the request as it was understood; ``make`` returns an answer in JSON with a status of success, or raises.
    Raises ``Conflict`` for a key that came with another content.
    """
    key = read_key()
    asker = caller().asker
    with services().engine.begin() as connection:
        if key is None:
            return make(connection)
        hashed = request_hash(asker, {"kind": operation, **{name: plain(value) for name, value in content.items()}})
        earlier = kept_answers.take(connection, asker, operation, key, hashed)
        if earlier is not None:
            where = {} if earlier.location is None else {"Location": earlier.location}
            return json_answer(earlier.body, earlier.status, headers={**where, **REPLAYED})
        answer = make(connection)
        kept = KeptAnswer(answer.status_code, answer.headers.get("Location"), answer.get_data(as_text=True))
        kept_answers.keep(connection, asker, operation, key, kept)
        return answer


def plain(value: object) -> object:
    """A value of a request as JSON has it, for the request's hash."""
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _wrong(code: str, message: str) -> Exception:
    return unprocessable([FieldError(HEADER, code, message)])
