"""What long commands keep, so that they go on where they were interrupted: imports of customers, walks over all of them.

Revision: 0005, after 0004
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TABLES = r"""
CREATE TABLE cardsync.imports (
    content_hash bytea CONSTRAINT imports_pkey PRIMARY KEY
        CONSTRAINT imports_hash_is_sha256 CHECK (octet_length(content_hash) = 32),
    offset_bytes bigint NOT NULL DEFAULT 0,
    line bigint NOT NULL DEFAULT 0,
    lines bigint NOT NULL DEFAULT 0,
    customers bigint NOT NULL DEFAULT 0,
    new bigint NOT NULL DEFAULT 0,
    bad bigint NOT NULL DEFAULT 0,
    bad_lines jsonb NOT NULL DEFAULT '[]'::jsonb,
    began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    advanced_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE cardsync.walks (
    walk_id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT walks_pkey PRIMARY KEY,
    began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    began_by text NOT NULL CONSTRAINT walks_began_by_bounded CHECK (length(began_by) BETWEEN 1 AND 100),
    expected bigint NOT NULL,
    -- Whoever becomes known later is looked at anyway; without this a walk might never end.
    last_customer bigint NOT NULL,
    ended_at timestamptz
);
CREATE UNIQUE INDEX walks_one_is_open ON cardsync.walks ((ended_at IS NULL)) WHERE ended_at IS NULL;
"""


def upgrade() -> None:
    op.execute(TABLES)


def downgrade() -> None:
    op.execute("DROP TABLE cardsync.walks, cardsync.imports")
