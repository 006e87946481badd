"""``/v1``: the registry for services that would rather ask over HTTP than in SQL. Reads change nothing; tokens need a scope."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from http import HTTPStatus

import structlog
from flask import Blueprint, Response, g, request
from sqlalchemy import Connection

from cardsync import metrics
from cardsync.errors import NotFound
from cardsync.store import gateway_asks, registry
from cardsync.store.access import token_reads
from cardsync.store.registry import RegisteredCard
from cardsync.stories import refresh, refresh_agreement, refresh_gateway
from cardsync.web import headers
from cardsync.web.api import changes, customers, deletions, lifecycle, operations, schemas
from cardsync.web.api.auth import call_quota, caller, may_read_tokens, rate_limit_headers, requires
from cardsync.web.rate_limits import RateLimitedLog
from cardsync.web.requests import read_id, read_query
from cardsync.web.responses import json_answer
from cardsync.web.services import services

log = structlog.get_logger(__name__)
_strangers = RateLimitedLog()  # a client without a key can send requests too

blueprint = Blueprint("api", __name__, url_prefix="/v1")
for part in (deletions, customers, operations, lifecycle, changes):
    blueprint.register_blueprint(part.blueprint)  # its requests are logged here too


@blueprint.get("/cards")
@requires("cards:read")
def list_cards() -> Response:
    """A customer's cards."""
    query = read_query(schemas.CardsQuery)
    stale = query.max_age is not None and not _freshen(query, query.max_age)
    with services().engine.begin() as connection:
        # Freshness is read first, so that the cards are at least as fresh as the answer says.
        reconciled_at = _known_as_of(connection, query)
        cards = registry.cards_of_customer(
            connection,
            query.environment,
            query.customer_id,
            statuses=query.statuses(),
            pg_code=query.pg_code,
        )
        cards = _with_tokens(connection, cards)
    shown = [schemas.Card.model_validate(card) for card in cards]
    answer = schemas.CardList(cards=shown, reconciled_at=reconciled_at, stale=stale)
    hidden = None if may_read_tokens() else {"cards": {"__all__": {"token"}}}
    return json_answer(answer.model_dump_json(exclude=hidden))


@blueprint.get("/cards/<card_id>")
@requires("cards:read")
def show_card(card_id: str) -> Response:
    """One card, in any state."""
    wanted = read_id("card_id", card_id)
    with services().engine.begin() as connection:
        return _card(connection, registry.card(connection, wanted), otherwise="card_not_found")


@blueprint.get("/agreements/card")
@requires("cards:read")
def show_agreements_card() -> Response:
    """The card that an agreement is charged to."""
    query = read_query(schemas.AgreementQuery)
    stale = None if query.max_age is None else not _make_certain(query, query.max_age)
    with services().engine.begin() as connection:
        card = registry.card_of_agreement(connection, query.environment, query.agreement_id)
        if card is not None and query.customer_id not in (None, card.customer_id):
            card = None
        return _card(connection, card, otherwise="agreement_without_card", stale=stale)


@blueprint.after_request
def finish(response: Response) -> Response:
    """Give a read its ETag. Log which key asked for which kind of thing; the query is left out, since it names a customer."""
    response.headers.update(rate_limit_headers())
    if request.method == "GET" and response.status_code == HTTPStatus.OK:
        response.add_etag()
        response.make_conditional(request)  # 304 without a body if the client has this answer already (If-None-Match)
    facts = {"method": request.method, "route": str(request.url_rule), "status": response.status_code}
    facts["milliseconds"] = round(headers.seconds_so_far() * 1_000, 1)
    if "api_key" in g:
        log.info("api_request", **facts, key_id=str(caller().key_id))
        headers.note_line(logging.INFO)
    else:
        _strangers.warning("api_request_refused", **facts)
    return response


def _freshen(query: schemas.CardsQuery, max_age_seconds: int) -> bool:
    """Whether what is known is fresh enough, or could be made so. Few may wait for it at once; the rest take what is known.

    So does a key that has caused all its calls of the day: a checkout with yesterday's cards is better than none.
    """
    here = services()
    if here.settings.ottu_cards_api == "unavailable":
        return False
    of_whom = query.environment, query.customer_id
    if query.only_gateway is not None:
        one = refresh_gateway.WantedGateway(*of_whom, query.only_gateway, max_age_seconds)
        served = refresh_gateway.refresh_gateway(
            here.engine, one, bells=here.bells, places=here.waiting_readers, quota=call_quota()
        )
    else:
        wanted = refresh.Wanted(*of_whom, max_age_seconds)
        served = refresh.refresh(here.engine, wanted, bells=here.bells, places=here.waiting_readers, quota=call_quota())
    return served in ("fresh", "waited")


def _known_as_of(connection: Connection, query: schemas.CardsQuery) -> dt.datetime | None:
    """When the newest believed list was asked for, which may be one of the only gateway that is asked for."""
    if query.only_gateway is None:
        return registry.reconciled_at(connection, query.environment, query.customer_id)
    known = gateway_asks.freshness(connection, query.environment, query.customer_id, query.only_gateway)
    return None if known is None else known.as_of


def _with_tokens(connection: Connection, cards: Sequence[RegisteredCard]) -> list[RegisteredCard]:
    """The cards with their tokens, if the caller may read them: those of active cards, each with a record of the read."""
    if not may_read_tokens():
        return list(cards)
    tokens = token_reads.give(connection, caller().key_id, [card.card_id for card in cards], services().ring)
    metrics.TOKEN_READS.inc(len(tokens))
    return [replace(c, token=tokens[c.card_id].reveal()) if c.card_id in tokens else c for c in cards]


def _make_certain(query: schemas.AgreementQuery, max_age_seconds: int) -> bool:
    """Whether it is certain enough which card the agreement is charged to, or could be made so; as ``_freshen``."""
    here = services()
    if here.settings.ottu_cards_api == "unavailable":
        return False
    wanted = refresh_agreement.WantedAgreement(
        query.environment, query.agreement_id, query.customer_id, max_age_seconds
    )
    served = refresh_agreement.refresh_agreement(here.engine, wanted, places=here.waiting_readers, quota=call_quota())
    return served in ("fresh", "waited")


def _card(
    connection: Connection, card: RegisteredCard | None, *, otherwise: str, stale: bool | None = None
) -> Response:
    if card is None:
        raise NotFound("there is no such card", code=otherwise)
    (shown,) = _with_tokens(connection, [card])
    hidden = set() if may_read_tokens() else {"token"}
    if stale is None:
        return json_answer(schemas.Card.model_validate(shown).model_dump_json(exclude=hidden))
    answer = schemas.AgreementCard.model_validate({**asdict(shown), "stale": stale})
    return json_answer(answer.model_dump_json(exclude=hidden))
