"""``/v1/deletions`` and ``/v1/customers``: request the deletion of a card, or of all cards of a person; and the receipts.

A request is stored, answered with 202 and done in the background. The same ``Idempotency-Key`` with the same request always gives
the same answer to the same owner of keys. A token is looked up by its fingerprint, and is neither stored nor logged.
"""

from __future__ import annotations

import uuid
from http import HTTPStatus
from typing import Final

from flask import Blueprint, Response, url_for
from sqlalchemy import Connection

from cardsync.core.idempotency import request_hash
from cardsync.errors import NotFound
from cardsync.store.access import key_use
from cardsync.store.access.secret_keys import fingerprint_key
from cardsync.store.deletions import erasures, receipts, requests
from cardsync.stories import erase
from cardsync.web.api import deletion_schemas as schemas
from cardsync.web.api.auth import call_quota, caller, calls_spent, requires
from cardsync.web.api.deletion_schemas import DeletionByCard, DeletionByToken
from cardsync.web.api.idempotency import REPLAYED, plain, required_key
from cardsync.web.requests import read_id, read_json, read_json_either, read_query
from cardsync.web.responses import Problem, json_answer
from cardsync.web.services import services

CALLS_OF_A_DELETION: Final = 2  # its own, and the list that proves it
CALLS_OF_AN_ERASURE: Final = 2  # the lists of both environments

blueprint = Blueprint("deletions", __name__)


@blueprint.post("/deletions")
@requires("cards:delete")
def request_deletion() -> Response:
    """Ask for a card's deletion."""
    key = required_key()
    wanted = read_json_either(("card_id", DeletionByCard), ("token", DeletionByToken))
    _refuse_where_ottu_deletes_nothing()
    with services().engine.begin() as connection:
        fingerprint = _fingerprint(connection, wanted)
        request_hash, earlier_hash = _hashes_of("deletion", wanted, fingerprint)
        replayed = requests.is_known_key(connection, caller().asker, key)
        asked = requests.request(
            connection,
            card_id=_card_of(connection, wanted, fingerprint),
            requested_by=caller().name,
            reason=wanted.reason,
            idempotency_key=key,
            request_hash=request_hash,
            earlier_hash=earlier_hash,
            when_unlocked=wanted.when_unlocked,
            asker=caller().asker,
        )
        _count_calls(connection, CALLS_OF_A_DELETION if asked.fresh else 0)
        deletion = requests.show(connection, asked.deletion_id)
    if asked.fresh and not asked.held:
        services().bells.ring()
    where = url_for(".show_deletion", deletion_id=asked.deletion_id)
    text = schemas.Deletion.model_validate(deletion).model_dump_json()
    return json_answer(text, HTTPStatus.ACCEPTED, headers=_accepted(where, replayed=replayed))


@blueprint.get("/deletions")
@requires("cards:delete", "cards:read")
def list_deletions() -> Response:
    """A customer's deletions, the newest first."""
    query = read_query(schemas.DeletionsQuery)
    with services().engine.connect() as connection:
        found = requests.of_customer(
            connection, query.environment, query.customer_id, status=query.status, limit=query.limit
        )
    shown = [schemas.Deletion.model_validate(deletion) for deletion in found]
    return json_answer(schemas.DeletionList(deletions=shown).model_dump_json())


@blueprint.get("/deletions/<deletion_id>")
@requires("cards:delete", "cards:read")
def show_deletion(deletion_id: str) -> Response:
    """One deletion, with its receipt."""
    wanted = read_id("deletion_id", deletion_id)
    with services().engine.connect() as connection:
        deletion = requests.show(connection, wanted)
        if deletion is None:
            raise NotFound("there is no such deletion", code="deletion_not_found")
        steps = receipts.steps(connection, wanted)
    shown = schemas.Deletion.model_validate(deletion).model_dump()
    receipt = [schemas.DeletionStep.model_validate(step) for step in steps]
    return json_answer(schemas.DeletionReceipt(**shown, steps=receipt).model_dump_json())


@blueprint.post("/customers/erase")
@requires("cards:delete")
def request_erasure() -> Response:
    """Ask for a person to be erased."""
    key = required_key()
    wanted = read_json(schemas.ErasureRequest)
    _refuse_where_ottu_deletes_nothing()
    hashes = _hashes_of("erasure", wanted)
    wish = erase.Wish(wanted.customer_id, caller().name, wanted.reason, key, *hashes, asker=caller().asker)
    with services().engine.begin() as connection:
        if erasures.known_by_key(connection, caller().asker, key, hashes) is None:
            _count_calls(
                connection, CALLS_OF_AN_ERASURE
            )  # its deletions come with the cards, and the brake counts those
    begun = erase.begin(services().engine, wish)
    services().bells.ring()
    where = url_for(".show_erasure", erasure_id=begun.erasure_id)
    with services().engine.connect() as connection:
        text = _erasure(connection, begun.erasure_id)
    return json_answer(text, HTTPStatus.ACCEPTED, headers=_accepted(where, replayed=begun.replayed))


@blueprint.get("/customers/erasures/<erasure_id>")
@requires("cards:delete", "cards:read")
def show_erasure(erasure_id: str) -> Response:
    """One erasure, with its deletions."""
    wanted = read_id("erasure_id", erasure_id)
    with services().engine.connect() as connection:
        return json_answer(_erasure(connection, wanted))


def _accepted(where: str, *, replayed: bool) -> dict[str, str]:
    return {"Location": where, **(REPLAYED if replayed else {})}


def _count_calls(connection: Connection, calls: int) -> None:
    """Count the calls that a request leads to. Raises the answer of 429 if the key has caused all that it may today."""
    if calls and not key_use.count_calls(connection, call_quota(), calls):
        raise calls_spent()


def _refuse_where_ottu_deletes_nothing() -> None:
    if services().settings.ottu_cards_api == "unavailable":
        raise Problem("cards_api_unavailable", "Ottu offers no API for cards here: none can be deleted.")


def _fingerprint(connection: Connection, wanted: DeletionByCard | DeletionByToken) -> bytes:
    """The fingerprint of the token that is asked for; nothing where a card is."""
    if isinstance(wanted, DeletionByCard):
        return b""
    return wanted.token.fingerprint(fingerprint_key(connection, services().ring), wanted.environment)


def _card_of(connection: Connection, wanted: DeletionByCard | DeletionByToken, fingerprint: bytes) -> uuid.UUID:
    if isinstance(wanted, DeletionByCard):
        return wanted.card_id
    card_id = requests.find_card(connection, wanted.environment, wanted.customer_id, fingerprint)
    if card_id is None:
        raise NotFound("there is no such card", code="card_not_found")
    return card_id


def _hashes_of(
    kind: str, wanted: DeletionByCard | DeletionByToken | schemas.ErasureRequest, fingerprint: bytes = b""
) -> tuple[bytes, bytes]:
    """The content that a repeated request must share with the first, hashed with its owner; a token is in it as its fingerprint.

    The second hash is with the key's own id, as the release before made it: a request that began then is still known.
    """
    content = {"kind": kind, **wanted.model_dump(exclude={"token"})}
    if isinstance(wanted, DeletionByToken):
        content["token"] = fingerprint.hex()
    hashed = {name: plain(value) for name, value in content.items()}
    return request_hash(caller().asker, hashed), request_hash(str(caller().key_id), hashed)


def _erasure(connection: Connection, erasure_id: uuid.UUID) -> str:
    erasure, waited_for = erase.show(connection, erasure_id)
    shown = [schemas.Deletion.model_validate(deletion) for deletion in waited_for]
    facts = {name: getattr(erasure, name) for name in schemas.Erasure.model_fields if name != "deletions"}
    return schemas.Erasure(**facts, deletions=shown).model_dump_json()
