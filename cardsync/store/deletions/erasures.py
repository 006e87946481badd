"""Erasures of persons: what was asked for, what is still there of them, and taking it away.

One person is one customer id, in both environments. Lock order: the customers' rows first (``lock_customers``), then the
erasure's row, as every other writer does.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, Row, text

from cardsync.core.cards import ENVIRONMENTS, CardStatus
from cardsync.core.deletion import GIVE_UP_SECONDS
from cardsync.core.idempotency import hashed_key
from cardsync.core.oddities import HIDING
from cardsync.errors import Conflict
from cardsync.store import customers
from cardsync.store.deliveries import bodies

Status = Literal["pending", "blocked", "failed", "done"]
STATUSES: Final[tuple[Status, ...]] = ("pending", "blocked", "failed", "done")

ERROR_MAX: Final = 1_000  # characters
CARDS_AT_ONCE: Final = 1_000  # of one person: far beyond any shopper, and bounded


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """An erasure as its asker sees it."""

    erasure_id: uuid.UUID
    customer_id: str
    status: Status
    requested_by: str
    reason: str | None
    requested_at: dt.datetime
    finished_at: dt.datetime | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Requested:
    """The erasure that a wish led to; ``fresh`` is false if it was under way before."""

    erasure_id: uuid.UUID
    fresh: bool


@dataclass(frozen=True, slots=True)
class Open:
    """An erasure that is not done, locked until the transaction ends. ``is_late``: it was asked for more than 24 hours ago."""

    erasure_id: uuid.UUID
    customer_id: str
    requested_by: str
    asked_no: int
    is_late: bool
    asker: str | None


@dataclass(frozen=True, slots=True)
class CardLeft:
    """A card of the person that is not removed; ``deletion_id`` is the newest deletion of it that this erasure waits for."""

    card_id: uuid.UUID
    status: CardStatus
    deletion_id: uuid.UUID | None


def lock_customers(connection: Connection, customer_id: str) -> list[int]:
    """Make the person known in both environments, and lock both rows.

    They must be known, since Ottu may have cards that no notification named. The order is that in which hints are processed.
    """
    return [customers.touch(connection, environment, customer_id).customer for environment in sorted(ENVIRONMENTS)]


# Only a key's hash is kept, made with its asker: two askers may use the same key.
_BY_KEY = text("SELECT erasure_id, request_hash FROM cardsync.erasure_requests WHERE idempotency_key = :key")
_KEEP_KEY = text("""
    INSERT INTO cardsync.erasure_requests (idempotency_key, request_hash, erasure_id, requested_by)
    VALUES (:key, :request_hash, :erasure_id, :requested_by)
    ON CONFLICT (idempotency_key) DO NOTHING
""")


def known_by_key(
    connection: Connection, asker: str, idempotency_key: str, request_hashes: Sequence[bytes]
) -> uuid.UUID | None:
    """The erasure that this asker's key got. Raises ``Conflict`` if it came with another request than one of these."""
    row = connection.execute(_BY_KEY, {"key": hashed_key(asker, idempotency_key)}).one_or_none()
    if row is None:
        return None
    if bytes(row.request_hash) not in request_hashes:
        raise Conflict("the idempotency key was used for another request", code="idempotency_key_reused")
    erasure_id: uuid.UUID = row.erasure_id
    return erasure_id


# A request that joins an erasure under way is newer, so the lists that prove the erasure must be newer than the request.
_JOIN = text("""
    UPDATE cardsync.erasures SET asked_no = nextval('cardsync.observation_no'), due_at = clock_timestamp()
    WHERE customer_id = :customer_id AND status <> 'done'
    RETURNING erasure_id
""")
_BEGIN = text("""
    INSERT INTO cardsync.erasures (customer_id, requested_by, reason, asker)
    VALUES (:customer_id, :requested_by, :reason, :asker)
    RETURNING erasure_id
""")


def begin_or_join(
    connection: Connection, *, customer_id: str, requested_by: str, reason: str | None, asker: str | None = None
) -> Requested:
    """Note the wish, for customers who are locked: a new erasure, or the one that is under way."""
    erasure_id = connection.execute(_JOIN, {"customer_id": customer_id}).scalar_one_or_none()
    if erasure_id is not None:
        return Requested(erasure_id, fresh=False)
    wish = {"customer_id": customer_id, "requested_by": requested_by, "reason": reason, "asker": asker}
    return Requested(connection.execute(_BEGIN, wish).scalar_one(), fresh=True)


def keep_key(
    connection: Connection,
    asker: str,
    idempotency_key: str,
    request_hash: bytes,
    erasure_id: uuid.UUID,
    *,
    requested_by: str,
) -> None:
    """Note what the key got. Raises ``Conflict`` if another person's erasure took it since ``known_by_key``."""
    kept = {"key": hashed_key(asker, idempotency_key), "request_hash": request_hash, "erasure_id": erasure_id}
    if connection.execute(_KEEP_KEY, {**kept, "requested_by": requested_by}).rowcount == 0:
        raise Conflict("the idempotency key was used for another request", code="idempotency_key_reused")


# ``due_at`` moves on before the work, so that an erasure that fails holds up no other and is tried again. The first tries come
# quickly; an erasure that has waited for a day is looked at once a minute.
_PICK = text("""
    UPDATE cardsync.erasures
    SET due_at = clock_timestamp() + make_interval(secs =>
        least(60, greatest(1, extract(epoch FROM clock_timestamp() - requested_at) / 20))::float8)
    WHERE erasure_id = ANY(ARRAY(
        SELECT erasure_id FROM cardsync.erasures WHERE due_at <= clock_timestamp()
        ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ))
    RETURNING erasure_id, customer_id
""")


def pick_due(connection: Connection, *, limit: int) -> list[tuple[uuid.UUID, str]]:
    """Pick open erasures to be looked at now, with their customer ids; they are due again later."""
    return [(row.erasure_id, row.customer_id) for row in connection.execute(_PICK, {"limit": limit})]


_LOCK = text(f"""
    SELECT erasure_id, customer_id, requested_by, asked_no,
           requested_at < clock_timestamp() - interval '{GIVE_UP_SECONDS} seconds' AS is_late, asker
    FROM cardsync.erasures WHERE erasure_id = :erasure_id AND status <> 'done' FOR UPDATE
""")


def lock(connection: Connection, erasure_id: uuid.UUID) -> Open | None:
    """Lock an erasure, after its customers; ``None`` if it is done."""
    row = connection.execute(_LOCK, {"erasure_id": erasure_id}).one_or_none()
    return None if row is None else Open(*row)


_LEFT = text("""
    SELECT c.card_id, c.status, newest.deletion_id
    FROM cardsync.cards AS c LEFT JOIN LATERAL (
        SELECT d.deletion_id
        FROM cardsync.erasure_deletions AS e JOIN cardsync.deletions AS d USING (deletion_id)
        WHERE e.erasure_id = :erasure_id AND d.card_id = c.card_id
        ORDER BY d.requested_at DESC LIMIT 1
    ) AS newest ON true
    WHERE c.customer = ANY(:customers) AND c.status <> 'removed'
    ORDER BY c.card_id LIMIT :limit
""")


def cards_left(connection: Connection, erasure_id: uuid.UUID, of: Sequence[int]) -> list[CardLeft]:
    """The person's cards that are not removed."""
    parameters = {"erasure_id": erasure_id, "customers": list(of), "limit": CARDS_AT_ONCE}
    return [CardLeft(*row) for row in connection.execute(_LEFT, parameters)]


_WAIT_FOR = text("""
    INSERT INTO cardsync.erasure_deletions (erasure_id, deletion_id) VALUES (:erasure_id, :deletion_id)
    ON CONFLICT DO NOTHING
""")


def wait_for(connection: Connection, erasure_id: uuid.UUID, deletion_id: uuid.UUID) -> None:
    """Note that the erasure waits for this deletion."""
    connection.execute(_WAIT_FOR, {"erasure_id": erasure_id, "deletion_id": deletion_id})


_PROVED = text("""
    SELECT bool_and(applied_no > :asked_no AND dirty_since IS NULL AND NOT list_oddities && cast(:hiding AS text[]))
       AND NOT EXISTS (
           SELECT 1 FROM cardsync.events
           WHERE environment = ANY(:environments) AND customer_id = :customer_id AND status = 'pending'
       ) AS proved
    FROM cardsync.customers WHERE id = ANY(:customers)
""")


def is_proved(connection: Connection, erasure: Open, of: Sequence[int]) -> bool:
    """Whether lists asked for after the wish are believed in both environments, hide no card, and nothing was heard since."""
    parameters = {
        "asked_no": erasure.asked_no,
        "hiding": list(HIDING),
        "environments": list(ENVIRONMENTS),
        "customer_id": erasure.customer_id,
        "customers": list(of),
    }
    return connection.execute(_PROVED, parameters).scalar_one() is True


_UNLISTED = text("""
    SELECT environment, last_error FROM cardsync.customers
    WHERE id = ANY(:customers) AND failures > 0 AND last_error IS NOT NULL ORDER BY environment
""")


def unlisted(connection: Connection, of: Sequence[int]) -> str | None:
    """Say in which environments no list of the person can be had, and why; ``None`` if the last one that was asked for came."""
    rows = connection.execute(_UNLISTED, {"customers": list(of)})
    return "; ".join(f"no list in {row.environment}: {row.last_error}" for row in rows) or None


_FORGET_CARDS = text("""
    UPDATE cardsync.cards
    SET name_on_card = NULL, number = NULL, last4 = NULL, expiry_month = NULL, expiry_year = NULL, expires_on = NULL,
        agreements = '{}', cause = 'erasure'
    WHERE customer = ANY(:customers) AND status = 'removed'
      AND (coalesce(name_on_card, number, last4, expiry_month, expiry_year) IS NOT NULL
           OR expires_on IS NOT NULL OR agreements <> '{}')
""")
_FORGET_AGREEMENTS = text("""
    DELETE FROM cardsync.agreements AS a USING cardsync.cards AS c
    WHERE a.card_id = c.card_id AND c.customer = ANY(:customers) AND c.status = 'removed'
""")
_FORGET_KNOWN_AGREEMENTS = text("""
    DELETE FROM cardsync.known_agreements AS k WHERE k.customer = ANY(:customers) AND NOT EXISTS (
        SELECT FROM cardsync.agreements AS a WHERE a.environment = k.environment AND a.agreement_id = k.agreement_id
    )
""")
_FORGET_GATEWAYS = text("DELETE FROM cardsync.gateway_asks WHERE customer = ANY(:customers)")
# What people wrote in their own words may name the person; who asked, and when, stays.
_FORGET_REASONS = text("""
    UPDATE cardsync.deletions AS d SET reason = NULL FROM cardsync.cards AS c
    WHERE d.card_id = c.card_id AND c.customer = ANY(:customers) AND d.reason IS NOT NULL
""")
# A hint that was given up holds a token and what it said of the card. One that is pending is newer than the proof.
_FORGET_EVENTS = text("""
    UPDATE cardsync.events
    SET status = CASE status WHEN 'failed' THEN 'done' ELSE status END,
        settled_at = coalesce(settled_at, clock_timestamp()), token = NULL, facts = NULL,
        session_id = NULL, reference_number = NULL, order_no = NULL, agreement_id = NULL
    WHERE environment = ANY(:environments) AND customer_id = :customer_id AND status <> 'pending'
      AND (status = 'failed' OR coalesce(session_id, reference_number, order_no, agreement_id) IS NOT NULL)
""")


def forget(connection: Connection, erasure: Open, of: Sequence[int]) -> None:
    """Remove names, masked numbers, agreements, payments' references and kept bodies of one whose cards are removed."""
    for statement in (_FORGET_CARDS, _FORGET_AGREEMENTS, _FORGET_KNOWN_AGREEMENTS, _FORGET_GATEWAYS, _FORGET_REASONS):
        connection.execute(statement, {"customers": list(of)})
    bodies.erase(connection, erasure.customer_id)
    connection.execute(_FORGET_EVENTS, {"environments": list(ENVIRONMENTS), "customer_id": erasure.customer_id})


_FINISH = text("""
    UPDATE cardsync.erasures SET status = 'done', finished_at = clock_timestamp(), due_at = NULL, error = NULL
    WHERE erasure_id = :erasure_id AND status <> 'done'
""")
_NOTE = text("""
    UPDATE cardsync.erasures SET status = :status, error = :error WHERE erasure_id = :erasure_id AND status <> 'done'
""")


def finish(connection: Connection, erasure_id: uuid.UUID) -> None:
    """Mark an erasure as done."""
    connection.execute(_FINISH, {"erasure_id": erasure_id})


def note(connection: Connection, erasure_id: uuid.UUID, status: Status, error: str | None) -> None:
    """Note how far an open erasure is."""
    text_of_error = None if error is None else error[:ERROR_MAX]
    connection.execute(_NOTE, {"erasure_id": erasure_id, "status": status, "error": text_of_error})


_SHOW = text("""
    SELECT erasure_id, customer_id, status, requested_by, reason, requested_at, finished_at, error
    FROM cardsync.erasures WHERE erasure_id = :erasure_id
""")
_DELETIONS = text("""
    SELECT d.deletion_id FROM cardsync.erasure_deletions AS e JOIN cardsync.deletions AS d USING (deletion_id)
    WHERE e.erasure_id = :erasure_id ORDER BY d.requested_at, d.deletion_id
""")


def show(connection: Connection, erasure_id: uuid.UUID) -> Erasure | None:
    """One erasure."""
    row: Row[Any] | None = connection.execute(_SHOW, {"erasure_id": erasure_id}).one_or_none()
    return None if row is None else Erasure(**row._asdict())


def deletion_ids(connection: Connection, erasure_id: uuid.UUID) -> list[uuid.UUID]:
    """The deletions that the erasure waits or waited for, the oldest first."""
    return list(connection.execute(_DELETIONS, {"erasure_id": erasure_id}).scalars())
