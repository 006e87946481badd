"""Forgetting: what an old notification says goes first, then its row; old observations and audits go whole.

Batches of rows, oldest first, each found by an index and locked with ``SKIP LOCKED``, each a transaction of its own. A batch
touches no new row, so that taking hints in does not wait for it; only a duplicate of a row in the batch itself does, until
the batch commits (a unique index has to know).

Rejected: partitions by time, which would be dropped in a moment. A unique key of a partitioned table must hold the column that
it is partitioned by, so ``body_hash`` alone could not be unique any more, and a duplicate would be taken for new at the turn
of a partition. What batches cost instead is dead rows for autovacuum, whose threshold for these tables is a twentieth of the
usual one (migration 0007).

What stays for good: the feed; deletions with their keys and receipts, and erasures with theirs; every observation that removed
a card, since a receipt or the feed points to it. What never goes by age: a hint that is pending, since it is work to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from sqlalchemy import Connection, text

What = Literal["given_up", "content", "hint", "observation", "audit", "signature"]
WHATS: Final[tuple[What, ...]] = get_args(What)

ROWS_AT_ONCE: Final = 500  # well under 0.1 s: what a month-old duplicate may have to wait
STATEMENT_TIMEOUT_MS: Final = 2_000  # of one batch: slower than this, it is the database that needs help, not the inbox

# The hashes stay: they still tell a late duplicate and a repeat, and nothing of a person. So do the kind, the times, the key, the
# scheme.
_SHED: Final = """
    customer_id = NULL, session_id = NULL, reference_number = NULL, agreement_id = NULL, card_id = NULL, result = NULL,
    state = NULL, payment_type = NULL, token = NULL, facts = NULL, last_error = NULL, shed_at = clock_timestamp()
"""
_OLD: Final = "statement_timestamp() - make_interval(days => :days)"
_BATCHES: Final = {
    # A failed hint holds a token and waits for an operator: not for ever. That its customer may differ is known since it failed.
    "given_up": f"""
        UPDATE cardsync.events
        SET status = 'ignored', ignored_because = 'given_up', settled_at = clock_timestamp(), {_SHED}
        WHERE status = 'failed' AND event_id = ANY(ARRAY(
            SELECT event_id FROM cardsync.events WHERE status = 'failed' AND received_at < {_OLD}
            ORDER BY received_at LIMIT :limit FOR UPDATE SKIP LOCKED
        ))
    """,
    "content": f"""
        UPDATE cardsync.events SET {_SHED}
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
    # Locking them would want the right to change them, which nobody has: of two runs at once the second waits, and finds less.
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
    "signature": f"""
        DELETE FROM cardsync.repeated_signatures WHERE signature_hash = ANY(ARRAY(
            SELECT signature_hash FROM cardsync.repeated_signatures WHERE counted_since < {_OLD}
            ORDER BY counted_since LIMIT :limit FOR UPDATE SKIP LOCKED
        ))
    """,
}
STATEMENTS: Final = {what: text(statement) for what, statement in _BATCHES.items()}
_IN_TIME = text(f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}")


def forget(connection: Connection, what: What, *, older_days: int, limit: int = ROWS_AT_ONCE) -> int:
    """Forget one batch of what is older than so many days; how many rows it was. Fewer than ``limit``: that was all."""
    connection.execute(_IN_TIME)
    return connection.execute(STATEMENTS[what], {"days": older_days, "limit": limit}).rowcount


@dataclass(frozen=True, slots=True)
class Ages:
    """The age of the oldest notification whose row is there, and of the oldest settled one that has not shed its content."""

    row_seconds: float
    content_seconds: float


_AGES = text("""
    SELECT coalesce(extract(epoch FROM clock_timestamp() - (SELECT min(received_at) FROM cardsync.events)), 0)::float8,
           coalesce(extract(epoch FROM clock_timestamp() - (
               SELECT min(received_at) FROM cardsync.events WHERE shed_at IS NULL AND status IN ('done', 'ignored')
           )), 0)::float8
""")


def ages(connection: Connection) -> Ages:
    """How old what is kept has become: with the settings beside it, whether forgetting keeps up."""
    return Ages(*connection.execute(_AGES).one())
