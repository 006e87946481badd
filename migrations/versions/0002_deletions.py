"""Deletions: who asked, how far each has come, and the receipts, chained by their hashes.

Revision: 0002, after 0001
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = r"""
CREATE TABLE cardsync.deletions (
    deletion_id uuid DEFAULT gen_random_uuid() CONSTRAINT deletions_pkey PRIMARY KEY,
    card_id uuid NOT NULL CONSTRAINT deletions_card_fkey REFERENCES cardsync.cards (card_id),
    life integer NOT NULL,
    customer bigint NOT NULL CONSTRAINT deletions_customer_fkey REFERENCES cardsync.customers (id),
    phase text NOT NULL CONSTRAINT deletions_phase_known
        CHECK (phase IN ('asked', 'calling', 'proving', 'refused', 'done', 'blocked', 'failed')),
    when_unlocked boolean NOT NULL DEFAULT false,
    requested_by text NOT NULL CONSTRAINT deletions_requested_by_bounded CHECK (length(requested_by) BETWEEN 1 AND 100),
    reason text
        CONSTRAINT deletions_reason_bounded CHECK (length(reason) BETWEEN 1 AND 200)
        CONSTRAINT deletions_reason_is_no_number
            CHECK (regexp_replace(reason, '[\s./·_-]+', '', 'g') !~ '[0-9]{11}'),
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    tried_since timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The number of the request or of the last call: a list asked for before says nothing of this deletion.
    since_no bigint NOT NULL DEFAULT nextval('cardsync.observation_no'::regclass),
    attempts integer NOT NULL DEFAULT 0 CONSTRAINT deletions_attempts_counted CHECK (attempts >= 0),
    failures integer NOT NULL DEFAULT 0 CONSTRAINT deletions_failures_counted CHECK (failures >= 0),
    called_at timestamptz,
    proof_no bigint,
    locked_by text[] NOT NULL DEFAULT '{}'::text[],
    due_at timestamptz,
    rung_at timestamptz,
    finished_at timestamptz,
    error text CONSTRAINT deletions_error_bounded CHECK (length(error) <= 400),
    CONSTRAINT deletions_due_while_asked CHECK ((phase = 'asked') = (due_at IS NOT NULL)),
    CONSTRAINT deletions_finished_says_when
        CHECK ((phase IN ('done', 'blocked', 'failed')) = (finished_at IS NOT NULL)),
    CONSTRAINT deletions_called_says_when CHECK (phase NOT IN ('calling', 'proving', 'refused') OR called_at IS NOT NULL),
    -- No deletion is done but by a list that was asked for after the last call.
    CONSTRAINT deletions_done_is_proved CHECK ((phase = 'done') = (proof_no IS NOT NULL)),
    CONSTRAINT deletions_proof_is_later CHECK (proof_no > since_no)
);
CREATE UNIQUE INDEX deletions_one_open ON cardsync.deletions (card_id)
    WHERE phase IN ('asked', 'calling', 'proving', 'refused');
CREATE UNIQUE INDEX deletions_one_done_a_life ON cardsync.deletions (card_id, life) WHERE phase = 'done';
CREATE INDEX deletions_card ON cardsync.deletions (card_id, requested_at);
CREATE INDEX deletions_customer ON cardsync.deletions (customer);
CREATE INDEX deletions_due ON cardsync.deletions (due_at) WHERE phase = 'asked';
CREATE INDEX deletions_open ON cardsync.deletions (requested_at)
    WHERE phase IN ('asked', 'calling', 'proving', 'refused');
CREATE INDEX deletions_requested_at ON cardsync.deletions (requested_at);

-- Every key that ever asked, also for a deletion that was under way: asked again after the end, it gives the same answer.
CREATE TABLE cardsync.deletion_keys (
    idempotency_key text CONSTRAINT deletion_keys_pkey PRIMARY KEY
        CONSTRAINT deletion_keys_key_bounded CHECK (length(idempotency_key) BETWEEN 1 AND 255),
    deletion_id uuid NOT NULL CONSTRAINT deletion_keys_deletion_fkey REFERENCES cardsync.deletions (deletion_id),
    request_hash bytea
        CONSTRAINT deletion_keys_request_hash_is_sha256 CHECK (octet_length(request_hash) = 32)
);
CREATE INDEX deletion_keys_deletion ON cardsync.deletion_keys (deletion_id);

CREATE TABLE cardsync.deletion_steps (
    step_id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT deletion_steps_pkey PRIMARY KEY,
    deletion_id uuid NOT NULL CONSTRAINT deletion_steps_deletion_fkey REFERENCES cardsync.deletions (deletion_id),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    step text NOT NULL CONSTRAINT deletion_steps_step_known CHECK (step IN (
        'asked', 'asked_again', 'called', 'answered', 'no_answer', 'listed', 'absent', 'unlisted',
        'done', 'blocked', 'failed', 'unlocked', 'replayed'
    )),
    detail jsonb NOT NULL DEFAULT '{}'::jsonb
);
CREATE INDEX deletion_steps_deletion ON cardsync.deletion_steps (deletion_id, step_id);

CREATE TABLE cardsync.receipt_chain (
    step_no bigint CONSTRAINT receipt_chain_pkey PRIMARY KEY,
    step_id bigint NOT NULL CONSTRAINT receipt_chain_step_fkey REFERENCES cardsync.deletion_steps (step_id),
    hash bytea NOT NULL CONSTRAINT receipt_chain_hash_is_sha256 CHECK (octet_length(hash) = 32)
);
CREATE UNIQUE INDEX receipt_chain_step_key ON cardsync.receipt_chain (step_id);

CREATE TABLE cardsync.receipt_head (
    singleton boolean DEFAULT true CONSTRAINT receipt_head_pkey PRIMARY KEY
        CONSTRAINT receipt_head_is_one_row CHECK (singleton),
    step_no bigint NOT NULL DEFAULT 0,
    hash bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex')
);
INSERT INTO cardsync.receipt_head DEFAULT VALUES;
"""

# Deferred for the feed's reasons: the head is locked only while a transaction commits, and the chain is in commit order. The
# feed's head is locked first, since a transaction may change cards and write steps in either order: one order, no deadlock.
# What is hashed is text that anybody can put together again from the tables: store/receipts.py does.
CHAIN = r"""
CREATE FUNCTION cardsync.chain_deletion_step() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    head cardsync.receipt_head;
BEGIN
    PERFORM 1 FROM cardsync.feed_head FOR UPDATE;
    SELECT * INTO STRICT head FROM cardsync.receipt_head FOR UPDATE;
    head.step_no := head.step_no + 1;
    head.hash := sha256(head.hash || convert_to(
        head.step_no || E'\n' || NEW.deletion_id || E'\n'
            || to_char(NEW.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') || E'\n'
            || NEW.step || E'\n' || NEW.detail::text,
        'UTF8'
    ));
    UPDATE cardsync.receipt_head SET step_no = head.step_no, hash = head.hash;
    INSERT INTO cardsync.receipt_chain (step_no, step_id, hash) VALUES (head.step_no, NEW.step_id, head.hash);
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER deletion_steps_chain AFTER INSERT ON cardsync.deletion_steps
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION cardsync.chain_deletion_step();

CREATE TRIGGER deletion_steps_append_only BEFORE UPDATE OR DELETE ON cardsync.deletion_steps
FOR EACH ROW EXECUTE FUNCTION cardsync.refuse_change();
CREATE TRIGGER deletion_steps_never_emptied BEFORE TRUNCATE ON cardsync.deletion_steps
EXECUTE FUNCTION cardsync.refuse_change();
CREATE TRIGGER receipt_chain_append_only BEFORE UPDATE OR DELETE ON cardsync.receipt_chain
FOR EACH ROW EXECUTE FUNCTION cardsync.refuse_change();
CREATE TRIGGER receipt_chain_never_emptied BEFORE TRUNCATE ON cardsync.receipt_chain
EXECUTE FUNCTION cardsync.refuse_change();
"""

# The one way to ask, underneath HTTP, SQL and the command line. The customer is locked before the card: the order of all
# writers. A key is locked before both, so that of two requests with one key the second finds what the first made.
# It has no search path of its own: whoever calls it owns these tables, or comes through the function in `registry`.
ASKING = r"""
CREATE FUNCTION cardsync.request_deletion(
    p_card_id uuid, p_requested_by text, p_reason text, p_idempotency_key text, p_request_hash bytea,
    p_when_unlocked boolean, OUT asked_id uuid, OUT fresh boolean
) LANGUAGE plpgsql AS $$
DECLARE
    known record;
    card record;
    whose bigint;
BEGIN
    fresh := false;
    IF p_requested_by IS NULL OR length(p_requested_by) NOT BETWEEN 1 AND 100 THEN
        RAISE EXCEPTION 'requested_by must be 1 to 100 characters' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF length(p_idempotency_key) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION 'an idempotency key must be 1 to 255 characters' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF p_idempotency_key IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('cardsync.deletion_keys:' || p_idempotency_key, 0));
        SELECT k.deletion_id, k.request_hash, d.card_id INTO known
        FROM cardsync.deletion_keys AS k JOIN cardsync.deletions AS d USING (deletion_id)
        WHERE k.idempotency_key = p_idempotency_key;
        IF FOUND THEN
            IF known.card_id <> p_card_id OR known.request_hash <> p_request_hash THEN
                RAISE EXCEPTION 'the idempotency key was used for another request' USING ERRCODE = 'unique_violation';
            END IF;
            asked_id := known.deletion_id;
            RETURN;
        END IF;
    END IF;

    SELECT c.customer INTO whose FROM cardsync.cards AS c WHERE c.card_id = p_card_id;
    PERFORM 1 FROM cardsync.customers AS o WHERE o.id = whose FOR UPDATE;
    SELECT c.status, c.life INTO card FROM cardsync.cards AS c WHERE c.card_id = p_card_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no such card' USING ERRCODE = 'no_data_found';
    END IF;
    IF card.status = 'deleting' THEN
        UPDATE cardsync.deletions AS d SET when_unlocked = d.when_unlocked OR p_when_unlocked
        WHERE d.card_id = p_card_id AND d.phase IN ('asked', 'calling', 'proving', 'refused')
        RETURNING d.deletion_id INTO STRICT asked_id;
        INSERT INTO cardsync.deletion_steps (deletion_id, step, detail) VALUES (
            asked_id, 'asked_again',
            jsonb_build_object('requested_by', p_requested_by, 'when_unlocked', p_when_unlocked)
        );
    ELSIF card.status = 'active' THEN
        fresh := true;
        UPDATE cardsync.cards AS c SET status = 'deleting', cause = 'deletion' WHERE c.card_id = p_card_id;
        INSERT INTO cardsync.deletions AS d (
            card_id, life, customer, phase, when_unlocked, requested_by, reason, requested_at, tried_since, due_at, rung_at
        ) SELECT p_card_id, card.life, whose, 'asked', p_when_unlocked, p_requested_by, nullif(p_reason, ''),
                 moment, moment, moment, moment
        FROM clock_timestamp() AS moment
        RETURNING d.deletion_id INTO STRICT asked_id;
        INSERT INTO cardsync.deletion_steps (deletion_id, step, detail) VALUES (
            asked_id, 'asked',
            jsonb_build_object('card_id', p_card_id, 'life', card.life, 'requested_by', p_requested_by,
                               'when_unlocked', p_when_unlocked)
        );
        PERFORM pg_notify('cardsync_deletions', asked_id::text);
    ELSE
        RAISE EXCEPTION 'the card is %: only an active one can be deleted', card.status
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF p_idempotency_key IS NOT NULL THEN
        INSERT INTO cardsync.deletion_keys (idempotency_key, deletion_id, request_hash)
        VALUES (p_idempotency_key, asked_id, p_request_hash);
    END IF;
END
$$;

CREATE FUNCTION registry.request_deletion(card_id uuid, requested_by text, idempotency_key text) RETURNS uuid
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT asked_id FROM cardsync.request_deletion(card_id, requested_by, NULL, idempotency_key, NULL, false)
$$;
"""

VIEW = r"""
CREATE VIEW registry.deletions AS
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
    -- While Ottu is not called, the next attempt is the next list.
    CASE
        WHEN d.phase = 'asked' THEN d.due_at
        WHEN d.phase IN ('calling', 'proving', 'refused') THEN o.due_at
    END AS next_attempt_at,
    d.finished_at,
    d.error,
    d.when_unlocked
FROM cardsync.deletions AS d JOIN cardsync.customers AS o ON o.id = d.customer;

COMMENT ON VIEW registry.deletions IS 'What was asked to be deleted. status: pending, in_progress, done, blocked, failed.';
COMMENT ON FUNCTION registry.request_deletion(uuid, text, text) IS
    'Asks for a card to be deleted; the card leaves registry.active_cards in the same transaction. Keep that one short.';
"""

GRANTS = r"""
REVOKE ALL ON FUNCTION cardsync.chain_deletion_step() FROM PUBLIC;
REVOKE ALL ON FUNCTION cardsync.request_deletion(uuid, text, text, text, bytea, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION registry.request_deletion(uuid, text, text) FROM PUBLIC;
GRANT SELECT ON registry.deletions TO cardsync_reader, cardsync_charger, cardsync_deleter;
GRANT EXECUTE ON FUNCTION registry.request_deletion(uuid, text, text) TO cardsync_deleter;
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(CHAIN)
    op.execute(ASKING)
    op.execute(VIEW)
    op.execute(GRANTS)


def downgrade() -> None:
    op.execute(
        """
        DROP FUNCTION registry.request_deletion(uuid, text, text);
        DROP VIEW registry.deletions;
        DROP TABLE cardsync.receipt_head, cardsync.receipt_chain, cardsync.deletion_steps, cardsync.deletion_keys,
            cardsync.deletions;
        DROP FUNCTION cardsync.request_deletion(uuid, text, text, text, bytea, boolean);
        DROP FUNCTION cardsync.chain_deletion_step();
        """
    )
