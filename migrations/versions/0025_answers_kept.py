"""Answers that are given again for the same idempotency key, looks that can be asked about, and a code of each deletion.

Revision: 0025. Old code runs beside it: it knows none of this.
"""

from __future__ import annotations

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

# An answer is written in the transaction of what it answers for: the row is inserted first, so that a second request with the
# same key waits for the first one's commit. A row without an answer is therefore never committed.
TABLES = r"""
CREATE TABLE cardsync.kept_answers (
    idempotency_key text CONSTRAINT kept_answers_pkey PRIMARY KEY
        CONSTRAINT kept_answers_key_is_hashed CHECK (idempotency_key ~ '^sha256:[0-9a-f]{64}$'),
    request_hash bytea NOT NULL CONSTRAINT kept_answers_hash_is_sha256 CHECK (length(request_hash) = 32),
    status integer CONSTRAINT kept_answers_status_is_success CHECK (status BETWEEN 200 AND 299),
    location text CONSTRAINT kept_answers_location_bounded CHECK (length(location) <= 200),
    body text CONSTRAINT kept_answers_body_bounded CHECK (length(body) <= 100000),
    kept_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX kept_answers_kept_at ON cardsync.kept_answers (kept_at);

CREATE TABLE cardsync.requested_looks (
    reconciliation_id uuid DEFAULT gen_random_uuid() CONSTRAINT requested_looks_pkey PRIMARY KEY,
    customer bigint NOT NULL
        CONSTRAINT requested_looks_customer_fkey REFERENCES cardsync.customers (id) ON DELETE CASCADE,
    asker text NOT NULL CONSTRAINT requested_looks_asker_bounded CHECK (length(asker) BETWEEN 1 AND 110),
    requested_at timestamptz NOT NULL
);
CREATE INDEX requested_looks_requested_at ON cardsync.requested_looks (requested_at);
CREATE INDEX requested_looks_customer ON cardsync.requested_looks (customer);
"""

# The keys of deletions are private. The lock is the one that a request with the key takes, so that the answer stays true.
KNOWN = r"""
CREATE FUNCTION cardsync.is_known_key(p_asker text, p_key text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    hashed text := cardsync.hashed_key(p_asker, p_key);
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(hashed, 0));
    RETURN EXISTS (SELECT FROM cardsync.deletion_keys AS k WHERE k.idempotency_key = hashed);
END
$$;
REVOKE ALL ON FUNCTION cardsync.is_known_key(text, text) FROM PUBLIC;
"""

VIEW = r"""
CREATE OR REPLACE VIEW registry.deletions AS
SELECT
    d.deletion_id,
    d.card_id,
    o.environment,
    o.customer_id,
    CASE d.phase
        WHEN 'asked' THEN 'pending'
        WHEN 'calling' THEN 'in_progress'
        WHEN 'proving' THEN 'in_progress'
        WHEN 'refused' THEN 'in_progress'
        ELSE d.phase
    END AS status,
    d.requested_by,
    d.reason,
    d.requested_at,
    d.attempts,
    -- While Ottu is not called, the next attempt is the next list. What is held waits for an operator.
    CASE
        WHEN d.phase = 'asked' THEN nullif(d.due_at, 'infinity')
        WHEN d.phase IN ('calling', 'proving', 'refused') THEN o.due_at
    END AS next_attempt_at,
    d.finished_at,
    d.error,
    d.when_unlocked,
    d.asker,
    CASE
        WHEN d.phase = 'asked' AND d.due_at = 'infinity' THEN 'held'
        WHEN d.phase = 'blocked' THEN 'card_locked'
        WHEN d.phase = 'failed' AND d.error = 'cancelled' THEN 'cancelled'
        WHEN d.phase = 'failed' AND d.error = 'Ottu offers no API for cards here (OTTU_CARDS_API=unavailable)'
            THEN 'cards_api_unavailable'
        WHEN d.phase = 'failed' THEN 'gave_up'
    END AS code
FROM cardsync.deletions AS d JOIN cardsync.customers AS o ON o.id = d.customer;
"""
# As migration 0018 left it.
BEFORE = VIEW[: VIEW.index(",\n    CASE\n        WHEN d.phase = 'asked' AND d.due_at")].replace(
    "CREATE OR REPLACE", "DROP VIEW registry.deletions; CREATE"
) + (
    " FROM cardsync.deletions AS d JOIN cardsync.customers AS o ON o.id = d.customer;"
    " COMMENT ON VIEW registry.deletions IS 'What was asked to be deleted. status: pending, in_progress, done, blocked, failed.';"
    " GRANT SELECT ON registry.deletions TO cardsync_reader, cardsync_charger, cardsync_deleter, cardsync_web, cardsync_worker;"
)


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(KNOWN)
    op.execute(VIEW)


def downgrade() -> None:
    op.execute(BEFORE)
    op.execute("DROP FUNCTION cardsync.is_known_key(text, text)")
    op.execute("DROP TABLE cardsync.requested_looks, cardsync.kept_answers")
