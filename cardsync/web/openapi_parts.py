"""The pieces that the OpenAPI description is put together from."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel

from cardsync.web.problems import MEDIA_TYPE as PROBLEM

Document = dict[str, Any]

REF: Final = "#/components/schemas/{model}"
WHY: Final = {
    400: "The body is not one JSON object in UTF-8, or shorter than announced.",
    401: "No valid key.",
    403: "The key lacks the scope.",
    404: "There is no such thing.",
    409: "Ottu offers no list of cards here (`OTTU_CARDS_API=unavailable`).",
    411: "No `Content-Length`.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "A field is missing, unknown or not valid.",
    429: "Too many unknown keys are tried at the moment; a key that was known here before is not affected.",
    503: "The database cannot be reached; nothing was changed.",
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
    return {
        "operationId": name,
        "tags": [tag],
        "summary": summary,
        "description": description,
        # One of these scopes of a bearer key: OpenAPI 3.1 lets any scheme name the roles that it needs.
        "security": [{"key": [scope]} for scope in scopes],
        **({} if parameters is None else {"parameters": parameters}),
        **({} if body is None else {"requestBody": {"required": True, "content": body}}),
        "responses": {str(status): said for status, said in sorted(responses.items())},
    }


def query_parameters(model: type[BaseModel]) -> list[Document]:
    """The parameters that a query's model reads."""
    schema = model.model_json_schema(ref_template=REF)
    required = schema.get("required", [])
    return [_parameter(name, dict(s), required=name in required) for name, s in schema["properties"].items()]


def _parameter(name: str, schema: Document, *, required: bool) -> Document:
    """A query parameter is there or not; it cannot be null."""
    schema.pop("title", None)
    description = schema.pop("description", "")
    if "anyOf" in schema:
        alternatives = [s for s in schema.pop("anyOf") if s != {"type": "null"}]
        schema = {**schema, **alternatives[0]}
        description = description or schema.pop("description", "")
    if schema.get("default", ...) is None:
        del schema["default"]
    return {"name": name, "in": "query", "required": required, "description": description, "schema": schema}


def json_content(model: str) -> Document:
    """JSON of this schema."""
    return {"application/json": {"schema": {"$ref": REF.format(model=model)}}}


def json_answer(model: str, description: str) -> Document:
    """An answer of this schema."""
    return {"description": description, "content": json_content(model)}


def problems(*statuses: int) -> dict[int, Document]:
    """The problem answers with these statuses."""
    content = {PROBLEM: {"schema": {"$ref": REF.format(model="ProblemDetails")}}}
    return {status: {"description": WHY[status], "content": content} for status in statuses}


def path_id(name: str) -> Document:
    """A path's parameter that is one of our own identifiers."""
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
