"""Retention: an old notification first loses its content, later its row; old observations and audits are deleted whole.

The hash of a notification's signature stays for years: a signed body is good for ever, and without the hash it would be fresh
once more.

Rows go in batches, oldest first. Each batch is found by an index, locked with ``SKIP LOCKED``, and is a transaction of its own. A
batch touches no new row, so that storing hints does not wait for it; nor does a duplicate of a row in the batch, which is told
from what was committed before.

Rejected: partitions by time, which can be dropped in a moment. A unique key of a partitioned table must contain the partition's
column. So ``body_hash`` alone could not be unique any more, and a duplicate that arrives after the turn of a partition would be
taken for new. The cost of batches is dead rows for autovacuum; its threshold for these tables is a twentieth of the usual one
(migration 0007).

Kept for good: every customer that was imported, asked for, or ever had a card that more than a hint bore out; the feed; deletions
with their keys and receipts, and erasures with theirs; every observation that removed a card, since a receipt or the feed points
to it. A pending hint never goes by age, since it is work to do.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final, Literal, get_args

from sqlalchemy import Connection, text

from cardsync.store.inbox import SHED

What = Literal[
    "given_up",
    "content",
    "hint",
    "observation",
    "audit",
    "strangers",
    "signature",
    "customer",
    "unlisted_customer",
    "inquiry",
    "token_read",
    "probation",
    "answer",
    "look",
    "gateway",
    "kept_body",
    "relayed",
]
WHATS: Final[tuple[What, ...]] = get_args(What)

ROWS_AT_ONCE: Final = 500  # well under 0.1 s: the replay of a failed hint may have to wait for it
CUSTOMERS_AT_ONCE: Final = 50  # each with its looks, which are up to some hundreds
STATEMENT_TIMEOUT_MS: Final = 2_000  # for one batch: a slower database must not be slowed by forgetting

_OLD: Final = "statement_timestamp() - make_interval(days => :days)"
_BATCHES: Final = {
    # A failed hint holds a token and waits for an operator, but not for ever. Its customer was marked dirty when it failed.
    "given_up": f"""
        UPDATE cardsync.events
        SET status = 'ignored', ignored_because = 'given_up', settled_at = clock_timestamp(), {SHED}
        WHERE status = 'failed' AND event_id = ANY(ARRAY(
            SELECT event_id FROM cardsync.events WHERE status = 'failed' AND received_at < {_OLD}
            ORDER BY received_at LIMIT :limit FOR UPDATE SKIP LOCKED
        ))
    """,
    "content": f"""
        UPDATE cardsync.events SET {SHED}
        WHERE status IN ('done', 'ignored') AND event_id = ANY(ARRAY(
            SELECT event_id FROM cardsync.events
            WHERE shed_at IS NULL AND status IN ('done', 'ignored') AND received_at < {_OLD}
            ORDER BY received_at LIMIT :limit FOR UPDATE SKIP LOCKED
        ))
    """,
    "hint": f"""
        DELETE FROM cardsync.events WHERE event_id = ANY(ARRAY(
            SELECT event_id FROM cardsync.events WHERE status IN ('done', 'ignored') AND received_at < {_OLD}
            ORDER BY received_at LIMIT :limit FOR UPDATE SKIP LOCKED
        ))
    """,
    # No SKIP LOCKED: a row lock needs the right to UPDATE, which no process has here. Of two runs the second waits and finds
    # less.
    "observation": f"""
        DELETE FROM cardsync.observations WHERE observation_no = ANY(ARRAY(
            SELECT observation_no FROM cardsync.observations WHERE removed = 0 AND asked_at < {_OLD}
            ORDER BY asked_at LIMIT :limit
        ))
    """,
    "audit": f"""
        DELETE FROM cardsync.audits WHERE audit_no = ANY(ARRAY(
            SELECT audit_no FROM cardsync.audits WHERE drawn_at < {_OLD}
            ORDER BY drawn_at LIMIT :limit FOR UPDATE SKIP LOCKED
        ))
    """,
    # A payment that Ottu could not be asked about for so long is an operator's: ``cardsync recover`` asks about any.
    "inquiry": f"""
        DELETE FROM cardsync.inquiries WHERE inquiry_id = ANY(ARRAY(
            SELECT inquiry_id FROM cardsync.inquiries WHERE made_at < {_OLD}
            ORDER BY made_at LIMIT :limit FOR UPDATE SKIP LOCKED
        ))
    """,
    "strangers": f"""
        DELETE FROM cardsync.repeated_signatures WHERE signature_hash = ANY(ARRAY(
            SELECT signature_hash FROM cardsync.repeated_signatures WHERE counted_since < {_OLD}
            ORDER BY counted_since LIMIT :limit FOR UPDATE SKIP LOCKED
        ))
    """,
    "token_read": f"""
        DELETE FROM cardsync.token_reads WHERE read_no = ANY(ARRAY(
            SELECT read_no FROM cardsync.token_reads WHERE at < {_OLD} ORDER BY at LIMIT :limit
        ))
    """,
    "answer": f"""
        DELETE FROM cardsync.kept_answers WHERE idempotency_key = ANY(ARRAY(
            SELECT idempotency_key FROM cardsync.kept_answers WHERE kept_at < {_OLD} ORDER BY kept_at LIMIT :limit
        ))
    """,
    "look": f"""
        DELETE FROM cardsync.requested_looks WHERE reconciliation_id = ANY(ARRAY(
            SELECT reconciliation_id FROM cardsync.requested_looks WHERE requested_at < {_OLD}
            ORDER BY requested_at LIMIT :limit
        ))
    """,
    "gateway": f"""
        DELETE FROM cardsync.gateway_asks WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM cardsync.gateway_asks WHERE wanted_at < {_OLD}
            ORDER BY wanted_at LIMIT :limit FOR UPDATE SKIP LOCKED
        ))
    """,
    # A body goes once no delivery of it waits, and the last one ended that long ago; until then it is looked at again. Deliveries
    # to endpoints that were removed are given up by the worker (``store.deliveries.claims``).
    "kept_body": f"""
        WITH due AS MATERIALIZED (
            SELECT event_id FROM cardsync.kept_bodies WHERE body IS NOT NULL AND kept_since < {_OLD}
            ORDER BY kept_since LIMIT :limit FOR UPDATE SKIP LOCKED
        ), judged AS MATERIALIZED (
            SELECT due.event_id, d.waits, d.ended_at FROM due CROSS JOIN LATERAL (
                SELECT coalesce(bool_or(status = 'pending'), false) AS waits, max(finished_at) AS ended_at
                FROM cardsync.deliveries WHERE event_id = due.event_id
            ) AS d
        ), ruled AS MATERIALIZED (
            SELECT event_id, waits OR coalesce(ended_at >= {_OLD}, false) AS stays,
                CASE WHEN waits THEN {_OLD} + interval '10 minutes' ELSE ended_at END AS kept_since
            FROM judged
        )
        UPDATE cardsync.kept_bodies AS k
        SET body = CASE WHEN r.stays THEN k.body END, customer_id = CASE WHEN r.stays THEN k.customer_id END,
            session_id = CASE WHEN r.stays THEN k.session_id END,
            kept_since = CASE WHEN r.stays THEN r.kept_since ELSE k.kept_since END
        FROM ruled AS r WHERE k.event_id = r.event_id AND k.event_id = ANY(ARRAY(SELECT event_id FROM ruled))
    """,
    # Without its body a row recognises a late duplicate, for as long as the inbox does.
    "relayed": f"""
        WITH gone AS (
            DELETE FROM cardsync.kept_bodies WHERE event_id = ANY(ARRAY(
                SELECT event_id FROM cardsync.kept_bodies WHERE body IS NULL AND kept_since < {_OLD}
                ORDER BY kept_since LIMIT :limit FOR UPDATE SKIP LOCKED
            )) RETURNING event_id
        ), theirs AS (
            DELETE FROM cardsync.deliveries WHERE event_id = ANY(ARRAY(SELECT event_id FROM gone))
        )
        SELECT count(*) FROM gone
    """,
    "signature": """
        DELETE FROM cardsync.signatures WHERE signature_hash = ANY(ARRAY(
            SELECT signature_hash FROM cardsync.signatures WHERE first_seen < current_date - cast(:days AS integer)
            ORDER BY first_seen LIMIT :limit FOR UPDATE SKIP LOCKED
        ))
    """,
    # A function of the owner's (migration 0016), since no process may delete customers at will.
    "customer": f"SELECT gone FROM cardsync.forget_customers(:days, least(:limit, {CUSTOMERS_AT_ONCE})) AS gone",
    # The same where Ottu lists no cards (migration 0034): no customer waits for a look, and unconfirmed cards go too.
    "unlisted_customer": (
        f"SELECT gone FROM cardsync.forget_unlisted_customers(:days, least(:limit, {CUSTOMERS_AT_ONCE})) AS gone"
    ),
    "probation": "SELECT gone FROM cardsync.forget_probation(:days, :limit) AS gone",  # likewise (migration 0018)
}
STATEMENTS: Final = {what: text(statement) for what, statement in _BATCHES.items()}
_IN_TIME = text(f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}")


def forget(connection: Connection, what: What, *, older_days: int, limit: int = ROWS_AT_ONCE) -> int:
    """Forget one batch of rows older than ``older_days``; return their number. Fewer than ``limit`` means that none is left."""
    connection.execute(_IN_TIME)
    result = connection.execute(STATEMENTS[what], {"days": older_days, "limit": limit})
    return result.scalar_one() if result.returns_rows else result.rowcount


@dataclass(frozen=True, slots=True)
class Ages:
    """The age of the oldest notification that has a row, and of the oldest settled one that still has its content."""

    row_seconds: float
    content_seconds: float


_AGES = text("""
    SELECT coalesce(extract(epoch FROM clock_timestamp() - (SELECT min(received_at) FROM cardsync.events)), 0)::float8,
           coalesce(extract(epoch FROM clock_timestamp() - (
               SELECT min(received_at) FROM cardsync.events WHERE shed_at IS NULL AND status IN ('done', 'ignored')
           )), 0)::float8
""")


def ages(connection: Connection) -> Ages:
    """Read the ages; beside the settings they show whether forgetting keeps up."""
    return Ages(*connection.execute(_AGES).one())


@dataclass(frozen=True, slots=True)
class LastNotification:
    """When the newest notification came, and how long ago that is."""

    received_at: dt.datetime
    age: dt.timedelta


# By the index of arrivals; what the inquiry endpoint answered has no signature.
_LAST_NOTIFICATION = text("""
    SELECT received_at, clock_timestamp() - received_at AS age FROM cardsync.events
    WHERE signature_hash IS NOT NULL ORDER BY received_at DESC LIMIT 1
""")


def last_notification(connection: Connection) -> LastNotification | None:
    """The newest notification that is kept; ``None`` if none is."""
    row = connection.execute(_LAST_NOTIFICATION).one_or_none()
    return None if row is None else LastNotification(row.received_at, row.age)
