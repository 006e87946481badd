"""Repeats apart: the hashes of all signatures, repeats known as they are stored, and customers that hints alone made known.

Revision: 0016. Old code runs beside it: it leaves the new columns as they are. A signature that old code takes in
meanwhile is unknown to this table: another body with it is fresh once.
"""

from __future__ import annotations

from alembic import op

from cardsync import db

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

# NOT VALID and a default that is a constant: no row is written under a lock that traffic waits for.
TABLES = r"""
CREATE TABLE IF NOT EXISTS cardsync.signatures (
    signature_hash bytea CONSTRAINT signatures_pkey PRIMARY KEY
        CONSTRAINT signatures_hash_is_sha256 CHECK (octet_length(signature_hash) = 32),
    first_seen date NOT NULL,
    payment bytea CONSTRAINT signatures_payment_is_half_a_sha256 CHECK (octet_length(payment) = 16),
    named_card boolean NOT NULL
);
CREATE INDEX IF NOT EXISTS signatures_first_seen ON cardsync.signatures (first_seen);
ALTER TABLE cardsync.events ADD COLUMN IF NOT EXISTS repeated boolean NOT NULL DEFAULT false;
ALTER TABLE cardsync.customers ADD COLUMN IF NOT EXISTS hinted_at timestamptz;
"""
# What the inbox still tells. Each statement may be run again.
KNOWN = r"""
INSERT INTO cardsync.signatures (signature_hash, first_seen, payment, named_card)
SELECT signature_hash, min(received_at)::date, NULL, true FROM cardsync.events
WHERE signature_hash IS NOT NULL GROUP BY signature_hash
ON CONFLICT DO NOTHING;
UPDATE cardsync.events AS e SET repeated = true
WHERE status IN ('pending', 'failed') AND signature_hash IS NOT NULL AND NOT repeated AND EXISTS (
    SELECT 1 FROM cardsync.events AS earlier
    WHERE earlier.signature_hash = e.signature_hash AND earlier.evidence_no < e.evidence_no
);
"""

# What no process may do at will, as the owner, within bounds. A body is folded into the row of a repeat alone.
FOLD = r"""
CREATE OR REPLACE FUNCTION cardsync.fold_repeat(p_event_id uuid, p_row jsonb) RETURNS uuid
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE cardsync.events AS e
    SET status = 'pending', evidence_no = nextval('cardsync.observation_no'),
        received_at = greatest(e.received_at, (p_row ->> 'received_at')::timestamptz),
        session_id = p_row ->> 'session_id', reference_number = p_row ->> 'reference_number', result = p_row ->> 'result',
        state = p_row ->> 'state', payment_type = p_row ->> 'payment_type', agreement_id = p_row ->> 'agreement_id',
        scheme = p_row ->> 'scheme', key_id = p_row ->> 'key_id', token = p_row ->> 'token', facts = p_row -> 'facts',
        vouched = (p_row ->> 'vouched')::boolean, as_of = (p_row ->> 'as_of')::timestamptz,
        card_id = NULL, settled_at = NULL, shed_at = NULL, last_error = NULL,
        attempts = CASE WHEN e.status = 'pending' THEN e.attempts ELSE 0 END,
        due_at = CASE WHEN e.status = 'pending' THEN e.due_at ELSE statement_timestamp() END
    WHERE e.event_id = p_event_id AND e.repeated AND e.status IN ('pending', 'done', 'failed')
    RETURNING e.event_id
$$;
REVOKE ALL ON FUNCTION cardsync.fold_repeat(uuid, jsonb) FROM PUBLIC;
"""
# A customer that hints alone made known: replays invent such ones. It goes if no list ever showed a card of it. One with a card
# (the feed and deletions point to cards) or an erasure stays, and is not asked about again. One that was not looked at yet, or is
# about to be, or was audited, has as much time again.
FORGET = r"""
CREATE OR REPLACE FUNCTION cardsync.forget_customers(p_days integer, p_limit integer) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH silent AS MATERIALIZED (
        SELECT id, environment, customer_id,
               reconciled_at IS NULL OR ticket_no IS NOT NULL OR (due_at IS NOT NULL AND lane <> 'repeat') AS is_busy
        FROM cardsync.customers WHERE id = ANY(ARRAY(
            SELECT id FROM cardsync.customers WHERE hinted_at < statement_timestamp() - make_interval(days => p_days)
            ORDER BY hinted_at LIMIT p_limit FOR UPDATE SKIP LOCKED
        ))
    ), judged AS MATERIALIZED (
        SELECT id, is_busy OR EXISTS (SELECT 1 FROM cardsync.audits AS a WHERE a.customer = s.id) OR EXISTS (
            SELECT 1 FROM cardsync.events AS e
            WHERE e.environment = s.environment AND e.customer_id = s.customer_id AND e.status IN ('pending', 'failed')
        ) AS is_busy, EXISTS (SELECT 1 FROM cardsync.cards AS c WHERE c.customer = s.id)
            OR EXISTS (SELECT 1 FROM cardsync.erasures AS p WHERE p.customer_id = s.customer_id) AS has_a_past
        FROM silent AS s
    ), looks AS (
        DELETE FROM cardsync.observations
        WHERE customer = ANY(ARRAY(SELECT id FROM judged WHERE NOT has_a_past AND NOT is_busy))
    ), kept AS (
        UPDATE cardsync.customers AS c SET hinted_at = CASE WHEN NOT j.has_a_past THEN clock_timestamp() END
        FROM judged AS j WHERE c.id = j.id AND (j.has_a_past OR j.is_busy)
    ), gone AS (
        DELETE FROM cardsync.customers
        WHERE id = ANY(ARRAY(SELECT id FROM judged WHERE NOT has_a_past AND NOT is_busy)) RETURNING 1
    )
    SELECT count(*) FROM gone
$$;
REVOKE ALL ON FUNCTION cardsync.forget_customers(integer, integer) FROM PUBLIC;
"""

# Those of customers take the place of customers_stalest, customers_cadence and customers_look_by, which stay for old code beside
# this schema. The release after may drop them.
IN_LINE = "(due_at IS NULL OR lane = 'repeat')"
INDEXES = {
    "events_fresh": "events (due_at) WHERE status = 'pending' AND NOT repeated",
    "events_repeats_pending": "events (due_at) WHERE status = 'pending' AND repeated",
    "events_repeats": "events (signature_hash, environment, customer_id) WHERE repeated",
    "customers_hinted": "customers (hinted_at) WHERE hinted_at IS NOT NULL",
    "customers_line": f"customers (reconciled_at NULLS FIRST, id) WHERE {IN_LINE}",
    "customers_line_by_cadence": f"customers (cadence, reconciled_at, id) WHERE {IN_LINE} AND reconciled_at IS NOT NULL",
    "customers_line_by_date": f"customers (look_by) WHERE {IN_LINE} AND look_by IS NOT NULL",
    # Forgetting a customer asks each table that points to customers.
    "card_changes_customer": "card_changes (customer)",
    "audits_customer": "audits (customer)",
    "erasures_customer": "erasures (customer_id)",
}


def upgrade() -> None:
    op.execute(TABLES)
    with op.get_context().autocommit_block():
        for statement in KNOWN.strip().rstrip(";").split(";\n"):
            op.execute(statement)
    op.execute(FOLD)
    op.execute(FORGET)
    for name, on in INDEXES.items():
        db.make_index(op.get_context(), name, on)


def downgrade() -> None:
    for name in INDEXES:
        op.execute(f"DROP INDEX cardsync.{name}")
    op.execute(
        """
        DROP FUNCTION cardsync.fold_repeat(uuid, jsonb);
        DROP FUNCTION cardsync.forget_customers(integer, integer);
        DROP TABLE cardsync.signatures;
        ALTER TABLE cardsync.events DROP COLUMN repeated;
        ALTER TABLE cardsync.customers DROP COLUMN hinted_at;
        """
    )
