"""``/v1``: the registry for services that would rather ask over HTTP than in SQL. Reads change nothing; tokens need a scope."""

from __future__ import annotations

import uuid
from http import HTTPStatus

import structlog
from flask import Blueprint, Response, g, request

from cardsync import freshen
from cardsync.errors import NotFound
from cardsync.store import registry
from cardsync.store.registry import RegisteredCard
from cardsync.web import deletions, schemas
from cardsync.web.answers import json_answer
from cardsync.web.auth import caller, may_read_tokens, requires
from cardsync.web.inputs import read_json, read_query
from cardsync.web.problems import Problem
from cardsync.web.services import services
from cardsync.web.steadylog import SteadyLog

log = structlog.get_logger(__name__)
_strangers = SteadyLog()  # whoever has no key can still send requests

blueprint = Blueprint("api", __name__, url_prefix="/v1")
blueprint.register_blueprint(deletions.blueprint)  # its requests are logged here too


@blueprint.get("/cards")
@requires("cards:read")
def list_cards() -> Response:
    """A customer's cards."""
    query = read_query(schemas.CardsQuery)
    stale = query.max_age is not None and not _freshen(query, query.max_age)
    tokens = may_read_tokens()
    with services().engine.connect() as connection:
        # In this order what is shown is at least as fresh as it claims to be.
        reconciled_at = registry.reconciled_at(connection, query.environment, query.customer_id)
        cards = registry.cards_of_customer(
            connection,
            query.environment,
            query.customer_id,
            statuses=query.statuses(),
            pg_code=query.pg_code,
            tokens=tokens,
        )
    shown = [schemas.Card.model_validate(card) for card in cards]
    answer = schemas.CardList(cards=shown, reconciled_at=reconciled_at, stale=stale)
    hidden = None if tokens else {"cards": {"__all__": {"token"}}}
    return json_answer(answer.model_dump_json(exclude=hidden))


@blueprint.get("/cards/<uuid:card_id>")
@requires("cards:read")
def show_card(card_id: uuid.UUID) -> Response:
    """One card, in whatever state."""
    tokens = may_read_tokens()
    with services().engine.connect() as connection:
        return _card(registry.card(connection, card_id, tokens=tokens), tokens=tokens)


@blueprint.get("/agreements/card")
@requires("cards:read")
def show_agreements_card() -> Response:
    """The card that an agreement is charged to."""
    query = read_query(schemas.AgreementQuery)
    tokens = may_read_tokens()
    with services().engine.connect() as connection:
        card = registry.card_of_agreement(connection, query.environment, query.agreement_id, tokens=tokens)
    return _card(card, tokens=tokens)


@blueprint.post("/reconciliations")
@requires("cards:reconcile")
def reconcile() -> Response:
    """Ask for a look at a customer; it is done in the background, once however often it was asked for."""
    wanted = read_json(schemas.ReconciliationRequest)
    if services().settings.ottu_cards_api == "unavailable":
        raise Problem(HTTPStatus.CONFLICT, "Ottu offers no list of cards here: webhooks are the only source.")
    freshen.ask(services().engine, wanted.environment, wanted.customer_id, lane="hint", bells=services().bells)
    answer = schemas.Reconciliation(environment=wanted.environment, customer_id=wanted.customer_id)
    return json_answer(answer.model_dump_json(), HTTPStatus.ACCEPTED)


@blueprint.after_request
def log_request(response: Response) -> Response:
    """Who asked for what kind of thing; the query is left out, since it names a customer."""
    facts = {"method": request.method, "route": str(request.url_rule), "status": response.status_code}
    if "api_key" in g:
        log.info("api_request", **facts, key_id=str(caller().key_id))
    else:
        _strangers.warning("api_request_refused", **facts)
    return response


def _freshen(query: schemas.CardsQuery, max_age_seconds: int) -> bool:
    """Whether what is known is fresh enough, or could be made so. Few may wait for it at once; the rest take what is known."""
    here = services()
    if here.settings.ottu_cards_api == "unavailable":
        return False
    wanted = freshen.Wanted(query.environment, query.customer_id, max_age_seconds)
    served = freshen.freshen(here.engine, wanted, bells=here.bells, places=here.waiting_readers)
    return served in ("fresh", "waited")


def _card(card: RegisteredCard | None, *, tokens: bool) -> Response:
    if card is None:
        raise NotFound("there is no such card")
    return json_answer(schemas.Card.model_validate(card).model_dump_json(exclude=None if tokens else {"token"}))
