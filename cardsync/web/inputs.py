"""What is sent, bounded before it is read and checked before it is used; a refusal never repeats a value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, TypeVar, get_origin
from urllib.parse import parse_qsl

from flask import request
from pydantic import BaseModel, ValidationError

from cardsync.errors import MalformedBody
from cardsync.web.problems import Problem

API_BODY_MAX_BYTES: Final = 65_536
QUERY_FIELDS_MAX: Final = 50
_LENGTH_DIGITS_MAX: Final = 18
_READ_AT_ONCE: Final = 65_536

Model = TypeVar("Model", bound=BaseModel)
Other = TypeVar("Other", bound=BaseModel)


def read_json_bytes(max_bytes: int) -> bytes:
    """Read the whole body; 411, 413 or 415 before a byte of it is read, 400 if it is cut short."""
    environ = request.environ
    return _read(environ["wsgi.input"], announced_length(environ, max_bytes))


def announced_length(environ: Mapping[str, Any], max_bytes: int) -> int:
    """Decide by the headers alone, before a byte is read, and return the body's length. Raises 411, 413 or 415.

    A chunked body is refused with 411 though it could be counted while it is read: Ottu sends a length, and Werkzeug
    cuts an over-long chunked body silently.
    """
    given: str = environ.get("CONTENT_LENGTH") or ""
    if "HTTP_TRANSFER_ENCODING" in environ or not (given.isascii() and given.isdigit()):
        raise Problem(HTTPStatus.LENGTH_REQUIRED, "A Content-Length header is required.")
    if len(given) > _LENGTH_DIGITS_MAX or int(given) > max_bytes:
        raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body may have {max_bytes} bytes at most.")
    if not is_json_media_type(environ.get("CONTENT_TYPE") or ""):
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body must be application/json.")
    return int(given)


def is_json_media_type(content_type: str) -> bool:
    """Tell whether a Content-Type is JSON's own or one built on it (``application/*+json``)."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))


def _read(stream: Any, length: int) -> bytes:
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
    """Read a JSON object that is one of two things, told apart by a field that only one has. Statuses as above."""
    content = _read_object()
    if one[0] in content:
        return _validated(one[1], content)
    if other[0] in content:
        return _validated(other[1], content)
    raise unprocessable([{"field": "", "message": f"{one[0]} or {other[0]} is required."}])


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
        raise unprocessable([{"field": "", "message": "The query string cannot be read."}]) from None
    content: dict[str, Any] = {}
    for name, value in pairs:
        field = model.model_fields.get(name)
        if field is not None and get_origin(field.annotation) in (tuple, list):
            content[name] = (*content.get(name, ()), value)
        elif field is not None and name in content:
            raise unprocessable([{"field": name, "message": "Given more than once."}])
        else:
            content[name] = value
    return _validated(model, content)


def _validated(model: type[Model], content: dict[str, Any]) -> Model:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        details = error.errors(include_input=False, include_context=False, include_url=False)
        raise unprocessable([_said(model, d) for d in details]) from None


def _said(model: type[BaseModel], detail: Any) -> dict[str, str]:
    """One of pydantic's errors. The name of an unknown field is the sender's own text, and not repeated."""
    if detail["type"] == "extra_forbidden":
        return {"field": "", "message": f"Unknown field; known are {', '.join(model.model_fields)}."}
    field = ".".join(str(part) for part in detail["loc"][:1])
    return {"field": field, "message": str(detail["msg"]).removeprefix("Value error, ")}


def unprocessable(errors: list[dict[str, str]]) -> Problem:
    """The refusal of what is well formed and still not valid: which field, and what is wrong with it."""
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "The request is not valid.", extensions={"errors": errors})
