"""The inbox: authentic notifications, each durable before it is answered; a pending row is the job itself."""

from __future__ import annotations

import datetime as dt
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from sqlalchemy import Connection, text

from cardsync.core.cards import CardFacts, Environment, Token
from cardsync.core.events import Event, event_id
from cardsync.core.signature import Scheme

Status = Literal["pending", "done", "ignored", "failed"]
Row = Mapping[str, object]

MAX_ATTEMPTS: Final = 10  # over about half an hour; then an operator looks, and replays
SETTLE_AT_ONCE: Final = 100  # events in one transaction: short enough to hold no lock for long


_FACTS: Final = tuple(field.name for field in fields(CardFacts))


@dataclass(frozen=True, slots=True)
class NewEvent:
    """A notification as it is stored: what it says, the hash of its bytes, and who vouched for it."""

    event: Event
    body_hash: bytes
    scheme: Scheme
    key_id: str
    signature_hash: bytes

    @property
    def event_id(self) -> uuid.UUID:
        """The id that its row gets, unless the body is known by another already."""
        return event_id(self.body_hash)

    @property
    def status(self) -> Literal["pending", "ignored"]:
        """Whether there is work in it."""
        return "pending" if self.event.ignored_because is None else "ignored"


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of an insert: ``fresh`` is false for a body that was there already."""

    event_id: uuid.UUID
    status: Status
    fresh: bool


@dataclass(frozen=True, slots=True)
class PendingHint:
    """A claimed event: what its card hint says, and its place in the order of evidence."""

    event_id: uuid.UUID
    evidence_no: int
    received_at: dt.datetime
    environment: Environment
    customer_id: str
    token: Token
    facts: CardFacts
    attempts: int


@dataclass(frozen=True, slots=True)
class TakenHint:
    """A hint that was settled by whoever removes its card; ``repeated`` if its signature was seen before."""

    card_id: uuid.UUID
    evidence_no: int
    received_at: dt.datetime
    repeated: bool


# One parameter however many rows: the same prepared statement for one hint and for thirty, and one value to send. No index is
# named for conflicts: the id follows from the hash, and of two who insert the same at once either index may be the first to tell.
# What waited on disk brings the time of its arrival, by another clock: never later than now.
_INSERT = text("""
    INSERT INTO cardsync.events (
        event_id, received_at, body_hash, status, kind, ignored_because, environment, customer_id, session_id,
        reference_number, result, state, payment_type, agreement_id, scheme, key_id, signature_hash, token, facts, settled_at
    )
    SELECT
        event_id, least(received_at, clock_timestamp()), decode(body_hash, 'hex'), status, kind, ignored_because,
        environment, customer_id, session_id, reference_number, result, state, payment_type, agreement_id, scheme, key_id,
        decode(signature_hash, 'hex'), token, facts, CASE WHEN status = 'ignored' THEN clock_timestamp() END
    FROM json_to_recordset(cast(:rows AS json)) AS row (
        event_id uuid, received_at timestamptz, body_hash text, status text, kind text, ignored_because text,
        environment text, customer_id text, session_id text, reference_number text, result text, state text,
        payment_type text, agreement_id text, scheme text, key_id text, signature_hash text, token text, facts jsonb
    )
    ON CONFLICT DO NOTHING
    RETURNING body_hash, event_id, status
""")

# A duplicate of an event whose work failed is a wish to try again: it must not be hidden by having been seen.
_SEEN = text("""
    UPDATE cardsync.events SET status = 'pending', attempts = 0, due_at = clock_timestamp()
    WHERE body_hash = :body_hash AND status = 'failed'
    RETURNING event_id, status
""")
_FIND = text("SELECT event_id, status FROM cardsync.events WHERE body_hash = :body_hash")


def store(connection: Connection, new: Sequence[NewEvent]) -> list[Stored]:
    """Insert those events whose body's hash is not known, in one statement; reopen a known one that failed.

    Sorted by hash, so that two transactions which hold the same notifications wait for each other in one order.
    """
    order = sorted(range(len(new)), key=lambda place: new[place].body_hash)
    stored = zip(order, store_rows(connection, [as_row(new[place]) for place in order]), strict=True)
    return [one for _, one in sorted(stored, key=lambda placed: placed[0])]


def store_rows(connection: Connection, rows: Sequence[Row]) -> list[Stored]:
    """The same for rows as ``as_row`` makes them, numbered in this order. Raises ``DBAPIError`` for a row that is none."""
    inserted = connection.execute(_INSERT, {"rows": json.dumps(rows)})
    fresh = {bytes(row.body_hash).hex(): (row.event_id, row.status) for row in inserted}
    stored = []
    for row in rows:
        found = fresh.pop(
            str(row["body_hash"]), None
        )  # the same bytes twice at once: one is new, the other its duplicate
        stored.append(_seen(connection, row) if found is None else Stored(*found, fresh=True))
    return stored


def as_row(new: NewEvent) -> Row:
    """An event as its insert takes it, in JSON's types: all that may be kept of a notification."""
    event = new.event
    hint = event.card if new.status == "pending" else None
    return {
        "event_id": str(new.event_id),
        "body_hash": new.body_hash.hex(),
        "status": new.status,
        "kind": event.kind,
        "ignored_because": event.ignored_because,
        "environment": event.environment,
        "customer_id": event.customer_id,
        "session_id": event.session_id,
        "reference_number": event.reference_number,
        "result": event.result,
        "state": event.state,
        "payment_type": event.payment_type,
        "agreement_id": event.agreement_id,
        "scheme": new.scheme,
        "key_id": new.key_id,
        "signature_hash": new.signature_hash.hex() if hint else None,
        "token": hint.token.reveal() if hint else None,
        "facts": {name: getattr(hint.facts, name) for name in _FACTS} if hint else None,
    }


def try_out(connection: Connection) -> None:
    """Insert what nobody sent, for the caller to roll back: whether a hint could be stored now is not told by a ``SELECT``.

    A standby, a server without room and one in the midst of a migration all answer questions. Raises as ``store_rows``.
    """
    body_hash = os.urandom(32)  # two who try at once must not wait for each other
    row = {"event_id": str(event_id(body_hash)), "body_hash": body_hash.hex(), "status": "ignored", "kind": "unknown"}
    row |= {"ignored_because": "unknown kind", "scheme": "standard", "key_id": "nobody"}
    connection.execute(_INSERT, {"rows": json.dumps([row])})


def _seen(connection: Connection, row: Row) -> Stored:
    body_hash = bytes.fromhex(str(row["body_hash"]))
    known = connection.execute(_SEEN, {"body_hash": body_hash}).one_or_none()
    if known is None:
        known = connection.execute(_FIND, {"body_hash": body_hash}).one()
    return Stored(known.event_id, known.status, fresh=False)


_WHOSE = text("""
    SELECT DISTINCT environment, customer_id COLLATE "C" AS customer_id FROM cardsync.events
    WHERE event_id = ANY(:ids) AND status = :status AND customer_id IS NOT NULL
    ORDER BY environment, customer_id COLLATE "C"
""")


def whose(
    connection: Connection, event_ids: Sequence[uuid.UUID], *, status: Status = "pending"
) -> list[tuple[Environment, str]]:
    """The customers of those of the events, in the order in which customers are locked everywhere (by code point)."""
    rows = connection.execute(_WHOSE, {"ids": list(event_ids)[:SETTLE_AT_ONCE], "status": status})
    return [(row.environment, row.customer_id) for row in rows]


_CLAIM = text("""
    SELECT event_id, evidence_no, received_at, environment, customer_id, token, facts, attempts
    FROM cardsync.events
    WHERE event_id = ANY(:ids) AND status = 'pending'
    ORDER BY environment, customer_id COLLATE "C", evidence_no
    FOR UPDATE SKIP LOCKED
""")


def claim(connection: Connection, event_ids: Sequence[uuid.UUID]) -> list[PendingHint]:
    """Lock those of the events that are pending and nobody else holds; their customers are locked (``whose``) before."""
    rows = connection.execute(_CLAIM, {"ids": list(event_ids)[:SETTLE_AT_ONCE]})
    return [
        PendingHint(
            event_id=r.event_id,
            evidence_no=r.evidence_no,
            received_at=r.received_at,
            environment=r.environment,
            customer_id=r.customer_id,
            token=Token(r.token),
            facts=facts_from_json(r.facts),
            attempts=r.attempts,
        )
        for r in rows
    ]


def facts_from_json(stored: dict[str, Any]) -> CardFacts:
    """Rebuild facts from the inbox's JSON; what another version of this program wrote beside them is passed over."""
    known = {name: value for name, value in stored.items() if name in _FACTS}
    agreements = known.get("agreements")
    return CardFacts(**{**known, "agreements": None if agreements is None else tuple(agreements)})


_SETTLE = text("""
    UPDATE cardsync.events
    SET status = 'done', settled_at = clock_timestamp(), token = NULL, facts = NULL, card_id = :card_id, last_error = NULL
    WHERE event_id = :event_id AND status = 'pending'
""")


def settle(connection: Connection, event_id: uuid.UUID, card_id: uuid.UUID | None) -> bool:
    """Mark a pending event as done and erase its hint; false if it was not pending any more."""
    return connection.execute(_SETTLE, {"event_id": event_id, "card_id": card_id}).rowcount == 1


_TAKE_HINTS = text("""
    UPDATE cardsync.events AS e
    SET status = 'done', settled_at = clock_timestamp(), token = NULL, facts = NULL, card_id = c.card_id, last_error = NULL
    FROM cardsync.cards AS c
    WHERE e.environment = :environment AND e.customer_id = :customer_id AND e.status IN ('pending', 'failed')
      AND c.card_id = ANY(:card_ids) AND c.token = e.token
    RETURNING c.card_id, e.evidence_no, e.received_at, EXISTS (
        SELECT 1 FROM cardsync.events AS earlier
        WHERE earlier.signature_hash = e.signature_hash AND earlier.evidence_no < e.evidence_no
    ) AS repeated
""")


def take_hints(
    connection: Connection, environment: Environment, customer_id: str, card_ids: Sequence[uuid.UUID]
) -> list[TakenHint]:
    """Settle the open hints that name these known cards of a customer who is locked.

    Whoever is about to remove a card asks this first: it is evidence of the card, and it holds the card's token.
    """
    parameters = {"environment": environment, "customer_id": customer_id, "card_ids": list(card_ids)}
    return [TakenHint(*row) for row in connection.execute(_TAKE_HINTS, parameters)]


_POSTPONE = text("""
    UPDATE cardsync.events
    SET attempts = attempts + :counted, last_error = :error,
        due_at = clock_timestamp() + make_interval(secs => :wait_seconds),
        status = CASE WHEN attempts + :counted >= :max_attempts THEN 'failed' ELSE 'pending' END
    WHERE event_id = :event_id AND status = 'pending'
    RETURNING status
""")


_ATTEMPTS = text("SELECT attempts FROM cardsync.events WHERE event_id = :event_id")


def attempts(connection: Connection, event_id: uuid.UUID) -> int:
    """How often settling the event has failed."""
    return connection.execute(_ATTEMPTS, {"event_id": event_id}).scalar_one_or_none() or 0


def postpone(
    connection: Connection, event_id: uuid.UUID, *, error: str, wait_seconds: float, counted: bool
) -> Status | None:
    """Put a pending event off; the last counted attempt makes it ``failed``. ``None`` if it was not pending any more."""
    parameters = {
        "event_id": event_id,
        "error": error,
        "wait_seconds": wait_seconds,
        "counted": int(counted),
        "max_attempts": MAX_ATTEMPTS,
    }
    status: Status | None = connection.execute(_POSTPONE, parameters).scalar_one_or_none()
    return status


# Ringing moves due_at on, so that one lost bell is rung again and a long queue is not filled with the same bells.
_OVERDUE = text("""
    UPDATE cardsync.events SET due_at = clock_timestamp() + make_interval(secs => :again_seconds)
    WHERE event_id = ANY(ARRAY(
        SELECT event_id FROM cardsync.events
        WHERE status = 'pending' AND due_at < statement_timestamp() - make_interval(secs => :older_seconds)
        ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ))
    RETURNING event_id
""")


def overdue(connection: Connection, *, older_seconds: float, again_seconds: float, limit: int) -> list[uuid.UUID]:
    """Pick pending events that nobody has settled in time, to be rung again; they are due again after ``again_seconds``."""
    parameters = {"older_seconds": older_seconds, "again_seconds": again_seconds, "limit": limit}
    return list(connection.execute(_OVERDUE, parameters).scalars())


_COLUMNS = """
    event_id, evidence_no, received_at, status, kind, ignored_because, environment, customer_id, session_id,
    reference_number, result, state, payment_type, agreement_id, scheme, key_id, card_id, attempts, due_at, settled_at,
    last_error, shed_at
"""
_LIST = text(f"""
    SELECT {_COLUMNS} FROM cardsync.events
    WHERE (cast(:status AS text) IS NULL OR status = :status)
    ORDER BY received_at DESC LIMIT :limit
""")
_SHOW = text(f"SELECT {_COLUMNS} FROM cardsync.events WHERE event_id = :event_id")


def listing(connection: Connection, *, status: Status | None, limit: int) -> list[dict[str, Any]]:
    """The newest events, for an operator: everything but hints' content."""
    return [dict(r) for r in connection.execute(_LIST, {"status": status, "limit": limit}).mappings()]


def show(connection: Connection, event_id: uuid.UUID) -> dict[str, Any] | None:
    """One event, for an operator."""
    row = connection.execute(_SHOW, {"event_id": event_id}).mappings().one_or_none()
    return None if row is None else dict(row)


_REPLAY = text("""
    UPDATE cardsync.events SET status = 'pending', attempts = 0, due_at = clock_timestamp(), last_error = NULL
    WHERE event_id = :event_id AND status IN ('failed', 'pending')
""")


def replay(connection: Connection, event_id: uuid.UUID) -> bool:
    """Open a failed (or postponed) event again; false if it is settled, or no event."""
    return connection.execute(_REPLAY, {"event_id": event_id}).rowcount == 1
