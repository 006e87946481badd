"""Cards: what a hint notes, and what a plan writes. Whoever calls these holds the customer's row (``customers.touch``)."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from sqlalchemy import Connection, Row, text

from cardsync.core.cards import CardFacts
from cardsync.core.deletion import LocalDeletion
from cardsync.core.diff import LocalCard, Plan, RemoteCard, Shown, Status

_FACTS: Final = tuple(f.name for f in fields(CardFacts))
_FACT_COLUMNS: Final = ", ".join(_FACTS)
_WRITTEN: Final = (*_FACTS, "last4", "expires_on")
_WRITTEN_COLUMNS: Final = ", ".join(_WRITTEN)
_WRITTEN_VALUES: Final = ", ".join(f":{name}" for name in _WRITTEN)
_WRITTEN_SET: Final = ", ".join(f"{name} = :{name}" for name in _WRITTEN)


def _written(facts: CardFacts) -> dict[str, Any]:
    """The columns that hold a card's facts, with those that follow from them."""
    values = {name: getattr(facts, name) for name in _FACTS}
    values["agreements"] = list(facts.agreements or ())
    return {**values, "last4": facts.last4, "expires_on": facts.expires_on}


_KNOWN = text("""
    SELECT card_id, status, awaited_no IS NOT NULL AS awaited
    FROM cardsync.cards WHERE customer = :customer AND fingerprint = :fingerprint
""")


@dataclass(frozen=True, slots=True)
class KnownCard:
    """A card that a hint may speak of; ``awaited`` while no list has answered an earlier hint of it."""

    card_id: uuid.UUID
    status: Status
    awaited: bool


def find(connection: Connection, customer: int, fingerprint: bytes) -> KnownCard | None:
    """The customer's card of that token, in whatever state."""
    row = connection.execute(_KNOWN, {"customer": customer, "fingerprint": fingerprint}).one_or_none()
    return None if row is None else KnownCard(row.card_id, row.status, row.awaited)


# A removed card that a hint names again stays removed, and without its token, until a list shows it.
_AWAIT = text(f"""
    INSERT INTO cardsync.cards AS c
        (customer, fingerprint, token, status, awaited_no, awaited_at, cause, {_WRITTEN_COLUMNS})
    VALUES (:customer, :fingerprint, :token, 'unconfirmed', :evidence_no, :received_at, 'hint', {_WRITTEN_VALUES})
    ON CONFLICT (customer, fingerprint) DO UPDATE
    SET awaited_no = greatest(c.awaited_no, excluded.awaited_no), awaited_at = greatest(c.awaited_at, excluded.awaited_at)
    RETURNING card_id
""")


def await_hinted(
    connection: Connection,
    customer: int,
    remote: RemoteCard,
    *,
    evidence_no: int,
    received_at: dt.datetime,
) -> uuid.UUID:
    """Note that a hint named this card: unconfirmed if it was unknown, awaited in any case. Nothing becomes active."""
    parameters = {
        "customer": customer,
        "fingerprint": remote.fingerprint,
        "token": remote.token.reveal(),
        "evidence_no": evidence_no,
        "received_at": received_at,
        **_written(remote.facts),
    }
    card_id: uuid.UUID = connection.execute(_AWAIT, parameters).scalar_one()
    return card_id


# Of a card's deletions in this life, the one under way, else a blocked one: rather one that goes on once the card is unlocked.
_LOCAL = text(f"""
    SELECT c.card_id, fingerprint, status, awaited_no, awaited_at, {_FACT_COLUMNS},
           d.deletion_id, d.phase, d.since_no, d.tried_since, d.called_at, d.failures, d.when_unlocked
    FROM cardsync.cards AS c LEFT JOIN LATERAL (
        SELECT * FROM cardsync.deletions AS d
        WHERE d.card_id = c.card_id AND d.life = c.life AND d.phase IN ('asked', 'calling', 'proving', 'refused', 'blocked')
        ORDER BY d.phase = 'blocked', d.when_unlocked DESC, d.requested_at DESC LIMIT 1
    ) AS d ON c.status IN ('active', 'deleting')
    WHERE c.customer = :customer
      AND (status <> 'removed' OR awaited_no IS NOT NULL OR fingerprint = ANY(:fingerprints))
""")


def of_customer(connection: Connection, customer: int, fingerprints: Iterable[bytes]) -> list[LocalCard]:
    """All cards of a customer that a list can say something about: not removed, awaited, or with a listed fingerprint."""
    rows = connection.execute(_LOCAL, {"customer": customer, "fingerprints": list(fingerprints)})
    return [_local(row) for row in rows]


def _local(row: Row[Any]) -> LocalCard:
    facts = {name: getattr(row, name) for name in _FACTS}
    return LocalCard(
        card_id=row.card_id,
        fingerprint=row.fingerprint,
        status=row.status,
        facts=CardFacts(**{**facts, "agreements": tuple(row.agreements)}),
        awaited_no=row.awaited_no,
        awaited_at=row.awaited_at,
        deletion=None if row.deletion_id is None else _deletion(row),
    )


def _deletion(row: Row[Any]) -> LocalDeletion:
    return LocalDeletion(
        deletion_id=row.deletion_id,
        phase=row.phase,
        since_no=row.since_no,
        tried_since=row.tried_since,
        called_at=row.called_at,
        failures=row.failures,
        when_unlocked=row.when_unlocked,
    )


_ADD = text(f"""
    INSERT INTO cardsync.cards (customer, fingerprint, token, status, confirmed_at, cause, {_WRITTEN_COLUMNS})
    VALUES (:customer, :fingerprint, :token, 'active', cast(:confirmed_at AS timestamptz), :cause, {_WRITTEN_VALUES})
    RETURNING card_id
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
_ANSWERED = text("UPDATE cardsync.cards SET awaited_no = NULL, awaited_at = NULL WHERE card_id = ANY(:card_ids)")
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
    connection: Connection, customer: int, plan: Plan, *, confirmed_at: dt.datetime | None, cause: str
) -> dict[bytes, uuid.UUID]:
    """Write a plan; return the ids of the cards that it shows, by fingerprint. Only real differences write."""
    shown_ids: dict[bytes, uuid.UUID] = {}
    for remote in plan.added:
        parameters = {
            "customer": customer,
            "fingerprint": remote.fingerprint,
            "token": remote.token.reveal(),
            "confirmed_at": confirmed_at,
            "cause": cause,
            **_written(remote.facts),
        }
        shown_ids[remote.fingerprint] = connection.execute(_ADD, parameters).scalar_one()
    for shown in plan.shown:
        shown_ids[shown.remote.fingerprint] = shown.card_id
        if shown.revive or shown.changed:
            connection.execute(_SHOWN, _shown_parameters(shown, confirmed_at, cause))
    only_answered = [s.card_id for s in plan.shown if s.answered and not (s.revive or s.changed)]
    _execute_for(connection, _ANSWERED, [*only_answered, *plan.lapsed])
    _execute_for(connection, _REMOVE, plan.removed, because="absent", cause=cause, was="active", awaited=[])
    proved = {"because": "requested", "cause": "deletion", "was": "deleting", "awaited": list(plan.awaited)}
    _execute_for(connection, _REMOVE, plan.proved, **proved)
    _execute_for(connection, _DROP, plan.dropped)
    return shown_ids


def _shown_parameters(shown: Shown, confirmed_at: dt.datetime | None, cause: str) -> dict[str, Any]:
    return {
        "card_id": shown.card_id,
        "was": shown.was,
        "token": shown.remote.token.reveal(),
        "revive": shown.revive,
        "answered": shown.answered,
        "confirmed_at": confirmed_at,
        "cause": cause,
        **_written(shown.remote.facts),
    }


def _execute_for(connection: Connection, statement: Any, card_ids: Sequence[uuid.UUID], **parameters: Any) -> None:
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


_BELIEVED_NO = text("SELECT believed_no FROM cardsync.cards WHERE card_id = :card_id")
_NOTE_BELIEVED = text("""
    UPDATE cardsync.cards SET believed_no = :evidence_no WHERE card_id = :card_id AND believed_no < :evidence_no
""")


def believed_no(connection: Connection, card_id: uuid.UUID) -> int:
    """The newest hint that was believed of a card, where hints are the source; 0 if none was."""
    number: int = connection.execute(_BELIEVED_NO, {"card_id": card_id}).scalar_one()
    return number


def note_believed(connection: Connection, card_id: uuid.UUID, evidence_no: int) -> None:
    """Note that a hint was believed of a card."""
    connection.execute(_NOTE_BELIEVED, {"card_id": card_id, "evidence_no": evidence_no})


_ELSEWHERE = text("""
    SELECT EXISTS (
        SELECT 1 FROM cardsync.cards AS other
        JOIN cardsync.cards AS this ON this.fingerprint = other.fingerprint AND this.customer <> other.customer
        WHERE this.card_id = ANY(:card_ids) AND other.status IN ('active', 'deleting')
    )
""")


def known_elsewhere(connection: Connection, card_ids: Sequence[uuid.UUID]) -> bool:
    """Whether one of these cards' tokens is an active card of another customer."""
    return bool(connection.execute(_ELSEWHERE, {"card_ids": list(card_ids)}).scalar_one())
