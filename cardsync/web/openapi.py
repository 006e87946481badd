"""The OpenAPI 3.1 description, built from the models that check and write the API's own inputs and answers.

Written out by us, once at start: the webhook and the problem answers have no model that a generator could read them from.
"""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from cardsync.web import schemas
from cardsync.web.problems import MEDIA_TYPE as PROBLEM

Document = dict[str, Any]

_REF: Final = "#/components/schemas/{model}"
_ANSWERS: Final[tuple[type[BaseModel], ...]] = (
    schemas.Card,
    schemas.CardList,
    schemas.Reconciliation,
    schemas.Receipt,
    schemas.Liveness,
    schemas.Readiness,
    schemas.ProblemDetails,
)
_WHY: Final = {
    400: "The body is not one JSON object in UTF-8, or shorter than announced.",
    401: "No valid key.",
    403: "The key lacks the scope.",
    404: "There is no such thing.",
    409: "Ottu offers no list of cards here (`OTTU_CARDS_API=unavailable`).",
    411: "No `Content-Length`.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "A field is missing, unknown or not valid.",
    503: "The database cannot be reached; nothing was changed.",
}
_ABOUT: Final = """\
The merchant's own registry of the card tokens that Ottu keeps.

A card's token is shown only to keys with the scope `tokens:read`, and never stands in a URL, a log or an error. Times
are RFC 3339 in UTC. Errors are problem details (RFC 9457). Every answer carries `X-Request-ID`, which finds it in the
logs; send one of your own to choose it.
"""


def build(version: str) -> Document:
    """Build the whole description."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "cardsync", "version": version, "description": _ABOUT},
        "tags": [
            {"name": "Cards", "description": "What may be shown and charged."},
            {"name": "Webhook", "description": "Where Ottu sends its notifications."},
            {"name": "Health", "description": "For probes and monitoring; no key."},
        ],
        "paths": {
            "/v1/cards": {"get": _list_cards()},
            "/v1/cards/{card_id}": {"get": _show_card()},
            "/v1/agreements/card": {"get": _agreements_card()},
            "/v1/reconciliations": {"post": _reconcile()},
            "/webhooks/ottu": {"post": _webhook()},
            "/livez": {"get": _livez()},
            "/readyz": {"get": _readyz()},
            "/metrics": {"get": _metrics()},
        },
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "Made with `cardsync keys create`."}
            },
        },
    }


def _schemas() -> Document:
    models = [(m, "serialization") for m in _ANSWERS] + [(schemas.ReconciliationRequest, "validation")]
    _, definitions = models_json_schema(models, ref_template=_REF)  # type: ignore[arg-type]  # modes are literals
    found: Document = definitions["$defs"]
    # `token` is left out of an answer without its scope; pydantic counts a field with a default as always there.
    found["Card"]["required"] = [name for name in found["Card"]["required"] if name != "token"]
    found["ProblemDetails"]["required"] = ["type", "title", "status", "detail"]
    return found


def _list_cards() -> Document:
    about = "The customer's active cards, or those in the states asked for. A customer nothing is known of has none."
    return _operation(
        "listCards",
        "Cards",
        "Cards of a customer",
        about,
        scope="cards:read",
        parameters=_query_parameters(schemas.CardsQuery),
        responses={200: _json_answer("CardList", "The cards.")} | _problems(401, 403, 422, 503),
    )


def _show_card() -> Document:
    card_id = {
        "name": "card_id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "format": "uuid"},
    }
    return _operation(
        "getCard",
        "Cards",
        "One card",
        "In whatever state it is.",
        scope="cards:read",
        parameters=[card_id],
        responses={200: _json_answer("Card", "The card.")} | _problems(401, 403, 404, 503),
    )


def _agreements_card() -> Document:
    return _operation(
        "getAgreementsCard",
        "Cards",
        "The card of an agreement",
        "The active card that the agreement is charged to.",
        scope="cards:read",
        parameters=_query_parameters(schemas.AgreementQuery),
        responses={200: _json_answer("Card", "The card.")} | _problems(401, 403, 404, 422, 503),
    )


def _reconcile() -> Document:
    about = (
        "Ask Ottu for the customer's cards as soon as the budget of calls allows. Any number of requests make one call."
    )
    return _operation(
        "reconcile",
        "Cards",
        "Look at a customer again",
        about,
        scope="cards:reconcile",
        body=_json_content("ReconciliationRequest"),
        responses={202: _json_answer("Reconciliation", "It is queued.")}
        | _problems(400, 401, 403, 409, 411, 413, 415, 422, 503),
    )


def _webhook() -> Document:
    about = (
        "Ottu's notifications, signed in the field `signature`. Success is answered as soon as the notification is durable; "
        "one that is authentic and of no interest is `ignored`, with success too. 200 or 201 is a setting: it steers where "
        "the payer's browser goes."
    )
    body = {"application/json": {"schema": {"type": "object", "description": "As Ottu describes its payment webhook."}}}
    receipts = {status: _json_answer("Receipt", "It is durable.") for status in (200, 201)}
    unsigned = {
        401: {
            **_problems(401)[401],
            "description": "The signature is missing, malformed, or no configured key made it.",
        }
    }
    return _operation(
        "receiveNotification",
        "Webhook",
        "Receive a notification",
        about,
        body=body,
        responses=receipts | unsigned | _problems(400, 411, 413, 415, 503),
    )


def _livez() -> Document:
    answer = {200: _json_answer("Liveness", "It answers.")}
    return _operation("livez", "Health", "Is the process alive?", "Asks nothing of anybody.", responses=answer)


def _readyz() -> Document:
    about = (
        "Names each part. Without the broker or Ottu it is degraded and still takes notifications, so that is no 503."
    )
    answers = {
        200: _json_answer("Readiness", "It can."),
        503: _json_answer("Readiness", "It cannot: see `checks`."),
    }
    return _operation("readyz", "Health", "Can it do its work?", about, responses=answers)


def _metrics() -> Document:
    text = {"description": "Figures.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    return _operation("metrics", "Health", "Figures for Prometheus", "In its text format.", responses={200: text})


def _operation(
    name: str,
    tag: str,
    summary: str,
    description: str,
    *,
    responses: dict[int, Document],
    scope: str | None = None,
    parameters: list[Document] | None = None,
    body: Document | None = None,
) -> Document:
    return {
        "operationId": name,
        "tags": [tag],
        "summary": summary,
        "description": description,
        # The scopes of a bearer key: OpenAPI 3.1 lets any scheme name the roles that it needs.
        "security": [] if scope is None else [{"key": [scope]}],
        **({} if parameters is None else {"parameters": parameters}),
        **({} if body is None else {"requestBody": {"required": True, "content": body}}),
        "responses": {str(status): said for status, said in sorted(responses.items())},
    }


def _query_parameters(model: type[BaseModel]) -> list[Document]:
    schema = model.model_json_schema(ref_template=_REF)
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


def _json_content(model: str) -> Document:
    return {"application/json": {"schema": {"$ref": _REF.format(model=model)}}}


def _json_answer(model: str, description: str) -> Document:
    return {"description": description, "content": _json_content(model)}


def _problems(*statuses: int) -> dict[int, Document]:
    content = {PROBLEM: {"schema": {"$ref": _REF.format(model="ProblemDetails")}}}
    return {status: {"description": _WHY[status], "content": content} for status in statuses}
