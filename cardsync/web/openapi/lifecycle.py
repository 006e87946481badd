"""The description of what expires, what is at risk, and what billing tells of charges."""

from __future__ import annotations

from cardsync.web.api import lifecycle_schemas
from cardsync.web.openapi.parts import (
    Document,
    idempotency_key,
    json_answer,
    json_content,
    noted,
    operation,
    problems,
    query_parameters,
)


def paths() -> Document:
    """The operations, by path."""
    return {
        "/v1/cards/expiring": {"get": _expiring()},
        "/v1/agreements/at-risk": {"get": _at_risk()},
        "/v1/charges": {"post": _charge()},
    }


def _expiring() -> Document:
    about = (
        "Active cards whose last day is near, in the merchant's time zone, in order of `card_id`. The feed says the same as "
        "`expiring` at 60, 30 and 7 days, and as `expired`."
    )
    return operation(
        "listExpiringCards",
        "Cards",
        "Cards that expire soon",
        about,
        scopes=("cards:read",),
        parameters=query_parameters(lifecycle_schemas.ExpiringCardsQuery),
        responses={200: json_answer("ExpiringCardPage", "A page of cards.")} | problems(401, 403, 422, 429, 503),
    )


def _at_risk() -> Document:
    about = (
        "Agreements known here that have no active card, or one that is expired, expires within 30 days, or is being deleted. "
        "One whose own last day is over is not listed."
    )
    return operation(
        "listAgreementsAtRisk",
        "Cards",
        "Agreements whose next charge may fail",
        about,
        scopes=("cards:read",),
        parameters=query_parameters(lifecycle_schemas.AtRiskQuery),
        responses={200: json_answer("AgreementAtRiskPage", "A page of agreements.")}
        | problems(401, 403, 422, 429, 503),
    )


def _charge() -> Document:
    about = (
        "Ottu notifies the first payment of an agreement, and not the later charges. Tell of each of those, or of the next one: "
        "the card is looked at shortly before it. The same charge may be told twice."
    )
    why = "`charged_at` lies ahead, or `next_charge_at` behind; or the idempotency key came with another body."
    impossible = {409: {**problems(409)[409], "description": why}}
    return operation(
        "tellOfCharge",
        "Cards",
        "Tell of an agreement's charge",
        about,
        scopes=("cards:reconcile",),
        parameters=[idempotency_key(required=False)],
        body=json_content("ChargeNotice"),
        responses={202: noted("ChargeNoted", "It is noted.")}
        | problems(400, 401, 403, 404, 411, 413, 415, 422, 429, 503)
        | impossible,
    )
