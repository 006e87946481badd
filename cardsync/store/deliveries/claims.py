"""Deliveries of notifications: a worker claims what is due, and settles what came of it. The row is the job.

A claim counts the attempt and runs out by itself: what a killed worker held is due again after ``CLAIM_SECONDS``. Settling is
guarded by the attempt, so that a late answer of an earlier one changes nothing.

Rules: an endpoint's row is locked while its deliveries are claimed, and after that a statement of its own counts them. So of all
workers together at most ``UNDER_WAY`` deliveries to it are under way, and one while its circuit breaker is open. Each has
its own places, and takes none of another's. The oldest that is due goes first.
"""

from __future__ import annotations

import datetime as dt
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from sqlalchemy import Connection, text

from cardsync.core.delivery import GIVE_UP_SECONDS, LONGEST_ASKED_SECONDS, OUTAGE_SECONDS, UNDER_WAY, Breaker
from cardsync.store.deliveries.endpoints import Secrets

CLAIM_SECONDS: Final = 20.0  # twice as long as a call may last: a worker that is alive has settled by then
GIVEN_UP_AT_ONCE: Final = 500
WOKEN_AT_ONCE: Final = 1_000  # an open breaker lets few be tried: far fewer wait for longer than that after an outage

Because = Literal["gone", "failing"]


@dataclass(frozen=True, slots=True)
class Claimed:
    """One delivery that is under way. ``attempt`` guards its end; ``body`` is encrypted, ``None`` if it was erased.

    ``claimed_at`` is the database's moment.
    """

    delivery_id: int
    endpoint_id: uuid.UUID
    endpoint: str
    url: str
    secrets: Secrets
    event_id: uuid.UUID
    content_type: str | None
    body: str | None = field(repr=False)
    attempt: int
    age_seconds: float
    claimed_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of an attempt. ``wait_seconds`` is for one that is tried again; the endpoint asked for ``asked_seconds``."""

    delivery_id: int
    endpoint_id: uuid.UUID
    attempt: int
    status: Literal["pending", "done", "failed"]
    wait_seconds: float
    http_status: int | None
    error: str | None
    asked_seconds: float | None = None


_ANY = text("SELECT EXISTS (SELECT FROM cardsync.endpoints WHERE status = 'enabled')")


def any_endpoint(connection: Connection) -> bool:
    """Whether anything may ever be due."""
    found: bool = connection.execute(_ANY).scalar_one()
    return found


_LOCK = text("""
    SELECT endpoint_id FROM cardsync.endpoints AS e
    WHERE kind = 'notifications' AND status = 'enabled' AND (shut_until IS NULL OR shut_until <= clock_timestamp())
      AND EXISTS (
          SELECT FROM cardsync.deliveries AS d
          WHERE d.endpoint_id = e.endpoint_id AND d.status = 'pending' AND d.due_at <= statement_timestamp()
      )
    ORDER BY endpoint_id FOR NO KEY UPDATE SKIP LOCKED
""")
_CLAIM = text(f"""
    WITH room AS MATERIALIZED (
        SELECT e.endpoint_id, e.name, e.url, e.secret,
            CASE WHEN e.previous_until > clock_timestamp() THEN e.previous_secret END AS previous_secret,
            CASE WHEN e.opened_at IS NULL THEN {UNDER_WAY} ELSE 1 END - (
                SELECT count(*) FROM cardsync.deliveries AS d
                WHERE d.endpoint_id = e.endpoint_id AND d.claimed_until > statement_timestamp()
            ) AS places
        FROM cardsync.endpoints AS e WHERE e.endpoint_id = ANY(:endpoint_ids)
    ), picked AS MATERIALIZED (
        SELECT d.delivery_id FROM room CROSS JOIN LATERAL (
            SELECT delivery_id FROM cardsync.deliveries
            WHERE endpoint_id = room.endpoint_id AND status = 'pending' AND due_at <= statement_timestamp()
            ORDER BY due_at LIMIT greatest(room.places, 0) FOR UPDATE SKIP LOCKED
        ) AS d
    ), claimed AS (
        UPDATE cardsync.deliveries
        SET attempts = attempts + 1, claimed_until = clock_timestamp() + make_interval(secs => :seconds),
            due_at = clock_timestamp() + make_interval(secs => :seconds)
        WHERE delivery_id = ANY(ARRAY(SELECT delivery_id FROM picked)) AND status = 'pending'
        RETURNING delivery_id, endpoint_id, event_id, attempts,
            extract(epoch FROM clock_timestamp() - made_at)::float8 AS age_seconds
    )
    SELECT c.delivery_id, c.endpoint_id, room.name, room.url, room.secret, room.previous_secret, c.event_id, k.content_type,
        k.body, c.attempts, c.age_seconds, clock_timestamp() AS claimed_at
    FROM claimed AS c JOIN room USING (endpoint_id) LEFT JOIN cardsync.kept_bodies AS k USING (event_id)
    ORDER BY c.delivery_id
""")


def claim(connection: Connection) -> list[Claimed]:
    """Claim what is due and has a place. Endpoints that another worker is just looking at are left to it."""
    endpoint_ids = list(connection.execute(_LOCK).scalars())
    if not endpoint_ids:
        return []
    rows = connection.execute(_CLAIM, {"endpoint_ids": endpoint_ids, "seconds": CLAIM_SECONDS})
    return [Claimed(r[0], r[1], r[2], r[3], Secrets(r[4], r[5]), r[6], r[7], r[8], r[9], r[10], r[11]) for r in rows]


_SETTLE = text("""
    UPDATE cardsync.deliveries AS d
    SET status = e.status, claimed_until = NULL, last_status = e.http_status, last_error = e.error,
        due_at = clock_timestamp() + make_interval(secs => e.wait_seconds),
        asked_until = clock_timestamp() + make_interval(secs => e.asked_seconds),
        finished_at = CASE WHEN e.status <> 'pending' THEN clock_timestamp() END
    FROM unnest(
        cast(:ids AS bigint[]), cast(:attempts AS integer[]), cast(:statuses AS text[]), cast(:waits AS float8[]),
        cast(:http AS integer[]), cast(:errors AS text[]), cast(:asked AS float8[])
    ) AS e (delivery_id, attempt, status, wait_seconds, http_status, error, asked_seconds)
    WHERE d.delivery_id = e.delivery_id AND d.status = 'pending' AND d.attempts = e.attempt
    RETURNING d.delivery_id
""")


def settle(connection: Connection, ended: Sequence[Ended]) -> set[int]:
    """Write what became of attempts; the deliveries whose row was still theirs."""
    if not ended:
        return set()
    ordered = sorted(ended, key=lambda one: one.delivery_id)
    parameters = {
        "ids": [one.delivery_id for one in ordered],
        "attempts": [one.attempt for one in ordered],
        "statuses": [one.status for one in ordered],
        "waits": [one.wait_seconds for one in ordered],
        "http": [one.http_status for one in ordered],
        "errors": [one.error for one in ordered],
        "asked": [one.asked_seconds for one in ordered],
    }
    return set(connection.execute(_SETTLE, parameters).scalars())


_BREAKER = text("""
    SELECT failing, opened_at, shut_until, delivered_at, clock_timestamp() AS now,
        coalesce(extract(epoch FROM clock_timestamp() - failing_since), 0)::float8 AS failing_seconds,
        delivered_at IS NULL OR delivered_at < clock_timestamp() - interval '1 second' AS is_silent
    FROM cardsync.endpoints WHERE endpoint_id = :endpoint_id FOR NO KEY UPDATE
""")
_KEEP_BREAKER = text("""
    UPDATE cardsync.endpoints
    SET failing = :failing, opened_at = :opened_at, shut_until = :shut_until, last_error = :error,
        failing_since = CASE WHEN :failed AND :delivered THEN clock_timestamp()
                             WHEN :failed THEN coalesce(failing_since, clock_timestamp()) END,
        delivered_at = CASE WHEN :delivered THEN clock_timestamp() ELSE delivered_at END
    WHERE endpoint_id = :endpoint_id
""")
_GONE = text("""
    UPDATE cardsync.endpoints
    SET status = 'disabled', disabled_because = :because, disabled_at = clock_timestamp(), last_error = :error
    WHERE endpoint_id = :endpoint_id AND status = 'enabled'
""")


@dataclass(frozen=True, slots=True)
class Heard:
    """An endpoint that is locked: its circuit breaker, the database's time, its last success, and how long it fails since.

    ``is_silent``: its last success is so long ago that the next one is to be noted.
    """

    breaker: Breaker
    now: dt.datetime
    is_silent: bool
    delivered_at: dt.datetime | None
    failing_seconds: float


def breaker(connection: Connection, endpoint_id: uuid.UUID) -> Heard:
    """Lock an endpoint, and return its circuit breaker."""
    row = connection.execute(_BREAKER, {"endpoint_id": endpoint_id}).one()
    found = Breaker(tuple(row.failing), row.opened_at, row.shut_until)
    return Heard(found, row.now, row.is_silent, row.delivered_at, row.failing_seconds)


def keep_breaker(
    connection: Connection, endpoint_id: uuid.UUID, found: Breaker, *, delivered: bool, error: str | None
) -> None:
    """Write the circuit breaker of an endpoint that is locked; ``error`` is what its last delivery ended with."""
    parameters = {
        "endpoint_id": endpoint_id,
        "failing": list(found.failing),
        "opened_at": found.opened_at,
        "shut_until": found.shut_until,
        "delivered": delivered,
        "failed": bool(found.failing),
        "error": error if found.failing else None,
    }
    connection.execute(_KEEP_BREAKER, parameters)


# The wait that an endpoint asked for is kept.
_WAKE = text("""
    UPDATE cardsync.deliveries AS d SET due_at = woken.due_at
    FROM (
        SELECT delivery_id, earliest.due_at
        FROM cardsync.deliveries AS w CROSS JOIN LATERAL (
            SELECT greatest(statement_timestamp() + make_interval(secs => :longest), w.asked_until) AS due_at
        ) AS earliest
        WHERE w.endpoint_id = :endpoint_id AND w.status = 'pending' AND w.claimed_until IS NULL
          AND w.due_at > statement_timestamp() + make_interval(secs => :longest)
          AND w.due_at > earliest.due_at
          AND w.made_at > coalesce(cast(:made_after AS timestamptz) - make_interval(secs => :margin), '-infinity')
        ORDER BY w.due_at LIMIT :limit FOR UPDATE OF w SKIP LOCKED
    ) AS woken
    WHERE d.delivery_id = woken.delivery_id
""")


def asked_for(seconds: float | None) -> str:
    """How the error of a try tells people that the endpoint asked for a wait (``Retry-After``); empty if it did not."""
    return "" if not seconds else f", asked for {math.ceil(min(seconds, LONGEST_ASKED_SECONDS))} s"


def wake(
    connection: Connection,
    endpoint_id: uuid.UUID,
    *,
    longest_seconds: float = 0.0,
    made_after: dt.datetime | None = None,
) -> int:
    """Let no delivery to an endpoint wait for longer than this, or than the endpoint asked for; how many would have.

    ``made_after``: only those made after this moment, or up to a minute before it, since such a one may have failed after it.
    """
    parameters = {
        "endpoint_id": endpoint_id,
        "longest": longest_seconds,
        "made_after": made_after,
        "margin": OUTAGE_SECONDS,
        "limit": WOKEN_AT_ONCE,
    }
    return connection.execute(_WAKE, parameters).rowcount


def disable(connection: Connection, endpoint_id: uuid.UUID, because: Because, error: str) -> bool:
    """Disable an endpoint that does not want more, or that failed for too long; false if it is not enabled."""
    parameters = {"endpoint_id": endpoint_id, "because": because, "error": error}
    return connection.execute(_GONE, parameters).rowcount == 1


_GIVE_UP = text(f"""
    UPDATE cardsync.deliveries
    SET status = 'failed', finished_at = clock_timestamp(), claimed_until = NULL, last_error = coalesce(last_error, :why)
    WHERE status = 'pending' AND delivery_id = ANY(ARRAY(
        SELECT old.delivery_id FROM cardsync.endpoints AS e CROSS JOIN LATERAL (
            SELECT delivery_id FROM cardsync.deliveries AS d
            WHERE d.endpoint_id = e.endpoint_id AND d.status = 'pending'
              AND (e.status = 'removed' OR d.made_at < statement_timestamp() - interval '{int(GIVE_UP_SECONDS)} seconds')
              AND (d.claimed_until IS NULL OR d.claimed_until < statement_timestamp())
            ORDER BY made_at LIMIT :limit FOR UPDATE SKIP LOCKED
        ) AS old
        WHERE e.kind = 'notifications' LIMIT :limit
    ))
    RETURNING (SELECT name FROM cardsync.endpoints AS e WHERE e.endpoint_id = deliveries.endpoint_id)
""")


def give_up(connection: Connection) -> list[str]:
    """Give up what an endpoint did not take in three days, or what waits for a removed one; the endpoint's name for each."""
    parameters = {"limit": GIVEN_UP_AT_ONCE, "why": "not delivered in three days, or its endpoint was removed"}
    return list(connection.execute(_GIVE_UP, parameters).scalars())
