"""Hints whose signature came in another body before (``core.repeats`` says what they may cost).

Signatures are locked before customers, in the order of their hashes: whoever holds a customer asks for none.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from cardsync.core.repeats import STRANGERS_A_SIGNATURE, STRANGERS_SECONDS
from cardsync.store.inbox import SETTLE_AT_ONCE


@dataclass(frozen=True, slots=True)
class Repeat:
    """A pending event whose signature was seen before; ``stranger`` if nothing is known of its customer yet."""

    event_id: uuid.UUID
    signature_hash: bytes
    stranger: bool


# Events of no interest have no signature's hash: a body without its card, sent ahead of the one with it, takes nothing from that.
_AMONG = text("""
    SELECT e.event_id, e.signature_hash, c.id IS NULL AS stranger
    FROM cardsync.events AS e
    LEFT JOIN cardsync.customers AS c ON c.environment = e.environment AND c.customer_id = e.customer_id
    WHERE e.event_id = ANY(:ids) AND e.status = 'pending' AND e.signature_hash IS NOT NULL
      AND EXISTS (
          SELECT 1 FROM cardsync.events AS earlier
          WHERE earlier.signature_hash = e.signature_hash AND earlier.evidence_no < e.evidence_no
      )
    ORDER BY e.signature_hash, e.evidence_no
""")


def among(connection: Connection, event_ids: Sequence[uuid.UUID]) -> list[Repeat]:
    """Those of the pending events that are repeats, in the order in which their signatures are locked."""
    rows = connection.execute(_AMONG, {"ids": list(event_ids)[:SETTLE_AT_ONCE]})
    return [Repeat(r.event_id, bytes(r.signature_hash), r.stranger) for r in rows]


# One row a signature, however many bodies: the work of refusing does not grow with the flood. Right sides see the old row.
_ADMIT = text("""
    INSERT INTO cardsync.repeated_signatures AS r (signature_hash, strangers) VALUES (:signature_hash, 1)
    ON CONFLICT (signature_hash) DO UPDATE
    SET strangers = CASE WHEN r.counted_since < clock_timestamp() - make_interval(secs => :seconds)
                         THEN 1 ELSE r.strangers + 1 END,
        counted_since = CASE WHEN r.counted_since < clock_timestamp() - make_interval(secs => :seconds)
                             THEN clock_timestamp() ELSE r.counted_since END
    WHERE r.strangers < :most OR r.counted_since < clock_timestamp() - make_interval(secs => :seconds)
""")


def admit_stranger(connection: Connection, signature_hash: bytes) -> bool:
    """Count one more unknown customer that a signature makes known; false if it has made too many known lately."""
    parameters = {"signature_hash": signature_hash, "most": STRANGERS_A_SIGNATURE, "seconds": STRANGERS_SECONDS}
    return connection.execute(_ADMIT, parameters).rowcount == 1


_GIVE_UP = text("""
    UPDATE cardsync.events SET status = 'failed', last_error = 'RepeatedSignature'
    WHERE event_id = ANY(:ids) AND status = 'pending'
""")


def give_up(connection: Connection, event_ids: Sequence[uuid.UUID]) -> int:
    """Let these events fail, for an operator to look at; the count of them."""
    return connection.execute(_GIVE_UP, {"ids": list(event_ids)}).rowcount


# A look that is due anyway, soon or after a failure, is enough: to bring it forward in a lower lane could cost it its place.
_MARK = text("""
    UPDATE cardsync.customers
    SET repeat_no = greatest(repeat_no, :evidence_no),
        dirty_since = coalesce(dirty_since, clock_timestamp()),
        due_at = coalesce(due_at, greatest(clock_timestamp(), reconciled_at + make_interval(secs => :apart_seconds))),
        lane = CASE WHEN due_at IS NULL THEN 'repeat' ELSE lane END,
        rung_at = CASE WHEN due_at IS NULL AND reconciled_at + make_interval(secs => :apart_seconds) > clock_timestamp()
                       THEN NULL ELSE clock_timestamp() END
    WHERE id = :customer
    RETURNING due_at <= clock_timestamp() AS due
""")


def mark_dirty(connection: Connection, customer: int, *, evidence_no: int, apart_seconds: float) -> bool:
    """Note that a customer may differ from Ottu, as a repeat says; whether the look is due already."""
    parameters = {"customer": customer, "evidence_no": evidence_no, "apart_seconds": apart_seconds}
    due: bool = connection.execute(_MARK, parameters).scalar_one()
    return due
