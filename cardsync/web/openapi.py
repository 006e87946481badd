"""The OpenAPI 3.1 description, built from the models that check and write the API's own inputs and answers.

Written out by us, once at start: the webhook and the problem answers have no model that a generator could read them from.
"""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from cardsync.web import deletion_schemas, openapi_deletions, schemas
from cardsync.web.openapi_parts import (
    REF,
    Document,
    json_answer,
    json_content,
    operation,
    path_id,
    problems,
    query_parameters,
)

_ANSWERS: Final[tuple[type[BaseModel], ...]] = (
    schemas.Card,
    schemas.CardList,
    schemas.Reconciliation,
    schemas.Receipt,
    schemas.Liveness,
    schemas.Readiness,
    schemas.ProblemDetails,
    *deletion_schemas.ANSWERS,
)
_INPUTS: Final[tuple[type[BaseModel], ...]] = (schemas.ReconciliationRequest, *deletion_schemas.INPUTS)
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
            {"name": "Deletions", "description": "From request to proof."},
            {"name": "Webhook", "description": "Where Ottu sends its notifications."},
            {"name": "Health", "description": "For probes and monitoring; no key."},
        ],
        "paths": {
            "/v1/cards": {"get": _list_cards()},
            "/v1/cards/{card_id}": {"get": _show_card()},
            "/v1/agreements/card": {"get": _agreements_card()},
            "/v1/reconciliations": {"post": _reconcile()},
            **openapi_deletions.paths(),
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
    models = [(m, "serialization") for m in _ANSWERS] + [(m, "validation") for m in _INPUTS]
    _, definitions = models_json_schema(models, ref_template=REF)  # type: ignore[arg-type]  # modes are literals
    found: Document = definitions["$defs"]
    # `token` is left out of an answer without its scope; pydantic counts a field with a default as always there.
    found["Card"]["required"] = [name for name in found["Card"]["required"] if name != "token"]
    found["ProblemDetails"]["required"] = ["type", "title", "status", "detail"]
    return found


def _list_cards() -> Document:
    about = "The customer's active cards, or those in the states asked for. A customer nothing is known of has none."
    return operation(
        "listCards",
        "Cards",
        "Cards of a customer",
        about,
        scopes=("cards:read",),
        parameters=query_parameters(schemas.CardsQuery),
        responses={200: json_answer("CardList", "The cards.")} | problems(401, 403, 422, 429, 503),
    )


def _show_card() -> Document:
    return operation(
        "getCard",
        "Cards",
        "One card",
        "In whatever state it is.",
        scopes=("cards:read",),
        parameters=[path_id("card_id")],
        responses={200: json_answer("Card", "The card.")} | problems(401, 403, 404, 429, 503),
    )


def _agreements_card() -> Document:
    return operation(
        "getAgreementsCard",
        "Cards",
        "The card of an agreement",
        "The active card that the agreement is charged to.",
        scopes=("cards:read",),
        parameters=query_parameters(schemas.AgreementQuery),
        responses={200: json_answer("Card", "The card.")} | problems(401, 403, 404, 422, 429, 503),
    )


def _reconcile() -> Document:
    about = (
        "Ask Ottu for the customer's cards as soon as the budget of calls allows. Any number of requests make one call."
    )
    return operation(
        "reconcile",
        "Cards",
        "Look at a customer again",
        about,
        scopes=("cards:reconcile",),
        body=json_content("ReconciliationRequest"),
        responses={202: json_answer("Reconciliation", "It is queued.")}
        | problems(400, 401, 403, 409, 411, 413, 415, 422, 429, 503),
    )


def _webhook() -> Document:
    about = (
        "Ottu's notifications, signed in the field `signature`. Success is answered as soon as the notification is durable; "
        "one that is authentic and of no interest is `ignored`, with success too. 200 or 201 is a setting: it steers where "
        "the payer's browser goes."
    )
    body = {"application/json": {"schema": {"type": "object", "description": "As Ottu describes its payment webhook."}}}
    receipts = {status: json_answer("Receipt", "It is durable.") for status in (200, 201)}
    nowhere = {
        503: {**problems(503)[503], "description": "Neither the database nor the disk takes it: it is not kept."}
    }
    unsigned = {
        401: {
            **problems(401)[401],
            "description": "The signature is missing, malformed, or no configured key made it.",
        }
    }
    return operation(
        "receiveNotification",
        "Webhook",
        "Receive a notification",
        about,
        body=body,
        responses=receipts | unsigned | problems(400, 411, 413, 415) | nowhere,
    )


def _livez() -> Document:
    answer = {200: json_answer("Liveness", "It answers.")}
    return operation("livez", "Health", "Is the process alive?", "Asks nothing of anybody.", responses=answer)


def _readyz() -> Document:
    about = (
        "Names each part. Without the broker, Ottu or the database it is degraded and still takes notifications (these wait on "
        "disk for the database), so that is no 503."
    )
    answers = {
        200: json_answer("Readiness", "It can."),
        503: json_answer("Readiness", "It cannot: see `checks`."),
    }
    return operation("readyz", "Health", "Can it do its work?", about, responses=answers)


def _metrics() -> Document:
    text = {"description": "Figures.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    return operation("metrics", "Health", "Figures for Prometheus", "In its text format.", responses={200: text})
