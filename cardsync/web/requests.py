"""Reading requests: the size is bounded before reading, the content is checked before use, and an error repeats no value."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeVar, get_origin
from urllib.parse import parse_qsl

from flask import request
from pydantic import BaseModel, ValidationError

from cardsync.errors import MalformedBody
from cardsync.web import problems
from cardsync.web.responses import Problem

API_BODY_MAX_BYTES: Final = 65_536
QUERY_FIELDS_MAX: Final = 50
_LENGTH_DIGITS_MAX: Final = 18
_READ_AT_ONCE: Final = 65_536

_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
# A name as programmers write one, also `max-age` or `card.id`; too short for a key, without the digits of a token or a card.
_TELLABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z_.-]{0,31}[0-9]{0,3}")

Model = TypeVar("Model", bound=BaseModel)
Other = TypeVar("Other", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field: ``code`` is one of ``web.problems.FIELD_CODES``. No value is repeated."""

    field: str
    code: str
    message: str


def read_json_bytes(max_bytes: int) -> bytes:
    """Read the whole body; 411, 413 or 415 before a byte of it is read, 400 if it is cut short."""
    environ = request.environ
    return read_exactly(environ["wsgi.input"], announced_length_of(environ, max_bytes))


def announced_length(given: str, *, is_chunked: bool, max_bytes: int) -> int:
    """Return the body's length by the headers alone, before a byte is read. Raises 411 or 413.

    A chunked body is refused with 411 though it could be counted while it is read: Ottu sends a length, and Werkzeug
    cuts an over-long chunked body silently.
    """
    if is_chunked or not (given.isascii() and given.isdigit()):
        raise Problem("length_required", "A Content-Length header is required.")
    if len(given) > _LENGTH_DIGITS_MAX or int(given) > max_bytes:
        raise Problem("body_too_large", f"The body may have {max_bytes} bytes at most.")
    return int(given)


def announced_length_of(environ: Mapping[str, Any], max_bytes: int) -> int:
    """Return the length of a body that must be declared as JSON. Raises 411, 413 or 415."""
    is_chunked = "HTTP_TRANSFER_ENCODING" in environ
    length = announced_length(environ.get("CONTENT_LENGTH") or "", is_chunked=is_chunked, max_bytes=max_bytes)
    if not is_json_media_type(environ.get("CONTENT_TYPE") or ""):
        raise Problem("unsupported_media_type", "The body must be application/json.")
    return length


def is_json_media_type(content_type: str) -> bool:
    """Tell whether a Content-Type is JSON's own or one built on it (``application/*+json``)."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))


def read_exactly(stream: Any, length: int) -> bytes:
    """Read a body of this length from a WSGI stream. Raises ``MalformedBody`` if it ends before."""
    try:
        body: bytes = stream.read(length)
        while len(body) < length and (more := stream.read(min(length - len(body), _READ_AT_ONCE))):
            body += more
    except OSError:
        raise MalformedBody("the body could not be read to its end") from None
    if len(body) < length:
        raise MalformedBody("the body is shorter than its Content-Length")
    return body


def read_json(model: type[Model]) -> Model:
    """Read the JSON object that the body must hold. 400, 411, 413, 415 or 422."""
    return _validated(model, _read_object())


def read_json_either(one: tuple[str, type[Model]], other: tuple[str, type[Other]]) -> Model | Other:
    """Read a JSON object of one of two models, told apart by a field that only one of them has. Statuses as above."""
    content = _read_object()
    if one[0] in content:
        return _validated(one[1], content)
    if other[0] in content:
        return _validated(other[1], content)
    raise unprocessable([FieldError("", "missing", f"{one[0]} or {other[0]} is required.")])


def _read_object() -> dict[str, Any]:
    try:
        content = json.loads(read_json_bytes(API_BODY_MAX_BYTES).decode("utf-8"))
    except (ValueError, RecursionError):
        raise MalformedBody("the body is not one JSON object in UTF-8") from None
    if not isinstance(content, dict):
        raise MalformedBody("the body is JSON, but not an object")
    return content


def read_query(model: type[Model]) -> Model:
    """Read the query string into ``model``; 422 for what is unknown, malformed, or given twice where once is meant.

    Parsed strictly: Flask's own reading would turn bytes that are no UTF-8 into another customer's name.
    """
    try:
        pairs = parse_qsl(
            request.query_string.decode("utf-8"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=QUERY_FIELDS_MAX,
        )
    except ValueError:  # UnicodeDecodeError is one
        raise unprocessable([FieldError("", "invalid", "The query string cannot be read.")]) from None
    content: dict[str, Any] = {}
    for name, value in pairs:
        field = model.model_fields.get(name)
        if field is not None and get_origin(field.annotation) in (tuple, list):
            content[name] = (*content.get(name, ()), value)
        elif field is not None and name in content:
            raise unprocessable([FieldError(name, "repeated", "Given more than once.")])
        else:
            content[name] = value
    return _validated(model, content)


def _validated(model: type[Model], content: dict[str, Any]) -> Model:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        details = error.errors(include_input=False, include_context=False, include_url=False)
        raise unprocessable([_said(model, d) for d in details]) from None


def _said(model: type[BaseModel], detail: Any) -> FieldError:
    """One of pydantic's errors. An unknown field is named where its name can hold no secret: it is the sender's own text."""
    code = problems.field_code(detail["type"])
    if code == "unknown_field":
        name = str(detail["loc"][0])
        shown = name if _TELLABLE_NAME.fullmatch(name) else ""
        return FieldError(shown, code, f"Unknown field; known are {', '.join(model.model_fields)}.")
    field = ".".join(str(part) for part in detail["loc"][:1])
    return FieldError(field, code, str(detail["msg"]).removeprefix("Value error, "))


def read_id(name: str, text: str) -> uuid.UUID:
    """Read an id of ours from a path. 422 for what is no UUID, since "there is no such card" would be a wrong trail."""
    if not _UUID.fullmatch(text):
        raise unprocessable([FieldError(name, "not_a_uuid", "must be a UUID")])
    return uuid.UUID(text)


def unprocessable(errors: Sequence[FieldError]) -> Problem:
    """The error for a well-formed request that is not valid: which field, and what is wrong with it."""
    unknown = any(error.code == "unknown_field" for error in errors)
    return Problem(
        "unknown_field" if unknown else "invalid_request",
        "The request is not valid.",
        extensions={"errors": [asdict(error) for error in errors]},
    )
