"""Batches of the feed for endpoints of kind ``changes``: a cursor for each, moved under a guard, and one batch under way.

A claim fixes where the batch ends, so that a retry sends the same batch under the same id. The ticket is the guard: a worker
that is late, or was killed and woke up again, moves no cursor.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, text

from cardsync.core.delivery import BATCH
from cardsync.store import feed
from cardsync.store.deliveries.claims import CLAIM_SECONDS
from cardsync.store.deliveries.endpoints import Secrets

CHANGES_MAX: Final = 1_000  # of one answer over HTTP


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that is under way. ``ticket`` guards its end; ``claimed_at`` is the database's moment."""

    endpoint_id: uuid.UUID
    endpoint: str
    url: str
    secrets: Secrets
    ticket: int
    attempt: int
    changes: tuple[Mapping[str, Any], ...]
    head: int
    epoch: int
    failing_seconds: float
    claimed_at: dt.datetime

    @property
    def first(self) -> int:
        """The number of its first change."""
        seq: int = self.changes[0]["seq"]
        return seq

    @property
    def last(self) -> int:
        """The number of its last change."""
        seq: int = self.changes[-1]["seq"]
        return seq

    @property
    def message_id(self) -> str:
        """The same for the same batch, however often it is sent."""
        return f"{self.endpoint_id}-{self.first}-{self.last}"


_DUE = text("""
    SELECT endpoint_id FROM cardsync.endpoints
    WHERE kind = 'changes' AND status = 'enabled' AND due_at <= clock_timestamp()
      AND (claimed_until IS NULL OR claimed_until <= clock_timestamp())
      AND cursor_seq < (SELECT seq FROM cardsync.feed_head)
    ORDER BY endpoint_id FOR NO KEY UPDATE SKIP LOCKED
""")
_CLAIM = text("""
    UPDATE cardsync.endpoints AS e
    SET ticket = ticket + 1, attempts = attempts + 1, batch_last = chosen.last,
        claimed_until = clock_timestamp() + make_interval(secs => :seconds)
    FROM (
        SELECT o.endpoint_id, coalesce(o.batch_last, (
            SELECT max(seq) FROM (
                SELECT seq FROM registry.card_changes WHERE seq > o.cursor_seq ORDER BY seq LIMIT :batch
            ) AS next
        )) AS last
        FROM cardsync.endpoints AS o WHERE o.endpoint_id = :endpoint_id
    ) AS chosen
    WHERE e.endpoint_id = chosen.endpoint_id AND chosen.last IS NOT NULL
    RETURNING e.endpoint_id, e.name, e.url, e.secret,
        CASE WHEN e.previous_until > clock_timestamp() THEN e.previous_secret END AS previous_secret, e.ticket, e.attempts,
        e.cursor_seq, e.batch_last,
        coalesce(extract(epoch FROM clock_timestamp() - e.failing_since), 0)::float8 AS failing_seconds,
        clock_timestamp() AS claimed_at
""")
_CHANGES = text("""
    SELECT seq, at, card_id, environment, customer_id, change, fields, cause, epoch FROM registry.card_changes
    WHERE seq > :after AND seq <= :last ORDER BY seq LIMIT :limit
""")


def claim(connection: Connection) -> list[Batch]:
    """Claim the next batch, or the same one again, of each endpoint that is due and has none under way."""
    found = []
    for endpoint_id in list(connection.execute(_DUE).scalars()):
        parameters = {"endpoint_id": endpoint_id, "batch": BATCH, "seconds": CLAIM_SECONDS}
        row = connection.execute(_CLAIM, parameters).one_or_none()
        if row is None:
            continue
        changes = _read(connection, after=row.cursor_seq, last=row.batch_last, limit=BATCH)
        place = feed.place(connection)
        secrets = Secrets(row.secret, row.previous_secret)
        facts = (row.ticket, row.attempts, tuple(changes), place.head, place.epoch, row.failing_seconds, row.claimed_at)
        found.append(Batch(row.endpoint_id, row.name, row.url, secrets, *facts))
    return found


_DELIVERED = text("""
    UPDATE cardsync.endpoints
    SET cursor_seq = :last, batch_last = NULL, claimed_until = NULL, attempts = 0, due_at = clock_timestamp(),
        failing_since = NULL, last_error = NULL, delivered_at = clock_timestamp()
    WHERE endpoint_id = :endpoint_id AND ticket = :ticket AND batch_last = :last
""")
_FAILED = text("""
    UPDATE cardsync.endpoints
    SET claimed_until = NULL, due_at = clock_timestamp() + make_interval(secs => :wait_seconds), last_error = :error,
        failing_since = coalesce(failing_since, clock_timestamp())
    WHERE endpoint_id = :endpoint_id AND ticket = :ticket
""")


def delivered(connection: Connection, batch: Batch) -> bool:
    """Move the cursor past a batch; false if the ticket does not stand any more."""
    parameters = {"endpoint_id": batch.endpoint_id, "ticket": batch.ticket, "last": batch.last}
    return connection.execute(_DELIVERED, parameters).rowcount == 1


def failed(connection: Connection, batch: Batch, *, wait_seconds: float, error: str) -> bool:
    """Let a batch be sent again later; false if the ticket does not stand any more."""
    parameters = {"endpoint_id": batch.endpoint_id, "ticket": batch.ticket, "wait_seconds": wait_seconds}
    return connection.execute(_FAILED, {**parameters, "error": error}).rowcount == 1


def changes_after(connection: Connection, after: int, *, limit: int) -> tuple[list[Mapping[str, Any]], feed.Place]:
    """The changes after a number, in order, and where the feed is, which is read after them."""
    changes = _read(connection, after=after, last=2**63 - 1, limit=min(limit, CHANGES_MAX))
    return changes, feed.place(connection, after)


def as_json(change: Mapping[str, Any]) -> dict[str, Any]:
    """A change in JSON's types, as it is sent."""
    at: dt.datetime = change["at"]
    return {**change, "at": at.isoformat(), "card_id": str(change["card_id"])}


def _read(connection: Connection, *, after: int, last: int, limit: int) -> list[Mapping[str, Any]]:
    rows = connection.execute(_CHANGES, {"after": after, "last": last, "limit": limit})
    return [dict(row) for row in rows.mappings()]
