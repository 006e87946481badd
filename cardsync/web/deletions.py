"""``/v1/deletions`` and ``/v1/customers``: asking for a card, or all of a person's cards, to be gone; and the receipts.

A request is noted, answered with 202 and done in the background. The same ``Idempotency-Key`` with the same wish gives the
same answer, however often; a token is looked up by its fingerprint, and stands in nothing that is kept or logged.
"""

from __future__ import annotations

import uuid
from http import HTTPStatus

from flask import Blueprint, Response, request, url_for
from sqlalchemy import Connection

from cardsync import erase
from cardsync.core.idempotency import is_key, request_hash
from cardsync.errors import NotFound
from cardsync.store import deletions, receipts
from cardsync.web import deletion_schemas as schemas
from cardsync.web.answers import json_answer
from cardsync.web.auth import caller, requires
from cardsync.web.deletion_schemas import DeletionByCard, DeletionByToken
from cardsync.web.inputs import read_json, read_json_either, unprocessable
from cardsync.web.problems import Problem
from cardsync.web.services import services

blueprint = Blueprint("deletions", __name__)


@blueprint.post("/deletions")
@requires("cards:delete")
def request_deletion() -> Response:
    """Ask for a card's deletion."""
    key = _read_key()
    wanted = read_json_either(("card_id", DeletionByCard), ("token", DeletionByToken))
    _refuse_where_ottu_deletes_nothing()
    with services().engine.begin() as connection:
        asked = deletions.request(
            connection,
            card_id=_card_of(connection, wanted),
            requested_by=caller().name,
            reason=wanted.reason,
            idempotency_key=key,
            request_hash=_hash_of("deletion", wanted),
            when_unlocked=wanted.when_unlocked,
        )
        deletion = deletions.show(connection, asked.deletion_id)
    if asked.fresh:
        services().bells.ring_deletions([asked.deletion_id])
    where = url_for(".show_deletion", deletion_id=asked.deletion_id)
    text = schemas.Deletion.model_validate(deletion).model_dump_json()
    return json_answer(text, HTTPStatus.ACCEPTED, headers={"Location": where})


@blueprint.get("/deletions/<uuid:deletion_id>")
@requires("cards:delete", "cards:read")
def show_deletion(deletion_id: uuid.UUID) -> Response:
    """One deletion, with its receipt."""
    with services().engine.connect() as connection:
        deletion = deletions.show(connection, deletion_id)
        if deletion is None:
            raise NotFound("there is no such deletion")
        steps = receipts.steps(connection, deletion_id)
    shown = schemas.Deletion.model_validate(deletion).model_dump()
    receipt = [schemas.DeletionStep.model_validate(step) for step in steps]
    return json_answer(schemas.DeletionReceipt(**shown, steps=receipt).model_dump_json())


@blueprint.post("/customers/erase")
@requires("cards:delete")
def request_erasure() -> Response:
    """Ask for a person to be erased."""
    key = _read_key()
    wanted = read_json(schemas.ErasureRequest)
    _refuse_where_ottu_deletes_nothing()
    wish = erase.Wish(wanted.customer_id, caller().name, wanted.reason, key, _hash_of("erasure", wanted))
    begun = erase.begin(services().engine, wish)
    services().bells.ring_deletions(begun.deletion_ids)
    services().bells.ring_customers(begun.customers)
    where = url_for(".show_erasure", erasure_id=begun.erasure_id)
    with services().engine.connect() as connection:
        return json_answer(_erasure(connection, begun.erasure_id), HTTPStatus.ACCEPTED, headers={"Location": where})


@blueprint.get("/customers/erasures/<uuid:erasure_id>")
@requires("cards:delete", "cards:read")
def show_erasure(erasure_id: uuid.UUID) -> Response:
    """One erasure, with its deletions."""
    with services().engine.connect() as connection:
        return json_answer(_erasure(connection, erasure_id))


def _read_key() -> str:
    key = request.headers.get("Idempotency-Key", "")
    if not is_key(key):
        message = "The header is required: 1 to 255 visible ASCII characters."
        raise unprocessable([{"field": "Idempotency-Key", "message": message}])
    return key


def _refuse_where_ottu_deletes_nothing() -> None:
    if services().settings.ottu_cards_api == "unavailable":
        raise Problem(HTTPStatus.CONFLICT, "Ottu offers no API for cards here: none can be deleted.")


def _card_of(connection: Connection, wanted: DeletionByCard | DeletionByToken) -> uuid.UUID:
    if isinstance(wanted, DeletionByCard):
        return wanted.card_id
    fingerprint = wanted.token.fingerprint(services().settings.secret_bytes(), wanted.environment)
    card_id = deletions.find_card(connection, wanted.environment, wanted.customer_id, fingerprint)
    if card_id is None:
        raise NotFound("there is no such card")
    return card_id


def _hash_of(kind: str, wanted: DeletionByCard | DeletionByToken | schemas.ErasureRequest) -> bytes:
    """What a repeated request must share with the first; it is kept, so a token is in it as its fingerprint."""
    content = {"kind": kind, **wanted.model_dump(exclude={"token"})}
    if isinstance(wanted, DeletionByToken):
        content["token"] = wanted.token.fingerprint(services().settings.secret_bytes(), wanted.environment).hex()
    return request_hash(str(caller().key_id), {name: _plain(value) for name, value in content.items()})


def _plain(value: object) -> object:
    return str(value) if isinstance(value, uuid.UUID) else value


def _erasure(connection: Connection, erasure_id: uuid.UUID) -> str:
    erasure, waited_for = erase.show(connection, erasure_id)
    shown = [schemas.Deletion.model_validate(deletion) for deletion in waited_for]
    facts = {name: getattr(erasure, name) for name in schemas.Erasure.model_fields if name != "deletions"}
    return schemas.Erasure(**facts, deletions=shown).model_dump_json()
