"""Heartbeats: when each worker and each beat was last at work, and how its host's clock differs from the database's.

It also adds a column that databases of the first release lack.

Revision: 0029, after 0028. Old code runs beside it and writes none: until it is replaced, nothing is missed of it.
"""

from __future__ import annotations

from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

TABLE = r"""
CREATE TABLE cardsync.heartbeats (
    kind text CONSTRAINT heartbeats_kind_known CHECK (kind IN ('worker', 'beat')),
    host text CONSTRAINT heartbeats_host_bounded CHECK (length(host) BETWEEN 1 AND 255),
    pid integer,
    started_at timestamptz NOT NULL,
    at timestamptz NOT NULL,
    clock_ahead_seconds double precision NOT NULL,
    CONSTRAINT heartbeats_pkey PRIMARY KEY (kind, host, pid)
);
"""

# The first release's 0001 had no such column, and the second release's has. A database of the first never got it.
MEND = "ALTER TABLE cardsync.cards ADD COLUMN IF NOT EXISTS believed_no bigint NOT NULL DEFAULT 0"


def upgrade() -> None:
    op.execute(TABLE)
    op.execute(MEND)


def downgrade() -> None:
    op.execute("DROP TABLE cardsync.heartbeats")
