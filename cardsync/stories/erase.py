"""``erase``: forget a person: delete all cards in both environments, wait for proof of each, then remove what names them.

Rules: it decides from what is stored, as often as it is called, so a crash costs nothing. Deleting is the deletions' own
business: this asks for them and waits. Done is final and needs lists asked for after the wish, in both environments, and
nothing heard since; everything else is looked at again, so that a card that is unlocked, a deletion that an operator
replays, or a list that works again leads on. Names go in the transaction that says ``done``. Receipts stay: they never held any.

The customer id stays: it is the merchant's own word, by which a later notification is recognised. Such a notification begins
a new life of the card that it names, once a list shows it: the person has come back.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from cardsync import db
from cardsync.errors import NotFound
from cardsync.store import customers
from cardsync.store.deletions import erasures, requests
from cardsync.store.deletions.erasures import CardLeft, Erasure, Status
from cardsync.store.deletions.requests import Deletion

log = structlog.get_logger(__name__)

ERASURES_AT_ONCE: Final = 50  # looked at in one tick: about a second's work
REASON: Final = "erasure of the customer"  # of each deletion; the asker's own words stay with the erasure


@dataclass(frozen=True, slots=True)
class Wish:
    """Who is to be erased, and who says so. ``key`` and ``request_hash`` make a repeated request the same one.

    ``asker`` is what we know of who asks (``store.deletions.requests``); the key is one of the asker's. ``earlier_hash`` is the
    request's hash as the release before made it.
    """

    customer_id: str
    requested_by: str
    reason: str | None = None
    key: str | None = None
    request_hash: bytes = b""
    earlier_hash: bytes = b""
    asker: str | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """The erasure that a wish led to, and what is to be rung for. ``replayed``: the wish's key came before."""

    erasure_id: uuid.UUID
    fresh: bool
    replayed: bool = False
    deletion_ids: tuple[uuid.UUID, ...] = ()
    customers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Step:
    """How far an erasure is."""

    status: Status
    asked_for: tuple[uuid.UUID, ...] = ()


def begin(engine: Engine, wish: Wish, *, noted: Callable[[Connection, uuid.UUID], object] | None = None) -> Begun:
    """Begin to erase a person, or join the erasure that is under way; none of their cards is active afterwards.

    ``noted`` is called in the same transaction, with the erasure.
    Raises ``Conflict`` for an idempotency key that came with another request.
    """
    with engine.begin() as connection:
        customer_rows = erasures.lock_customers(connection, wish.customer_id)
        if wish.key is not None:
            hashes = (wish.request_hash, wish.earlier_hash)
            known = erasures.known_by_key(connection, wish.asker or "", wish.key, hashes)
            if known is not None:
                return Begun(known, fresh=False, replayed=True)
        begun = erasures.begin_or_join(
            connection,
            customer_id=wish.customer_id,
            requested_by=wish.requested_by,
            reason=wish.reason,
            asker=wish.asker,
        )
        if wish.key is not None:
            erasures.keep_key(
                connection,
                wish.asker or "",
                wish.key,
                wish.request_hash,
                begun.erasure_id,
                requested_by=wish.requested_by,
            )
        step = _step(connection, begun.erasure_id, customer_rows)
        for customer in customer_rows:
            customers.mark_dirty(connection, customer, evidence_no=None, lane="deletion")
        if noted is not None:
            noted(connection, begun.erasure_id)
    return Begun(begun.erasure_id, begun.fresh, False, step.asked_for, tuple(customer_rows))


def advance(engine: Engine, limit: int) -> list[uuid.UUID]:
    """Take every erasure that is due as far as it goes; return the deletions that this asked for, to be rung for."""
    with engine.begin() as connection:
        picked = erasures.pick_due(connection, limit=limit)
    asked_for: list[uuid.UUID] = []
    for erasure_id, customer_id in picked:
        try:
            with engine.begin() as connection:
                customer_rows = erasures.lock_customers(connection, customer_id)
                step = _step(connection, erasure_id, customer_rows)
        except SQLAlchemyError as error:  # due again by itself; the others must not wait for it
            log.warning("erasure_postponed", erasure_id=str(erasure_id), error=type(error).__name__, why=db.why(error))
            continue
        asked_for += step.asked_for
        if step.status == "done":
            log.info("erased", erasure_id=str(erasure_id))
    return asked_for


def show(connection: Connection, erasure_id: uuid.UUID) -> tuple[Erasure, list[Deletion]]:
    """An erasure and its deletions. Raises ``NotFound``."""
    erasure = erasures.show(connection, erasure_id)
    if erasure is None:
        raise NotFound("there is no such erasure", code="erasure_not_found")
    shown = (requests.show(connection, one) for one in erasures.deletion_ids(connection, erasure_id))
    return erasure, [deletion for deletion in shown if deletion is not None]


def _step(connection: Connection, erasure_id: uuid.UUID, customer_rows: Sequence[int]) -> _Step:
    """Ask for the deletions that are missing, and note how far it is; the customers are locked."""
    erasure = erasures.lock(connection, erasure_id)
    if erasure is None:
        return _Step("done")
    left = erasures.cards_left(connection, erasure_id, customer_rows)
    standing = [_deletion_of(connection, erasure, card) for card in left if card.status != "unconfirmed"]
    if not left and erasures.is_proved(connection, erasure, customer_rows):
        erasures.forget(connection, erasure, customer_rows)
        erasures.finish(connection, erasure_id)
        return _Step("done")
    status, error = _trouble(
        [deletion for deletion, _ in standing], erasures.unlisted(connection, customer_rows), erasure
    )
    erasures.note(connection, erasure_id, status, error)
    return _Step(status, tuple(deletion.deletion_id for deletion, fresh in standing if fresh))


def _deletion_of(connection: Connection, erasure: erasures.Open, card: CardLeft) -> tuple[Deletion, bool]:
    """The deletion to wait for, and whether it was asked for just now."""
    known = None if card.deletion_id is None else requests.show(connection, card.deletion_id)
    if known is not None and _is_to_wait_for(known, card):
        return known, False
    asked = requests.request(
        connection,
        card_id=card.card_id,
        requested_by=erasure.requested_by,
        reason=REASON,
        idempotency_key=None,
        request_hash=None,
        when_unlocked=True,
        asker=erasure.asker,
    )
    erasures.wait_for(connection, erasure.erasure_id, asked.deletion_id)
    shown = requests.show(connection, asked.deletion_id)
    assert shown is not None
    return shown, asked.fresh


def _is_to_wait_for(deletion: Deletion, card: CardLeft) -> bool:
    """Whether this deletion is the one that leads on.

    Not one that is over while another is under way, nor one that is done, since the card is here again. One that failed is:
    an operator replays it. One that is blocked is, if it goes on by itself once the card is unlocked.
    """
    if card.status == "deleting":
        return deletion.status in ("pending", "in_progress")
    return deletion.status == "failed" or (deletion.status == "blocked" and deletion.when_unlocked)


def _trouble(standing: Sequence[Deletion], unlisted: str | None, erasure: erasures.Open) -> tuple[Status, str | None]:
    """What an operator must see to, the worst first.

    An erasure that waits for lists says why none can be had; after 24 hours that is for an operator, too. It is looked at again
    all the same, and goes on with the first list that can be believed.
    """
    words: dict[Status, str] = {"failed": "the deletion of card {} failed", "blocked": "card {} is locked"}
    for status, said in words.items():
        which = [d for d in standing if d.status == status]
        if which:
            return status, "; ".join(f"{said.format(d.card_id)}: {d.error or 'no reason is known'}" for d in which)
    return ("failed" if unlisted and erasure.is_late else "pending"), unlisted
