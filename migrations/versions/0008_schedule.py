"""The schedule: what a customer's history says of the next look, and whose turn it is.

Revision: 0008, after 0007
"""

from __future__ import annotations

from alembic import op

from cardsync import db

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# Everything here can be run again: what stands before an index is committed before the index is made, and making it may fail.
# A customer known before has the cadence of a newcomer, a constant, so that no row is written.
TABLES = r"""
ALTER TABLE cardsync.customers
    ADD COLUMN IF NOT EXISTS cadence smallint NOT NULL DEFAULT 1,
    ADD COLUMN IF NOT EXISTS silent_changes real NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS watched_days real NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS look_by timestamptz;

CREATE TABLE IF NOT EXISTS cardsync.schedule (
    singleton boolean DEFAULT true CONSTRAINT schedule_pkey PRIMARY KEY CONSTRAINT schedule_is_one_row CHECK (singleton),
    dealt bigint NOT NULL DEFAULT 0
);
INSERT INTO cardsync.schedule DEFAULT VALUES ON CONFLICT DO NOTHING;
"""

# Not valid at first: checking five million rows would keep everybody out meanwhile. Validating locks nobody out.
CHECKS = {
    "customers_cadence_known": "cadence BETWEEN 0 AND 11",
    "customers_history_is_no_debt": "silent_changes >= 0 AND watched_days >= 0",
}

# customers_stalest stays: newcomers are its head, and old code beside the new schema sweeps by it.
INDEXES = {
    "customers_cadence": "customers (cadence, reconciled_at, id) WHERE due_at IS NULL AND reconciled_at IS NOT NULL",
    "customers_look_by": "customers (look_by) WHERE due_at IS NULL AND look_by IS NOT NULL",
}


def upgrade() -> None:
    op.execute(TABLES)
    for name, check in CHECKS.items():
        op.execute(f"ALTER TABLE cardsync.customers DROP CONSTRAINT IF EXISTS {name}")
        op.execute(f"ALTER TABLE cardsync.customers ADD CONSTRAINT {name} CHECK ({check}) NOT VALID")
    with op.get_context().autocommit_block():
        for name in CHECKS:
            op.execute(f"ALTER TABLE cardsync.customers VALIDATE CONSTRAINT {name}")
    for name, on in INDEXES.items():
        db.make_index(op.get_context(), name, on)


def downgrade() -> None:
    op.execute("DROP TABLE cardsync.schedule")
    op.execute(
        """
        ALTER TABLE cardsync.customers
            DROP COLUMN cadence, DROP COLUMN silent_changes, DROP COLUMN watched_days, DROP COLUMN look_by
        """
    )
