"""The brake's evidence, and locks as rows of private tables.

Revision: 0013. Old code runs beside it: it goes by the gate's ``brake_engaged_at``, which stays the one word on whether removals
are stopped, and by the gate's ``pass_*`` columns, which nothing reads any more and which go a release later.
"""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

TABLES = r"""
CREATE TABLE cardsync.brake (
    singleton boolean DEFAULT true CONSTRAINT brake_pkey PRIMARY KEY CONSTRAINT brake_is_one_row CHECK (singleton),
    excess double precision NOT NULL DEFAULT 0 CONSTRAINT brake_excess_counted CHECK (excess >= 0),
    confirmed bigint NOT NULL DEFAULT 0,
    counted bigint[] NOT NULL DEFAULT '{}' CONSTRAINT brake_counted_bounded CHECK (cardinality(counted) <= 64),
    lacked bigint NOT NULL DEFAULT 0,
    accepted integer NOT NULL DEFAULT 0 CONSTRAINT brake_accepted_counted CHECK (accepted >= 0),
    released_at timestamptz,
    release_told_at timestamptz,
    example_customer bigint,
    example_observation bigint,
    example_expected integer,
    example_lacked integer
);
INSERT INTO cardsync.brake DEFAULT VALUES;

CREATE TABLE cardsync.brake_confirmations (
    shard smallint CONSTRAINT brake_confirmations_pkey PRIMARY KEY,
    confirmed bigint NOT NULL
);

CREATE TABLE cardsync.locks (
    name text CONSTRAINT locks_pkey PRIMARY KEY,
    holder uuid,
    held_until timestamptz,
    CONSTRAINT locks_lease_is_whole CHECK ((holder IS NULL) = (held_until IS NULL))
);
INSERT INTO cardsync.locks (name) VALUES ('sweep'), ('audit'), ('leader');
"""


def upgrade() -> None:
    op.execute(TABLES)


def downgrade() -> None:
    op.execute("DROP TABLE cardsync.locks, cardsync.brake_confirmations, cardsync.brake")
