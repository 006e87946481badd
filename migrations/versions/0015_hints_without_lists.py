"""Hints where there is no list: who vouched for what, in which order hints count, and the payments to ask Ottu about.

Revision: 0015. Old code runs beside it: it leaves the new columns as they are, and knows no inquiries.
"""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

# NOT VALID first: a check on a big table is then no scan under a lock that traffic waits for.
TABLES = r"""
ALTER TABLE cardsync.events ADD COLUMN IF NOT EXISTS vouched boolean NOT NULL DEFAULT false;
ALTER TABLE cardsync.events ADD COLUMN IF NOT EXISTS as_of timestamptz;
ALTER TABLE cardsync.events DROP CONSTRAINT events_scheme_known;
ALTER TABLE cardsync.events ADD CONSTRAINT events_scheme_known
    CHECK (scheme IN ('standard', 'subscription', 'inquiry')) NOT VALID;
ALTER TABLE cardsync.cards ADD COLUMN IF NOT EXISTS hint_applied_at timestamptz;
ALTER TABLE cardsync.agreements ADD COLUMN IF NOT EXISTS since_at timestamptz;
ALTER TABLE cardsync.gate ADD COLUMN IF NOT EXISTS inquiries_paused_until timestamptz;

CREATE TABLE IF NOT EXISTS cardsync.inquiries (
    inquiry_id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT inquiries_pkey PRIMARY KEY,
    session_id text NOT NULL CONSTRAINT inquiries_session_bounded CHECK (length(session_id) BETWEEN 1 AND 128),
    asked_for text NOT NULL CONSTRAINT inquiries_asked_for_known CHECK (asked_for IN ('hint', 'operator')),
    status text NOT NULL DEFAULT 'waiting'
        CONSTRAINT inquiries_status_known CHECK (status IN ('waiting', 'answered', 'unknown')),
    made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    heard_at timestamptz,
    signed_at timestamptz,
    signature_hash bytea
        CONSTRAINT inquiries_hash_is_sha256 CHECK (octet_length(signature_hash) = 32),
    card_ids uuid[] NOT NULL DEFAULT '{}'
        CONSTRAINT inquiries_cards_bounded CHECK (cardinality(card_ids) <= 20),
    due_at timestamptz,
    lease_until timestamptz,
    ticket_no bigint,
    asked_at timestamptz[] NOT NULL DEFAULT '{}'
        CONSTRAINT inquiries_asked_bounded CHECK (cardinality(asked_at) <= 3),
    last_asked_at timestamptz,
    failures integer NOT NULL DEFAULT 0,
    last_error text,
    CONSTRAINT inquiries_waiting_is_due CHECK ((status = 'waiting') = (due_at IS NOT NULL))
);
CREATE UNIQUE INDEX IF NOT EXISTS inquiries_session_key ON cardsync.inquiries (session_id);
CREATE INDEX IF NOT EXISTS inquiries_due ON cardsync.inquiries (due_at) WHERE status = 'waiting';
CREATE INDEX IF NOT EXISTS inquiries_asked ON cardsync.inquiries (last_asked_at) WHERE last_asked_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS inquiries_signature ON cardsync.inquiries (signature_hash) WHERE signature_hash IS NOT NULL;
CREATE INDEX IF NOT EXISTS inquiries_made_at ON cardsync.inquiries (made_at);
"""

# The feed's trigger must pass over the new bookkeeping column of cards. Its text is changed in place and not written again: this
# holds whichever other migration replaced the function before.
FEED = r"""
DO $$
BEGIN
    EXECUTE replace(
        pg_get_functiondef('cardsync.record_card_change()'::regprocedure), '{old}', '{new}'
    );
END $$;
"""
PLAIN, WITH_MOMENT = "''believed_no''", "''believed_no'', ''hint_applied_at''"


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(FEED.format(old=WITH_MOMENT, new=PLAIN))  # run again after an interruption, it changes nothing twice
    op.execute(FEED.format(old=PLAIN, new=WITH_MOMENT))
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE cardsync.events VALIDATE CONSTRAINT events_scheme_known")


def downgrade() -> None:
    op.execute(FEED.format(old=WITH_MOMENT, new=PLAIN))
    op.execute(
        """
        DROP TABLE cardsync.inquiries;
        ALTER TABLE cardsync.gate DROP COLUMN inquiries_paused_until;
        ALTER TABLE cardsync.agreements DROP COLUMN since_at;
        ALTER TABLE cardsync.cards DROP COLUMN hint_applied_at;
        DELETE FROM cardsync.events WHERE scheme = 'inquiry';
        ALTER TABLE cardsync.events DROP COLUMN vouched, DROP COLUMN as_of, DROP CONSTRAINT events_scheme_known;
        ALTER TABLE cardsync.events ADD CONSTRAINT events_scheme_known CHECK (scheme IN ('standard', 'subscription'));
        """
    )
