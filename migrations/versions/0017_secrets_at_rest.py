"""Secrets at rest: encrypted hints in the inbox, the key of fingerprints wrapped by secret keys, and who read which token.

Revision: 0017. Old code runs beside it, and goes on storing tokens in the clear until it is replaced. It cannot read
an encrypted hint: it puts one off, so replace workers before the web (docs/deployment.md).
"""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

# NOT VALID first: checking the whole inbox under the lock would hold up traffic.
TABLES = r"""
CREATE TABLE IF NOT EXISTS cardsync.secret_keys (
    key_id bytea CONSTRAINT secret_keys_pkey PRIMARY KEY
        CONSTRAINT secret_keys_id_is_short CHECK (octet_length(key_id) = 8),
    fingerprint_key bytea NOT NULL
        CONSTRAINT secret_keys_key_is_wrapped CHECK (octet_length(fingerprint_key) BETWEEN 60 AND 131072),
    added_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE IF NOT EXISTS cardsync.token_reads (
    read_no bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT token_reads_pkey PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    key_id uuid NOT NULL,
    card_id uuid NOT NULL
);
CREATE INDEX IF NOT EXISTS token_reads_at ON cardsync.token_reads (at);
CREATE INDEX IF NOT EXISTS token_reads_card ON cardsync.token_reads (card_id, at);
ALTER TABLE cardsync.events DROP CONSTRAINT IF EXISTS events_token_bounded;
ALTER TABLE cardsync.events ADD CONSTRAINT events_token_bounded CHECK (length(token) BETWEEN 1 AND 4096) NOT VALID;
"""
VALIDATE = "ALTER TABLE cardsync.events VALIDATE CONSTRAINT events_token_bounded"


def upgrade() -> None:
    op.execute(TABLES)
    with op.get_context().autocommit_block():
        op.execute(VALIDATE)


def downgrade() -> None:
    # What old code cannot read is given up as it gives up a hint: its customer is looked at.
    op.execute(
        """
        UPDATE cardsync.customers AS c
        SET dirty_no = nextval('cardsync.observation_no'), dirty_since = coalesce(c.dirty_since, clock_timestamp()),
            due_at = least(c.due_at, clock_timestamp()), lane = 'hint'
        WHERE EXISTS (
            SELECT FROM cardsync.events AS e
            WHERE e.environment = c.environment AND e.customer_id = c.customer_id AND length(e.token) > 50
        );
        UPDATE cardsync.events
        SET status = 'ignored', ignored_because = 'given_up', settled_at = clock_timestamp(), token = NULL, facts = NULL
        WHERE length(token) > 50;
        ALTER TABLE cardsync.events DROP CONSTRAINT events_token_bounded;
        ALTER TABLE cardsync.events ADD CONSTRAINT events_token_bounded CHECK (length(token) BETWEEN 1 AND 50) NOT VALID;
        DROP TABLE cardsync.token_reads;
        DROP TABLE cardsync.secret_keys;
        """
    )
