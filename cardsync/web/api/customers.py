"""``/v1/customers`` and ``/v1/reconciliations``: how fresh what is known of a customer is, and asking for a look."""

from __future__ import annotations

from http import HTTPStatus

from flask import Blueprint, Response, url_for
from sqlalchemy import Connection

from cardsync.errors import NotFound
from cardsync.store import looks, registry
from cardsync.web.api import customer_schemas as schemas
from cardsync.web.api import idempotency
from cardsync.web.api.auth import call_quota, caller, calls_spent, requires
from cardsync.web.requests import read_id, read_json, read_query
from cardsync.web.responses import Problem, json_answer
from cardsync.web.services import services

blueprint = Blueprint("customers", __name__)


@blueprint.get("/customers")
@requires("cards:read")
def show_customer() -> Response:
    """How fresh what is known of a customer is."""
    query = read_query(schemas.CustomerQuery)
    with services().engine.connect() as connection:
        customer = registry.customer(connection, query.environment, query.customer_id)
    if customer is None:
        raise NotFound("there is no such customer", code="customer_not_found")
    return json_answer(schemas.Customer.model_validate(customer).model_dump_json())


@blueprint.post("/reconciliations")
@requires("cards:reconcile")
def reconcile() -> Response:
    """Ask for a look at a customer. It is done in the background, once for any number of requests."""
    wanted = read_json(schemas.ReconciliationRequest)
    if services().settings.ottu_cards_api == "unavailable":
        raise Problem("cards_api_unavailable", "Ottu offers no list of cards here: webhooks are the only source.")
    due: list[int] = []

    def ask(connection: Connection) -> Response:
        whose = (wanted.environment, wanted.customer_id)
        asked = looks.request(connection, *whose, asker=caller().asker, quota=call_quota())
        if asked is None:
            raise calls_spent()
        if asked.is_due:
            due.append(asked.customer)
        where = url_for(".show_reconciliation", reconciliation_id=asked.look.reconciliation_id)
        return json_answer(_shown(asked.look), HTTPStatus.ACCEPTED, headers={"Location": where})

    answer = idempotency.once("reconciliation", wanted.model_dump(), ask)
    if due:
        services().bells.ring()
    return answer


@blueprint.get("/reconciliations/<reconciliation_id>")
@requires("cards:reconcile", "cards:read")
def show_reconciliation(reconciliation_id: str) -> Response:
    """How far a look is that was asked for."""
    wanted = read_id("reconciliation_id", reconciliation_id)
    with services().engine.connect() as connection:
        look = looks.show(connection, wanted)
    if look is None:
        raise NotFound("there is no such reconciliation", code="reconciliation_not_found")
    return json_answer(_shown(look))


def _shown(look: looks.Look) -> str:
    return schemas.Reconciliation.model_validate(look).model_dump_json()
