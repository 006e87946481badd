"""``/v1``: which cards expire soon, and which agreements are at risk, a page at a time; and what billing tells of charges."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict
from http import HTTPStatus
from typing import Final

from flask import Blueprint, Response
from sqlalchemy import Connection

from cardsync import db
from cardsync.store import lifecycle
from cardsync.stories.note_charge import note_charge
from cardsync.web.api import idempotency
from cardsync.web.api import lifecycle_schemas as schemas
from cardsync.web.api.auth import call_quota, requires
from cardsync.web.requests import read_json, read_query
from cardsync.web.responses import Problem, json_answer
from cardsync.web.services import services

# Two programs' clocks: what is later than this was not charged yet.
CLOCKS_DIFFER: Final = dt.timedelta(hours=1)
# Ottu's longest agreements run for some years.
FARTHEST: Final = dt.timedelta(days=3_660)

blueprint = Blueprint("lifecycle", __name__)


@blueprint.get("/cards/expiring")
@requires("cards:read")
def list_expiring_cards() -> Response:
    """Active cards whose last day is near."""
    query = read_query(schemas.ExpiringCardsQuery)
    with services().engine.connect() as connection:
        found = lifecycle.expiring_cards(
            connection, query.environment, within_days=query.within_days, after=query.after, limit=query.limit
        )
    cards = [
        schemas.ExpiringCard.model_validate({**asdict(one.card), "expires_in_days": one.expires_in_days})
        for one in found
    ]
    next_after = cards[-1].card_id if len(cards) == query.limit else None
    page = schemas.ExpiringCardPage(cards=cards, next_after=next_after)
    return json_answer(page.model_dump_json(exclude={"cards": {"__all__": {"token"}}}))


@blueprint.get("/agreements/at-risk")
@requires("cards:read")
def list_agreements_at_risk() -> Response:
    """Agreements whose next charge may fail."""
    query = read_query(schemas.AtRiskQuery)
    with services().engine.connect() as connection:
        found = lifecycle.agreements_at_risk(connection, query.environment, after=query.after, limit=query.limit)
    agreements = [schemas.AgreementAtRisk.model_validate(one) for one in found]
    next_after = agreements[-1].agreement_id if len(agreements) == query.limit else None
    page = schemas.AgreementAtRiskPage(agreements=agreements, next_after=next_after)
    return json_answer(page.model_dump_json())


@blueprint.post("/charges")
@requires("cards:reconcile")
def tell_of_charge() -> Response:
    """A charge of an agreement that Ottu does not notify, or when the next one is."""
    notice = read_json(schemas.ChargeNotice)
    is_due = False

    def note(connection: Connection) -> Response:
        nonlocal is_due
        now = db.moment(connection)
        _require_possible_times(notice, now)
        noted = note_charge(
            connection,
            notice.environment,
            notice.agreement_id,
            charged_at=notice.charged_at or (None if notice.next_charge_at else now),
            next_charge_at=notice.next_charge_at,
            now=now,
            lists=services().settings.ottu_cards_api == "enabled",
            quota=call_quota(),
        )
        is_due = noted.is_due
        answer = schemas.ChargeNoted(
            environment=notice.environment, agreement_id=notice.agreement_id, next_charge_at=noted.next_charge_at
        )
        return json_answer(answer.model_dump_json(), HTTPStatus.ACCEPTED)

    answer = idempotency.once("charge", notice.model_dump(), note)
    if is_due:
        services().bells.ring()
    return answer


def _require_possible_times(notice: schemas.ChargeNotice, now: dt.datetime) -> None:
    """By the database's clock: each web's own may be minutes off, and the row is compared with the database's."""
    if notice.charged_at is not None and not now - FARTHEST < notice.charged_at < now + CLOCKS_DIFFER:
        raise Problem("impossible_time", "charged_at must be a time of the last ten years.")
    if notice.next_charge_at is not None and not now < notice.next_charge_at < now + FARTHEST:
        raise Problem("impossible_time", "next_charge_at must be a time of the next ten years.")
