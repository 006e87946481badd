"""The pieces that the OpenAPI description is put together from."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel

from cardsync.core.idempotency import KEY_MAX, KEY_PATTERN
from cardsync.web.responses import MEDIA_TYPE as PROBLEM

Document = dict[str, Any]

REF: Final = "#/components/schemas/{model}"
WHY: Final = {
    400: "The body is not one JSON object in UTF-8, or shorter than announced.",
    401: "No valid key.",
    403: "The key lacks the scope.",
    404: "There is no such thing.",
    409: "Ottu offers no list of cards here (`OTTU_CARDS_API=unavailable`).",
    410: "A backup was restored: changes that the caller may have read are gone.",
    411: "No `Content-Length`.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "A field is missing, unknown or not valid.",
    429: (
        "The key sends more requests a second, or causes more calls to Ottu a day, than it may; or too many unknown keys are "
        "tried at the moment. `Retry-After` says when it may be tried again."
    ),
    503: "The database cannot be reached; nothing was changed. Try again after `Retry-After`.",
    504: "The application did not answer the proxy in time. Try again after `Retry-After`, with the same idempotency key.",
}
OF_THE_PROXY: Final = (504,)

_TEXT: Final = {"type": "string"}
_IF_NONE_MATCH: Final = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "The `ETag` of an earlier answer: while the answer is the same, it is 304 without a body.",
    "schema": _TEXT,
    "example": '"6f1ed002ab5595859014ebf0951522d9"',
}
_OF_A_READ: Final = {"ETag": {"description": "A tag of this answer, for `If-None-Match`.", "schema": _TEXT}}
_OF_A_KEY: Final = {
    "RateLimit-Policy": {
        "description": 'How many requests the key may send in a window of `w` seconds: `"requests";q=50;w=1`.',
        "schema": _TEXT,
    },
    "RateLimit": {
        "description": 'How many are left, and when it is the whole number again, in seconds: `"requests";r=49;t=1`.',
        "schema": _TEXT,
    },
}


def operation(
    name: str,
    tag: str,
    summary: str,
    description: str,
    *,
    responses: dict[int, Document],
    scopes: tuple[str, ...] = (),
    parameters: list[Document] | None = None,
    body: Document | None = None,
) -> Document:
    """An operation. One with scopes and no body is a read, which has a tag and may be answered 304."""
    is_read = bool(scopes) and body is None
    if is_read:
        parameters = [*(parameters or []), dict(_IF_NONE_MATCH)]
        responses = {**responses, 304: {"description": "The answer is the one whose tag was sent. No body."}}
    if scopes:
        responses = {status: _with_headers(status, said, is_read=is_read) for status, said in responses.items()}
    return {
        "operationId": name,
        "tags": [tag],
        "summary": summary,
        "description": description,
        # The scopes stand beside it: OpenAPI lets a bearer scheme name roles, and the usual linters know that of OAuth alone.
        "security": [{"key": []}] if scopes else [],
        **({"x-scopes": list(scopes)} if scopes else {}),
        **({} if parameters is None else {"parameters": parameters}),
        **({} if body is None else {"requestBody": {"required": True, "content": body}}),
        "responses": {str(status): said for status, said in sorted(responses.items())},
    }


def _with_headers(status: int, said: Document, *, is_read: bool) -> Document:
    """An answer to a request with a key, with the headers that are of no one operation."""
    of_a_key = {} if status == 401 or status in OF_THE_PROXY else _OF_A_KEY
    of_a_read = _OF_A_READ if is_read and status in (200, 304) else {}
    headers = {**said.get("headers", {}), **of_a_read, **of_a_key}
    return {**said, "headers": headers} if headers else said


def query_parameters(model: type[BaseModel]) -> list[Document]:
    """The parameters that a query's model reads."""
    schema = model.model_json_schema(ref_template=REF)
    required = schema.get("required", [])
    named = schema.get("$defs", {})
    return [_parameter(name, dict(s), named, required=name in required) for name, s in schema["properties"].items()]


def _parameter(name: str, schema: Document, named: Document, *, required: bool) -> Document:
    """A query parameter is there or not; it cannot be null."""
    schema.pop("title", None)
    description = schema.pop("description", "")
    if not description and "$ref" in schema:
        description = named[schema["$ref"].rsplit("/", 1)[-1]]["description"]
    if "anyOf" in schema:
        alternatives = [s for s in schema.pop("anyOf") if s != {"type": "null"}]
        schema = {**schema, **alternatives[0]}
        description = description or schema.pop("description", "")
    if schema.get("default", ...) is None:
        del schema["default"]
    return {"name": name, "in": "query", "required": required, "description": description, "schema": schema}


RETRY_AFTER: Final = {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}


def json_content(model: str) -> Document:
    """JSON of this schema."""
    return {"application/json": {"schema": {"$ref": REF.format(model=model)}}}


def json_answer(model: str, description: str) -> Document:
    """An answer of this schema."""
    return {"description": description, "content": json_content(model)}


def problems(*statuses: int) -> dict[int, Document]:
    """The problem answers with these statuses, and those that only the proxy gives."""

    def content() -> Document:
        return {PROBLEM: {"schema": {"$ref": REF.format(model="ProblemDetails")}}}

    answers = {}
    for status in (*statuses, *OF_THE_PROXY):
        answers[status] = {"description": WHY[status], "content": content()}
        if status in (429, 503, 504):
            answers[status]["headers"] = {"Retry-After": RETRY_AFTER}
    return answers


def path_id(name: str, description: str) -> Document:
    """A path's parameter that is one of our own identifiers."""
    schema = {"type": "string", "format": "uuid"}
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


def idempotency_key(*, required: bool) -> Document:
    """The header that every POST of ours takes."""
    return {
        "name": "Idempotency-Key",
        "in": "header",
        "required": required,
        "description": "Your own choice, a new one for each request. The same key with the same body gives the same answer "
        "again, with `Idempotent-Replayed: true`; with another body it gets 409.",
        "schema": {"type": "string", "minLength": 1, "maxLength": KEY_MAX, "pattern": KEY_PATTERN},
    }


def accepted(model: str, description: str = "It is stored, and done in the background.") -> Document:
    """The 202 answer of a POST, with the place to look at later."""
    where = {"description": "Where to look.", "schema": {"type": "string"}}
    answer = noted(model, description)
    return {**answer, "headers": {"Location": where, **answer["headers"]}}


def noted(model: str, description: str) -> Document:
    """The 202 answer of a POST that leads to nothing that could be asked about later."""
    replayed = {
        "description": "`true` if the idempotency key came before: this is what it got then.",
        "schema": {"type": "string", "enum": ["true"]},
    }
    return {**json_answer(model, description), "headers": {"Idempotent-Replayed": replayed}}
