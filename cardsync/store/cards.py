"""Cards: what a hint writes, and what a plan writes. The caller holds the lock on the customer's row (``customers.touch``)."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from sqlalchemy import Connection, text

from cardsync.ciphers import KeyRing, card_token_to_store
from cardsync.core.believe import KnownCard as KnownByHints
from cardsync.core.believe import Order
from cardsync.core.cards import LISTED_STATUSES, CardFacts, CardStatus, Environment
from cardsync.core.deletion import OPEN, LocalDeletion
from cardsync.core.diff import LocalCard, Plan, RemoteCard, Shown
from cardsync.db import Answer, Transaction
from cardsync.store.deletions.requests import in_phase

_FACTS: Final = tuple(f.name for f in fields(CardFacts))
_FACT_COLUMNS: Final = ", ".join(_FACTS)
WRITTEN: Final = (*_FACTS, "last4", "expires_on")
_WRITTEN_COLUMNS: Final = ", ".join(WRITTEN)
_WRITTEN_VALUES: Final = ", ".join(f":{name}" for name in WRITTEN)
_WRITTEN_SET: Final = ", ".join(f"{name} = :{name}" for name in WRITTEN)


def is_listed(cards: str) -> str:
    """SQL: whether a card of the table of that name is one that a list showed, and none has proved gone."""
    return f"{cards}.status IN ({', '.join(repr(status) for status in LISTED_STATUSES)})"


def written(facts: CardFacts) -> dict[str, Any]:
    """The columns that hold a card's facts, with those that follow from them."""
    values = {name: getattr(facts, name) for name in _FACTS}
    values["agreements"] = list(facts.agreements or ())
    return {**values, "last4": facts.last4, "expires_on": facts.expires_on}


def new(remote: RemoteCard, ring: KeyRing) -> dict[str, Any]:
    """The columns of a card that is not known yet. Its id is made here, because an encrypted token is bound to it."""
    card_id = uuid.uuid4()
    token = card_token_to_store(ring, card_id, remote.token)
    return {"card_id": card_id, "fingerprint": remote.fingerprint, "token": token, **written(remote.facts)}


_KNOWN = text("""
    SELECT card_id, status, awaited_no IS NOT NULL AS awaited
    FROM cardsync.cards WHERE customer = :customer AND fingerprint = :fingerprint
""")


@dataclass(frozen=True, slots=True)
class KnownCard:
    """A card that a hint may name; ``awaited`` while no list has answered an earlier hint for it."""

    card_id: uuid.UUID
    status: CardStatus
    awaited: bool


def find(connection: Connection, customer: int, fingerprint: bytes) -> KnownCard | None:
    """The customer's card with that token, in any state."""
    row = connection.execute(_KNOWN, {"customer": customer, "fingerprint": fingerprint}).one_or_none()
    return None if row is None else KnownCard(row.card_id, row.status, row.awaited)


# Of a card's deletions in this life: the one under way, else a blocked one, and among these first one that goes on after an
# unlock.
_LOCAL = text(f"""
    SELECT c.customer, c.card_id, fingerprint, status, awaited_no, awaited_at, {_FACT_COLUMNS},
           last4,
           d.deletion_id, d.phase, d.since_no, d.tried_since, d.called_at, d.failures, d.when_unlocked,
           extract(epoch FROM clock_timestamp() - d.tried_since)::float8 AS tried_seconds
    FROM cardsync.cards AS c LEFT JOIN LATERAL (
        SELECT * FROM cardsync.deletions AS d
        WHERE d.card_id = c.card_id AND d.life = c.life AND {in_phase("d", *OPEN, "blocked")}
        ORDER BY d.phase = 'blocked', d.when_unlocked DESC, d.requested_at DESC LIMIT 1
    ) AS d ON {is_listed("c")}
    WHERE c.customer = ANY(cast(:customers AS bigint[]))
      AND (status <> 'removed' OR awaited_no IS NOT NULL OR fingerprint = ANY(:fingerprints))
""")


def of_customers(
    connection: Transaction, listed: Mapping[int, Collection[bytes]]
) -> Answer[dict[int, list[LocalCard]]]:
    """The cards of each customer that a list can affect: those not removed, those awaited, and those with a listed fingerprint.

    ``listed`` has the fingerprints on each customer's list.
    """
    fingerprints = [fingerprint for of_one in listed.values() for fingerprint in of_one]
    rows = connection.execute(_LOCAL, {"customers": list(listed), "fingerprints": fingerprints})

    def read() -> dict[int, list[LocalCard]]:
        found: dict[int, list[LocalCard]] = {customer: [] for customer in listed}
        for row in rows:
            card = _local(row)
            # A removed card that only another customer's list shows says nothing here.
            if card.status != "removed" or card.awaited_no is not None or card.fingerprint in listed[row.customer]:
                found[row.customer].append(card)
        return found

    return read


def of_customer(connection: Transaction, customer: int, fingerprints: Collection[bytes]) -> Answer[list[LocalCard]]:
    """As ``of_customers``, for one."""
    found = of_customers(connection, {customer: fingerprints})
    return lambda: found()[customer]


def _local(row: Any) -> LocalCard:
    named = {name: getattr(row, name) for name in _FACTS}
    facts = CardFacts(**{**named, "agreements": tuple(row.agreements)})
    return LocalCard(
        card_id=row.card_id,
        fingerprint=row.fingerprint,
        status=row.status,
        facts=facts,
        awaited_no=row.awaited_no,
        awaited_at=row.awaited_at,
        deletion=None if row.deletion_id is None else _deletion(row),
        last4_is_stale=row.last4 != facts.last4,
    )


def _deletion(row: Any) -> LocalDeletion:
    return LocalDeletion(
        deletion_id=row.deletion_id,
        phase=row.phase,
        since_no=row.since_no,
        tried_since=row.tried_since,
        called_at=row.called_at,
        failures=row.failures,
        when_unlocked=row.when_unlocked,
        tried_seconds=row.tried_seconds,
    )


_ADD = text(f"""
    INSERT INTO cardsync.cards (card_id, customer, fingerprint, token, status, confirmed_at, cause, {_WRITTEN_COLUMNS})
    VALUES (:card_id, :customer, :fingerprint, :token, 'active', cast(:confirmed_at AS timestamptz), :cause, {_WRITTEN_VALUES})
""")
_SHOWN = text(f"""
    UPDATE cardsync.cards
    SET token = :token, {_WRITTEN_SET},
        status = CASE WHEN :revive THEN 'active' ELSE status END,
        life = life + CASE WHEN status = 'removed' THEN 1 ELSE 0 END,
        confirmed_at = CASE WHEN :revive THEN cast(:confirmed_at AS timestamptz) ELSE confirmed_at END,
        removed_at = NULL, removed_because = NULL,
        awaited_no = CASE WHEN :answered THEN NULL ELSE awaited_no END,
        awaited_at = CASE WHEN :answered THEN NULL ELSE awaited_at END,
        cause = :cause
    WHERE card_id = :card_id AND status = :was
""")
_ANSWERED = text("""
    UPDATE cardsync.cards SET awaited_no = NULL, awaited_at = NULL
    WHERE card_id = ANY(:card_ids) AND awaited_no IS NOT NULL
""")
# The token goes in the statement that removes the card; of hints, only open ones could hold it (``inbox.take_hints``).
_REMOVE = text("""
    UPDATE cardsync.cards
    SET status = 'removed', token = NULL, removed_at = clock_timestamp(), removed_because = :because, cause = :cause,
        awaited_no = CASE WHEN card_id = ANY(:awaited) THEN awaited_no END,
        awaited_at = CASE WHEN card_id = ANY(:awaited) THEN awaited_at END
    WHERE card_id = ANY(:card_ids) AND status = :was
""")
_DROP = text("DELETE FROM cardsync.cards WHERE card_id = ANY(:card_ids) AND status = 'unconfirmed'")


def apply(
    connection: Transaction, customer: int, plan: Plan, *, ring: KeyRing, confirmed_at: dt.datetime | None, cause: str
) -> dict[bytes, uuid.UUID]:
    """Write a plan; return the ids of the cards that it shows, by fingerprint. Only real differences write."""
    shown_ids: dict[bytes, uuid.UUID] = {}
    for remote in plan.added:
        parameters = {
            "customer": customer,
            "confirmed_at": confirmed_at,
            "cause": cause,
            **new(remote, ring),
        }
        connection.execute(_ADD, parameters)
        shown_ids[remote.fingerprint] = parameters["card_id"]
    for shown in plan.shown:
        shown_ids[shown.remote.fingerprint] = shown.card_id
        if shown.revive or shown.changed:
            connection.execute(_SHOWN, _shown_parameters(shown, ring, confirmed_at, cause))
    only_answered = [s.card_id for s in plan.shown if s.answered and not (s.revive or s.changed)]
    # Where the brake holds a card, its hint has had its time: the next look is the brake's to ask for, after a release.
    _execute_for(connection, _ANSWERED, [*only_answered, *plan.lapsed, *plan.held])
    _execute_for(connection, _REMOVE, plan.removed, because="absent", cause=cause, was="active", awaited=[])
    proved = {"because": "requested", "cause": "deletion", "was": "deleting", "awaited": list(plan.awaited)}
    _execute_for(connection, _REMOVE, plan.proved, **proved)
    _execute_for(connection, _DROP, plan.dropped)
    return shown_ids


def _shown_parameters(shown: Shown, ring: KeyRing, confirmed_at: dt.datetime | None, cause: str) -> dict[str, Any]:
    return {
        "card_id": shown.card_id,
        "was": shown.was,
        "token": card_token_to_store(ring, shown.card_id, shown.remote.token),
        "revive": shown.revive,
        "answered": shown.answered,
        "confirmed_at": confirmed_at,
        "cause": cause,
        **written(shown.remote.facts),
    }


def _execute_for(connection: Transaction, statement: Any, card_ids: Sequence[uuid.UUID], **parameters: Any) -> None:
    if card_ids:
        connection.execute(statement, {"card_ids": list(card_ids), **parameters})


_AWAIT_AGAIN = text("""
    UPDATE cardsync.cards SET awaited_no = :evidence_no, awaited_at = :received_at
    WHERE card_id = :card_id AND (awaited_no IS NULL OR awaited_no < :evidence_no)
""")


def await_again(connection: Connection, card_id: uuid.UUID, *, evidence_no: int, received_at: dt.datetime) -> None:
    """Note that a hint named a known card."""
    parameters = {"card_id": card_id, "evidence_no": evidence_no, "received_at": received_at}
    connection.execute(_AWAIT_AGAIN, parameters)


# What a hint is compared with; ``of_customer`` reads what a list can speak of.
_BELIEVED = text(f"""
    SELECT card_id, status, removed_at, coalesce(hint_applied_at, 'epoch') AS hint_applied_at,
           believed_no AS hint_applied_no, {_FACT_COLUMNS}
    FROM cardsync.cards WHERE customer = :customer AND fingerprint = :fingerprint
""")


def known_to_hints(connection: Connection, customer: int, fingerprint: bytes) -> tuple[uuid.UUID, KnownByHints] | None:
    """The customer's card of that token, with the newest hint that was believed of it."""
    row = connection.execute(_BELIEVED, {"customer": customer, "fingerprint": fingerprint}).one_or_none()
    if row is None:
        return None
    facts = {name: getattr(row, name) for name in _FACTS}
    known = KnownByHints(
        status=row.status,
        facts=CardFacts(**{**facts, "agreements": tuple(row.agreements)}),
        applied=Order(row.hint_applied_at, row.hint_applied_no),
        removed_at=row.removed_at,
    )
    return row.card_id, known


_NOTE_APPLIED = text("""
    UPDATE cardsync.cards SET hint_applied_at = :at, believed_no = :number WHERE card_id = :card_id
""")


def note_hint_applied(connection: Connection, card_id: uuid.UUID, order: Order) -> None:
    """Note that this hint is the newest that was believed of the card."""
    connection.execute(_NOTE_APPLIED, {"card_id": card_id, "at": order.at, "number": order.number})


# What is known of a card stays as it is, whatever an unbelieved hint says.
_KEEP_UNCONFIRMED = text(f"""
    INSERT INTO cardsync.cards
        (card_id, customer, fingerprint, token, status, awaited_no, awaited_at, cause, {_WRITTEN_COLUMNS})
    VALUES (:card_id, :customer, :fingerprint, :token, 'unconfirmed', :evidence_no, :received_at, 'hint', {_WRITTEN_VALUES})
    ON CONFLICT (customer, fingerprint) DO NOTHING
    RETURNING card_id
""")


def keep_unconfirmed(
    connection: Connection,
    customer: int,
    remote: RemoteCard,
    *,
    ring: KeyRing,
    evidence_no: int,
    received_at: dt.datetime,
) -> uuid.UUID | None:
    """Note a card that a hint named which is not believed; ``None`` if the card was known."""
    parameters = {
        "customer": customer,
        "evidence_no": evidence_no,
        "received_at": received_at,
        **new(remote, ring),
    }
    card_id: uuid.UUID | None = connection.execute(_KEEP_UNCONFIRMED, parameters).scalar_one_or_none()
    return card_id


_OWNERS_UNCONFIRMED = text("""
    SELECT c.card_id, o.environment, o.customer_id, c.fingerprint
    FROM cardsync.cards AS c JOIN cardsync.customers AS o ON o.id = c.customer
    WHERE c.card_id = ANY(:card_ids) AND c.status = 'unconfirmed'
    ORDER BY o.environment COLLATE "C", o.customer_id COLLATE "C"
""")


@dataclass(frozen=True, slots=True)
class UnconfirmedCard:
    """A card that only unbelieved hints named, and whose it would be."""

    card_id: uuid.UUID
    environment: Environment
    customer_id: str
    fingerprint: bytes


def unconfirmed(connection: Connection, card_ids: Sequence[uuid.UUID]) -> list[UnconfirmedCard]:
    """Those of the cards that are unconfirmed, in the order in which their customers are locked."""
    return [UnconfirmedCard(*row) for row in connection.execute(_OWNERS_UNCONFIRMED, {"card_ids": list(card_ids)})]


def drop_unconfirmed(connection: Connection, card_ids: Sequence[uuid.UUID]) -> int:
    """Drop those of the cards that are unconfirmed; the count of them. Their customers are locked."""
    return connection.execute(_DROP, {"card_ids": list(card_ids)}).rowcount


_ELSEWHERE = text(f"""
    SELECT EXISTS (
        SELECT 1 FROM cardsync.cards AS other
        JOIN cardsync.cards AS this ON this.fingerprint = other.fingerprint AND this.customer <> other.customer
        WHERE this.card_id = ANY(:card_ids) AND {is_listed("other")}
    )
""")


def known_elsewhere(connection: Connection, card_ids: Sequence[uuid.UUID]) -> bool:
    """Whether one of these cards' tokens is an active card of another customer."""
    return bool(connection.execute(_ELSEWHERE, {"card_ids": list(card_ids)}).scalar_one())
