"""Indexes by which the console's lists and dry runs read what failed, is held or is blocked, and no row that is something else.

On the inbox it is one, of failed notifications alone: a hint that is stored is in none of it, and one that is settled neither. It
holds all that a dry run counts, so that ten thousand of them are read from some hundred blocks of the index, and not from as many
places of the table. The others are of deletions, deliveries and erasures, which are few beside notifications.

Revision: 0041. Old code runs beside it: it reads by the indexes that it knows.
"""

from __future__ import annotations

from alembic import op

from cardsync import db

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None

INDEXES = {
    "events_failed_alike": (
        "events (environment, last_error, received_at, event_id) INCLUDE (due_at, customer_id) WHERE status = 'failed'"
    ),
    "deletions_blocked": "deletions (finished_at, deletion_id) WHERE phase = 'blocked'",
    "deletions_failed": (
        "deletions (finished_at, deletion_id) WHERE phase = 'failed' AND error IS DISTINCT FROM 'cancelled'"
    ),
    "deletions_held_since": "deletions (requested_at, deletion_id) WHERE due_at = 'infinity'::timestamptz",
    "deletions_held_of": "deletions (asker, requested_at, deletion_id) WHERE due_at = 'infinity'::timestamptz",
    "deliveries_failed_made": "deliveries (endpoint_id, made_at, event_id) WHERE status = 'failed'",
    "erasures_requested_at": "erasures (requested_at, erasure_id)",
    "erasure_deletions_deletion": "erasure_deletions (deletion_id)",
}


def upgrade() -> None:
    for name, on in INDEXES.items():
        db.make_index(op.get_context(), name, on)


def downgrade() -> None:
    for name in INDEXES:
        op.execute(f"DROP INDEX cardsync.{name}")
