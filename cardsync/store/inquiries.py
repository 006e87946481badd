"""Payments that Ottu is to be asked about (the inquiry endpoint): a row for each session, waiting until it is answered.

A row is the job, as in the inbox. A ticket is taken before the call and settled under its number, so that what a stopped process
left is taken again, and a late answer of its own changes nothing. The limits are decided purely (``core.inquiry_limits``).
"""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import Connection, text

from cardsync.core.inquiry_limits import AFTER_CREATION, APART, PAYMENTS_A_SIGNATURE

AskedFor = Literal["hint", "operator"]
Status = Literal["waiting", "answered", "unknown"]
LAST_ERROR_MAX: Final = 200  # characters
CARDS_AN_INQUIRY: Final = 20


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right to ask about one payment once, and what is known of it.

    ``heard_at`` is when a hint first named it; ``signed_at`` when a hint first named it under a signature that covers the
    session. ``card_ids`` are the unconfirmed cards that hints named with it.
    """

    inquiry_id: int
    session_id: str
    asked_for: AskedFor
    number: int
    asked_at: tuple[dt.datetime, ...]
    heard_at: dt.datetime | None
    signed_at: dt.datetime | None
    card_ids: tuple[uuid.UUID, ...]
    failures: int
    now: dt.datetime


# The first arrival of a signature is the payment's own: a copy that comes months later must not make its payment look fresh.
_WANT = text(f"""
    INSERT INTO cardsync.inquiries AS i (session_id, asked_for, heard_at, signed_at, signature_hash, card_ids, due_at)
    SELECT :session_id, 'hint', :heard_at,
           CASE WHEN :vouched THEN (
               SELECT min(received_at) FROM cardsync.events WHERE signature_hash = :signature_hash AND vouched
           ) END,
           :signature_hash, cast(:card_ids AS uuid[]),
           cast(:heard_at AS timestamptz) + make_interval(secs => {AFTER_CREATION.total_seconds()})
    WHERE cast(:signature_hash AS bytea) IS NULL OR (
        SELECT count(*) FROM cardsync.inquiries WHERE signature_hash = :signature_hash AND session_id <> :session_id
    ) < {PAYMENTS_A_SIGNATURE}
    ON CONFLICT (session_id) DO UPDATE
    SET status = 'waiting',
        heard_at = coalesce(i.heard_at, excluded.heard_at),
        signed_at = coalesce(i.signed_at, excluded.signed_at),
        card_ids = CASE WHEN excluded.card_ids <@ i.card_ids OR cardinality(i.card_ids) >= {CARDS_AN_INQUIRY} THEN i.card_ids
                        ELSE i.card_ids || excluded.card_ids END,
        due_at = coalesce(i.due_at, greatest(
            excluded.due_at, i.last_asked_at + make_interval(secs => {APART.total_seconds()})
        ))
""")


def want(
    connection: Connection,
    session_id: str,
    *,
    heard_at: dt.datetime,
    signature_hash: bytes | None,
    vouched: bool,
    card_id: uuid.UUID | None,
) -> bool:
    """Note that a hint wants a payment asked about; false if its signature has named too many payments.

    ``card_id`` is the unconfirmed card that the answer shall settle. A payment that was answered is asked about again.
    """
    parameters = {
        "session_id": session_id,
        "heard_at": heard_at,
        "signature_hash": signature_hash,
        "vouched": vouched,
        "card_ids": [] if card_id is None else [card_id],
    }
    return connection.execute(_WANT, parameters).rowcount == 1


_WISH = text("""
    INSERT INTO cardsync.inquiries AS i (session_id, asked_for, due_at) VALUES (:session_id, 'operator', clock_timestamp())
    ON CONFLICT (session_id) DO UPDATE SET asked_for = 'operator', status = 'waiting', due_at = clock_timestamp()
""")


def wish(connection: Connection, session_id: str) -> None:
    """Note that an operator wants a payment asked about, as soon as Ottu takes the question."""
    connection.execute(_WISH, {"session_id": session_id})


_TAKE = text("""
    UPDATE cardsync.inquiries
    SET ticket_no = nextval('cardsync.observation_no'),
        lease_until = clock_timestamp() + make_interval(secs => :lease_seconds)
    WHERE inquiry_id = ANY(ARRAY(
        SELECT inquiry_id FROM cardsync.inquiries
        WHERE status = 'waiting' AND due_at <= clock_timestamp()
          AND (lease_until IS NULL OR lease_until <= clock_timestamp())
          AND (cast(:session_id AS text) IS NULL OR session_id = :session_id)
        ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
    ))
    RETURNING inquiry_id, session_id, asked_for, ticket_no, asked_at, heard_at, signed_at, card_ids, failures,
              clock_timestamp() AS now
""")


def take(connection: Connection, *, session_id: str | None, lease_seconds: float) -> Ticket | None:
    """Take the ticket of the payment that is due longest, or of this one; ``None`` if none is due."""
    row = connection.execute(_TAKE, {"session_id": session_id, "lease_seconds": lease_seconds}).one_or_none()
    if row is None:
        return None
    return Ticket(
        inquiry_id=row.inquiry_id,
        session_id=row.session_id,
        asked_for=row.asked_for,
        number=row.ticket_no,
        asked_at=tuple(row.asked_at),
        heard_at=row.heard_at,
        signed_at=row.signed_at,
        card_ids=tuple(row.card_ids),
        failures=row.failures,
        now=row.now,
    )


# Read under the gate's row, which the caller holds: no other process counts at the same time.
_RECENT = text("""
    SELECT (SELECT count(*) FROM cardsync.inquiries
            WHERE last_asked_at > clock_timestamp() - make_interval(secs => :seconds)) AS count,
           (SELECT extract(epoch FROM inquiries_paused_until - clock_timestamp())::float8 FROM cardsync.gate) AS paused_seconds
""")
_NOTE_ASKED = text("""
    UPDATE cardsync.inquiries
    SET last_asked_at = clock_timestamp(),
        asked_at = (asked_at || clock_timestamp())[greatest(1, cardinality(asked_at) - 1):]
    WHERE inquiry_id = :inquiry_id AND ticket_no = :number
""")


@dataclass(frozen=True, slots=True)
class Recent:
    """How many payments were asked about in the last minute, and for how long a 429 still pauses all inquiries."""

    count: int
    paused_seconds: float


def recent(connection: Connection, *, seconds: float) -> Recent:
    """What all processes together asked lately."""
    row = connection.execute(_RECENT, {"seconds": seconds}).one()
    return Recent(row[0], max(0.0, row[1] or 0.0))


def note_asked(connection: Connection, ticket: Ticket) -> None:
    """Count the inquiry before it is made: one that is cut off counts at Ottu too."""
    connection.execute(_NOTE_ASKED, {"inquiry_id": ticket.inquiry_id, "number": ticket.number})


_SETTLE = text("""
    UPDATE cardsync.inquiries
    SET status = :status, due_at = NULL, lease_until = NULL, ticket_no = NULL, card_ids = '{}', failures = 0, last_error = NULL
    WHERE inquiry_id = :inquiry_id AND ticket_no = :number
""")


def settle(connection: Connection, ticket: Ticket, *, status: Status) -> bool:
    """Note how Ottu answered; false if the ticket stands no more."""
    parameters = {"inquiry_id": ticket.inquiry_id, "number": ticket.number, "status": status}
    return connection.execute(_SETTLE, parameters).rowcount == 1


_PUT_OFF = text("""
    UPDATE cardsync.inquiries
    SET due_at = clock_timestamp() + make_interval(secs => :wait_seconds), lease_until = NULL, ticket_no = NULL,
        failures = failures + :counted, last_error = :error
    WHERE inquiry_id = :inquiry_id AND ticket_no = :number
""")


def put_off(connection: Connection, ticket: Ticket, *, wait_seconds: float, error: str, counted: bool) -> None:
    """Give the ticket back, due again later; ``counted`` if a call was made and failed."""
    parameters = {
        "inquiry_id": ticket.inquiry_id,
        "number": ticket.number,
        "wait_seconds": wait_seconds,
        "error": error[:LAST_ERROR_MAX],
        "counted": int(counted),
    }
    connection.execute(_PUT_OFF, parameters)


_PAUSE = text("""
    UPDATE cardsync.gate
    SET inquiries_paused_until = greatest(inquiries_paused_until, clock_timestamp() + make_interval(secs => :seconds))
""")


def pause_all(connection: Connection, *, seconds: float) -> None:
    """Ask about no payment for a while: a 429 may be about all inquiries. Other calls go on."""
    connection.execute(_PAUSE, {"seconds": seconds})


_DUE_IN = text("""
    SELECT status, greatest(0, extract(epoch FROM due_at - clock_timestamp()))::float8 AS seconds, last_error
    FROM cardsync.inquiries WHERE session_id = :session_id
""")


@dataclass(frozen=True, slots=True)
class Waiting:
    """How a payment stands: ``seconds`` until it may be asked about, ``None`` once it is settled."""

    status: Status
    seconds: float | None
    error: str | None


def waiting(connection: Connection, session_id: str) -> Waiting | None:
    """How a payment stands; ``None`` if it is not wanted."""
    row = connection.execute(_DUE_IN, {"session_id": session_id}).one_or_none()
    return (
        None if row is None else Waiting(row.status, row.seconds if row.status == "waiting" else None, row.last_error)
    )
