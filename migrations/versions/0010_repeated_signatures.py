"""Repeated signatures: which notification's signature came in another body before, and what that may cost.

Revision: 0010, after 0009. Old code runs beside it: it leaves the new columns as they are, and knows no repeats.
"""

from __future__ import annotations

from alembic import op

from cardsync import db

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# NOT VALID first: a check on a big table is then no scan under a lock that traffic waits for.
TABLES = r"""
ALTER TABLE cardsync.events ADD COLUMN IF NOT EXISTS signature_hash bytea;
ALTER TABLE cardsync.events DROP CONSTRAINT IF EXISTS events_signature_hash_is_sha256;
ALTER TABLE cardsync.events ADD CONSTRAINT events_signature_hash_is_sha256
    CHECK (octet_length(signature_hash) = 32) NOT VALID;
ALTER TABLE cardsync.customers ADD COLUMN IF NOT EXISTS repeat_no bigint NOT NULL DEFAULT 0;
ALTER TABLE cardsync.customers DROP CONSTRAINT customers_lane_known;
ALTER TABLE cardsync.customers ADD CONSTRAINT customers_lane_known
    CHECK (lane IN ('deletion', 'hint', 'read', 'retry', 'sweep', 'audit', 'repeat')) NOT VALID;

CREATE TABLE IF NOT EXISTS cardsync.repeated_signatures (
    signature_hash bytea CONSTRAINT repeated_signatures_pkey PRIMARY KEY
        CONSTRAINT repeated_signatures_hash_is_sha256 CHECK (octet_length(signature_hash) = 32),
    counted_since timestamptz NOT NULL DEFAULT clock_timestamp(),
    strangers integer NOT NULL CONSTRAINT repeated_signatures_strangers_counted CHECK (strangers >= 1)
);
CREATE INDEX IF NOT EXISTS repeated_signatures_counted_since ON cardsync.repeated_signatures (counted_since);
"""
VALIDATE = r"""
ALTER TABLE cardsync.events VALIDATE CONSTRAINT events_signature_hash_is_sha256;
ALTER TABLE cardsync.customers VALIDATE CONSTRAINT customers_lane_known;
"""


def upgrade() -> None:
    op.execute(TABLES)
    with op.get_context().autocommit_block():
        for statement in VALIDATE.strip().splitlines():
            op.execute(statement)
    db.make_index(op.get_context(), "events_signature", "events (signature_hash, evidence_no) WHERE signature_hash IS NOT NULL")


def downgrade() -> None:
    op.execute(
        """
        DROP TABLE cardsync.repeated_signatures;
        DROP INDEX cardsync.events_signature;
        ALTER TABLE cardsync.events DROP COLUMN signature_hash;
        UPDATE cardsync.customers SET lane = 'retry' WHERE lane = 'repeat';
        ALTER TABLE cardsync.customers DROP COLUMN repeat_no, DROP CONSTRAINT customers_lane_known;
        ALTER TABLE cardsync.customers ADD CONSTRAINT customers_lane_known
            CHECK (lane IN ('deletion', 'hint', 'read', 'retry', 'sweep', 'audit'));
        """
    )
