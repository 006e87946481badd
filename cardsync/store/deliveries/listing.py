"""Deliveries as an operator sees them: listed, shown, and replayed for as long as the body is kept."""

from __future__ import annotations

from typing import Any, Final, Literal

from sqlalchemy import Connection, text

Status = Literal["pending", "done", "failed"]
STATUSES: Final[tuple[Status, ...]] = ("pending", "failed", "done")

REPLAYED_AT_ONCE: Final = 10_000  # of one endpoint in one command; the rest is the next one's

_COLUMNS: Final = """
    d.delivery_id, e.name AS endpoint, d.event_id, d.status, d.attempts, d.made_at,
    CASE WHEN d.status = 'pending' THEN d.due_at END AS next_attempt_at, d.finished_at, d.last_status, d.last_error,
    k.body IS NOT NULL AS body_is_kept
"""
_FROM: Final = """
    FROM cardsync.deliveries AS d JOIN cardsync.endpoints AS e USING (endpoint_id)
    LEFT JOIN cardsync.kept_bodies AS k USING (event_id)
"""
_LIST = text(f"""
    SELECT {_COLUMNS} {_FROM}
    WHERE e.status <> 'removed' AND (cast(:endpoint AS text) IS NULL OR e.name = :endpoint)
      AND (cast(:status AS text) IS NULL OR d.status = :status)
    ORDER BY d.delivery_id DESC LIMIT :limit
""")
_SHOW = text(f"SELECT {_COLUMNS} {_FROM} WHERE d.delivery_id = :delivery_id")


def listing(connection: Connection, *, endpoint: str | None, status: Status | None, limit: int) -> list[dict[str, Any]]:
    """The newest deliveries."""
    parameters = {"endpoint": endpoint, "status": status, "limit": limit}
    return [dict(row) for row in connection.execute(_LIST, parameters).mappings()]


def show(connection: Connection, delivery_id: int) -> dict[str, Any] | None:
    """One delivery."""
    row = connection.execute(_SHOW, {"delivery_id": delivery_id}).mappings().one_or_none()
    return None if row is None else dict(row)


# The body's row is locked first: it cannot be erased between the look and the replay.
_REPLAY: Final = """
    WITH wanted AS MATERIALIZED (
        SELECT d.delivery_id, d.event_id
        FROM cardsync.deliveries AS d JOIN cardsync.endpoints AS e USING (endpoint_id)
        JOIN cardsync.kept_bodies AS b USING (event_id)
        WHERE {which} AND e.status <> 'removed' AND b.body IS NOT NULL ORDER BY d.delivery_id LIMIT :limit
    ), kept AS MATERIALIZED (
        SELECT k.event_id FROM cardsync.kept_bodies AS k
        WHERE k.event_id IN (SELECT event_id FROM wanted) AND k.body IS NOT NULL ORDER BY k.event_id FOR UPDATE
    )
    UPDATE cardsync.deliveries AS d
    SET status = 'pending', attempts = 0, made_at = clock_timestamp(), due_at = clock_timestamp(), claimed_until = NULL,
        finished_at = NULL
    FROM wanted JOIN kept USING (event_id)
    WHERE d.delivery_id = wanted.delivery_id AND (d.status <> 'pending' OR d.claimed_until IS NULL)
"""
_REPLAY_ONE = text(_REPLAY.format(which="d.delivery_id = :delivery_id"))
_REPLAY_FAILED = text(_REPLAY.format(which="e.name = :endpoint AND d.status = 'failed'"))


def replay(connection: Connection, delivery_id: int) -> bool:
    """Send a delivery again, now; false if there is none, its body was erased, or it is under way."""
    return connection.execute(_REPLAY_ONE, {"delivery_id": delivery_id, "limit": 1}).rowcount == 1


def replay_failed(connection: Connection, endpoint: str) -> int:
    """Send an endpoint's failed deliveries again, now, as far as their bodies are kept; how many."""
    parameters = {"endpoint": endpoint, "limit": REPLAYED_AT_ONCE}
    return connection.execute(_REPLAY_FAILED, parameters).rowcount
