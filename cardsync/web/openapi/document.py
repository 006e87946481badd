"""The OpenAPI 3.1 description, built from the models that check and write the API's own inputs and answers.

Written out by us, once at start: the webhook and the problem answers have no model that a generator could read them from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from cardsync.web.api import (
    change_schemas,
    customer_schemas,
    deletion_schemas,
    lifecycle_schemas,
    operation_schemas,
    schemas,
)
from cardsync.web.openapi import changes, customers, deletions, examples, lifecycle, operations
from cardsync.web.openapi.parts import (
    REF,
    Document,
    json_answer,
    operation,
    path_id,
    problems,
    query_parameters,
)

_ANSWERS: Final[tuple[type[BaseModel], ...]] = (
    schemas.Card,
    schemas.AgreementCard,
    schemas.CardList,
    schemas.Receipt,
    schemas.Liveness,
    schemas.Readiness,
    schemas.ProblemDetails,
    *customer_schemas.ANSWERS,
    *deletion_schemas.ANSWERS,
    *operation_schemas.ANSWERS,
    *lifecycle_schemas.ANSWERS,
    *change_schemas.ANSWERS,
)
_INPUTS: Final[tuple[type[BaseModel], ...]] = (
    *customer_schemas.INPUTS,
    *deletion_schemas.INPUTS,
    *lifecycle_schemas.INPUTS,
)
_ABOUT: Final = """\
The merchant's own registry of the card tokens that Ottu keeps.

A card's token is shown only to keys with the scope `tokens:read`, and never stands in a URL, a log or an error. Times
are RFC 3339 in UTC. Errors are problem details (RFC 9457). Every answer carries `X-Request-ID`, which every
line about the request has, in the application's log and in the proxy's; send one of your own to choose it.
"""


def build(version: str) -> Document:
    """Build the whole description."""
    document: Document = {
        "openapi": "3.1.0",
        "info": {
            "title": "cardsync",
            "version": version,
            "description": _ABOUT,
            "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"},
            "contact": {"name": "The operators of this cardsync"},
        },
        "servers": [{"url": "/", "description": "This deployment."}],
        "tags": [
            {"name": "Cards", "description": "What may be shown and charged."},
            {"name": "Customers", "description": "How fresh what is known is, and asking for a look."},
            {"name": "Deletions", "description": "From request to proof."},
            {"name": "Operations", "description": "For operators' programs."},
            {"name": "Webhook", "description": "Where Ottu sends its notifications."},
            {"name": "Health", "description": "For orchestrators and monitoring; no key."},
        ],
        "paths": {
            "/v1/cards": {"get": _list_cards()},
            "/v1/cards/{card_id}": {"get": _show_card()},
            "/v1/agreements/card": {"get": _agreements_card()},
            **customers.paths(),
            **deletions.paths(),
            **operations.paths(),
            **lifecycle.paths(),
            **changes.paths(),
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
    used = _named_from(document["paths"], document["components"]["schemas"])
    document["components"]["schemas"] = {n: s for n, s in document["components"]["schemas"].items() if n in used}
    examples.complete(document)
    return document


def _named_from(start: object, schemas: Mapping[str, Document]) -> set[str]:
    """The schemas that a part of the description names, and those that these name: what no path leads to is of no use."""
    found: set[str] = set()
    left = [start]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            name = str(one.get("$ref", "")).rsplit("/", 1)[-1]
            if name in schemas and name not in found:
                found.add(name)
                left.append(schemas[name])
            left.extend(one.values())
        elif isinstance(one, list):
            left.extend(one)
    return found


def _schemas() -> Document:
    models = [(m, "serialization") for m in _ANSWERS] + [(m, "validation") for m in _INPUTS]
    _, definitions = models_json_schema(models, ref_template=REF)  # type: ignore[arg-type]  # modes are literals
    found: Document = definitions["$defs"]
    # `token` is left out of an answer without its scope; pydantic counts a field with a default as always there.
    for card in ("Card", "ExpiringCard", "AgreementCard"):
        found[card]["required"] = [name for name in found[card]["required"] if name not in ("token", "stale")]
    del found["ExpiringCard"]["properties"]["token"]  # never there
    found["ProblemDetails"]["required"] = ["type", "code", "title", "status", "detail"]
    # Generators take a field with a default for one that is always there: a client would have to send it, or may rely on it.
    for schema in found.values():
        for property_ in schema.get("properties", {}).values():
            property_.pop("default", None)
    return found


def _list_cards() -> Document:
    about = "The customer's active cards, or those in the states asked for. An unknown customer has none."
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
        "A card in any state.",
        scopes=("cards:read",),
        parameters=[path_id("card_id", "Our own identifier of the card.")],
        responses={200: json_answer("Card", "The card.")} | problems(401, 403, 404, 422, 429, 503),
    )


def _agreements_card() -> Document:
    return operation(
        "getAgreementsCard",
        "Cards",
        "The card of an agreement",
        "The active card that the agreement is charged to. With `max_age`, Ottu is asked about it where that is older or open.",
        scopes=("cards:read",),
        parameters=query_parameters(schemas.AgreementQuery),
        responses={200: json_answer("AgreementCard", "The card.")} | problems(401, 403, 404, 422, 429, 503),
    )


def _webhook() -> Document:
    about = (
        "Ottu's notifications, signed in the field `signature`. Success is answered as soon as the notification is durable; "
        "one that is authentic and of no interest is `ignored`, with success too. 200 or 201 is a setting: it steers where "
        "the payer's browser goes."
    )
    schema = {"type": "object", "description": "As Ottu describes its payment webhook."}
    body = {"application/json": {"schema": schema, "example": examples.NOTIFICATION}}
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
    answer = {200: json_answer("Liveness", "It answers.")} | _of_the_proxy(429)
    return operation("livez", "Health", "Is the process alive?", "Checks no other service.", responses=answer)


def _readyz() -> Document:
    about = (
        "Names each part. Without the broker, Ottu or the database it is degraded and still takes notifications (these wait on "
        "disk for the database), so that is no 503."
    )
    answers = {
        200: json_answer("Readiness", "Ready."),
        503: json_answer("Readiness", "Not ready: see `checks`."),
    } | _of_the_proxy(404)
    return operation("readyz", "Health", "Can it do its work?", about, responses=answers)


def _metrics() -> Document:
    figures = {"schema": {"type": "string"}, "example": "cardsync_feed_head 48213.0\n"}
    text = {"description": "Figures.", "content": {"text/plain": figures}}
    answers = {200: text} | _of_the_proxy(404)
    return operation("metrics", "Health", "Figures for Prometheus", "In its text format.", responses=answers)


def _of_the_proxy(status: int) -> dict[int, Document]:
    """What only the proxy answers here: too many connections, or an address that is not for the world."""
    said = {404: "The shipped proxy keeps this for the network behind it.", 429: "Too many connections."}
    return {status: {**problems(status)[status], "description": said[status]}}
