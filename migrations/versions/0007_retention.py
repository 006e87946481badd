"""Forgetting: when a notification has shed what it said, and the indexes by which old rows are found.

Indexes are made while traffic goes on. That cannot be one transaction with the rest, so each step may run again.

Revision: 0007, after 0006
"""

from __future__ import annotations

from alembic import op

from cardsync import db

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

COLUMNS = r"""
ALTER TABLE cardsync.events ADD COLUMN IF NOT EXISTS shed_at timestamptz;

-- By default a table is vacuumed once a fifth of it is dead: of a full inbox that is days of forgetting, and dead rows at the
-- old end of an index are what the next batch passes over.
ALTER TABLE cardsync.events SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_insert_scale_factor = 0.02);
ALTER TABLE cardsync.observations SET (autovacuum_vacuum_scale_factor = 0.01);
"""

INDEXES = {
    "events_unshed": "events (received_at) WHERE shed_at IS NULL AND status IN ('done', 'ignored')",
    "observations_removed_none": "observations (asked_at) WHERE removed = 0",
}


def upgrade() -> None:
    op.execute(COLUMNS)
    for name, on in INDEXES.items():
        db.make_index(op.get_context(), name, on)


def downgrade() -> None:
    op.execute(
        """
        DROP INDEX cardsync.observations_removed_none, cardsync.events_unshed;
        ALTER TABLE cardsync.observations RESET (autovacuum_vacuum_scale_factor);
        ALTER TABLE cardsync.events RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_insert_scale_factor);
        ALTER TABLE cardsync.events DROP COLUMN shed_at;
        """
    )
