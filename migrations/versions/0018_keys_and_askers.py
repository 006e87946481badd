"""Quotas of API keys, customers that only a reader named, the brake on requests for deletions, and askers.

Revision: 0018. Old code runs beside it: its requests for deletions come through the function of before, which is the
new one with the database's login as the asker. A request over HTTP that old code takes meanwhile is therefore another asker's.
"""

from __future__ import annotations

from alembic import op

from cardsync import db

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

# All of it can be run again: making an index commits what stands before. New columns may be NULL, for old code beside: a key without an owner belongs to its name.
TABLES = r"""
ALTER TABLE cardsync.api_keys
    ADD COLUMN IF NOT EXISTS owner text CONSTRAINT api_keys_owner_bounded CHECK (length(owner) BETWEEN 1 AND 100),
    ADD COLUMN IF NOT EXISTS prefix text CONSTRAINT api_keys_prefix_bounded CHECK (length(prefix) BETWEEN 1 AND 12),
    ADD COLUMN IF NOT EXISTS expires_at timestamptz,
    ADD COLUMN IF NOT EXISTS replaced_at timestamptz,
    ADD COLUMN IF NOT EXISTS calls_per_day integer CONSTRAINT api_keys_calls_counted CHECK (calls_per_day >= 0),
    ADD COLUMN IF NOT EXISTS requests_per_second integer CONSTRAINT api_keys_requests_counted CHECK (requests_per_second >= 1);

CREATE TABLE IF NOT EXISTS cardsync.key_use (
    key_id uuid CONSTRAINT key_use_pkey PRIMARY KEY
        CONSTRAINT key_use_key_fkey REFERENCES cardsync.api_keys (key_id),
    last_used_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    taken_until timestamptz NOT NULL DEFAULT clock_timestamp(),
    day date NOT NULL,
    calls integer NOT NULL DEFAULT 0 CONSTRAINT key_use_calls_counted CHECK (calls >= 0)
);

ALTER TABLE cardsync.customers ADD COLUMN IF NOT EXISTS probation_since timestamptz;

CREATE TABLE IF NOT EXISTS cardsync.deletion_askers (
    asker text CONSTRAINT deletion_askers_pkey PRIMARY KEY
        CONSTRAINT deletion_askers_asker_bounded CHECK (length(asker) BETWEEN 1 AND 110),
    day date NOT NULL,
    asked integer NOT NULL CONSTRAINT deletion_askers_asked_counted CHECK (asked >= 0),
    held_since timestamptz,
    told_at timestamptz
);
CREATE TABLE IF NOT EXISTS cardsync.deletion_brake (
    singleton boolean DEFAULT true CONSTRAINT deletion_brake_pkey PRIMARY KEY
        CONSTRAINT deletion_brake_is_one_row CHECK (singleton),
    share double precision NOT NULL DEFAULT 0.01 CONSTRAINT deletion_brake_share_is_one CHECK (share > 0 AND share <= 1),
    floor integer NOT NULL DEFAULT 100 CONSTRAINT deletion_brake_floor_counted CHECK (floor >= 0)
);
INSERT INTO cardsync.deletion_brake DEFAULT VALUES ON CONFLICT DO NOTHING;

ALTER TABLE cardsync.deletions ADD COLUMN IF NOT EXISTS asker text;
ALTER TABLE cardsync.erasures ADD COLUMN IF NOT EXISTS asker text;
"""
INDEXES = {
    "deletions_held": "deletions (asker, deletion_id) WHERE due_at = 'infinity'::timestamptz",
    "customers_probation": "customers (probation_since) WHERE probation_since IS NOT NULL",
}

# A key of before keeps its answer: those that came over HTTP had a hash, and the name of their API key as ``requested_by``. Of
# those that came by SQL the login is not known: 'sql:' stands for any.
HASHED_KEYS = r"""
UPDATE cardsync.deletion_keys AS k
SET idempotency_key = cardsync.hashed_key(
    CASE WHEN k.request_hash IS NULL THEN 'sql:' ELSE 'api:' || d.requested_by END, k.idempotency_key
)
FROM cardsync.deletions AS d
WHERE d.deletion_id = k.deletion_id AND k.idempotency_key !~ '^sha256:[0-9a-f]{64}$'
"""
HASHED_ERASURE_KEYS = r"""
UPDATE cardsync.erasure_requests AS r
SET idempotency_key = cardsync.hashed_key('api:' || r.requested_by, r.idempotency_key)
WHERE r.idempotency_key !~ '^sha256:[0-9a-f]{64}$'
"""

FUNCTIONS = r"""
CREATE OR REPLACE FUNCTION cardsync.hashed_key(p_asker text, p_key text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'sha256:' || encode(sha256(convert_to(p_asker || E'\n' || p_key, 'UTF8')), 'hex')
$$;

-- From what ANALYZE keeps: counting would pass over millions of rows for each request. 0 for a table that was never analysed.
CREATE OR REPLACE FUNCTION cardsync.active_cards_estimate() RETURNS double precision
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((
        SELECT greatest(c.reltuples, 0)::float8 * common.share::float8
        FROM pg_class AS c, pg_stats AS s, unnest(s.most_common_vals::text::text[], s.most_common_freqs) AS common (status, share)
        WHERE c.oid = 'cardsync.cards'::regclass AND s.schemaname = 'cardsync' AND s.tablename = 'cards'
          AND s.attname = 'status' AND common.status = 'active'
    ), 0)
$$;

-- Counts one deletion of the asker's, and tells whether it is held. The row is locked until the asker's transaction ends: what
-- one asker holds open keeps that asker alone waiting.
CREATE OR REPLACE FUNCTION cardsync.count_deletion(p_asker text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    mine cardsync.deletion_askers;
    brake cardsync.deletion_brake;
BEGIN
    INSERT INTO cardsync.deletion_askers AS a (asker, day, asked) VALUES (p_asker, today, 1)
    ON CONFLICT ON CONSTRAINT deletion_askers_pkey
    DO UPDATE SET day = today, asked = CASE WHEN a.day = today THEN a.asked + 1 ELSE 1 END
    RETURNING * INTO STRICT mine;
    IF mine.held_since IS NOT NULL THEN
        RETURN true;
    END IF;
    SELECT * INTO STRICT brake FROM cardsync.deletion_brake;
    IF mine.asked <= brake.floor OR mine.asked <= brake.share * cardsync.active_cards_estimate() THEN
        RETURN false;
    END IF;
    UPDATE cardsync.deletion_askers AS a SET held_since = clock_timestamp(), told_at = NULL WHERE a.asker = p_asker;
    RETURN true;
END
$$;

-- Binds the database to the fingerprints' key, once: no process can bind it to another one.
CREATE OR REPLACE FUNCTION cardsync.bind_secret(p_check bytea) RETURNS bytea
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE cardsync.gate SET secret_check = p_check WHERE secret_check IS NULL;
    RETURN (SELECT g.secret_check FROM cardsync.gate AS g);
END
$$;

-- Evidence with a number of tomorrow would never be settled by any list: the customer's cards could not be removed any more. A
-- number of the past is no evidence at all. The owner, who may set the sequence, may write what it wants.
CREATE OR REPLACE FUNCTION cardsync.refuse_undrawn_number() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    given bigint := (to_jsonb(NEW) ->> TG_ARGV[0])::bigint;
BEGIN
    IF given > coalesce(pg_sequence_last_value('cardsync.observation_no'), 0)
       AND NOT has_sequence_privilege('cardsync.observation_no', 'UPDATE') THEN
        RAISE EXCEPTION '% is a number that was not drawn yet', TG_ARGV[0] USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER events_evidence_is_drawn BEFORE INSERT ON cardsync.events
FOR EACH ROW EXECUTE FUNCTION cardsync.refuse_undrawn_number('evidence_no');
CREATE OR REPLACE TRIGGER customers_dirty_is_drawn BEFORE UPDATE OF dirty_no ON cardsync.customers
FOR EACH ROW WHEN (NEW.dirty_no > OLD.dirty_no) EXECUTE FUNCTION cardsync.refuse_undrawn_number('dirty_no');
CREATE OR REPLACE TRIGGER erasures_asked_is_drawn BEFORE UPDATE OF asked_no ON cardsync.erasures
FOR EACH ROW EXECUTE FUNCTION cardsync.refuse_undrawn_number('asked_no');

-- A customer's identity is what its cards hang on. Code of the release before writes the column, with the value that it has.
CREATE OR REPLACE TRIGGER customers_identity_stays BEFORE UPDATE OF environment, customer_id ON cardsync.customers
FOR EACH ROW WHEN ((NEW.environment, NEW.customer_id) IS DISTINCT FROM (OLD.environment, OLD.customer_id))
EXECUTE FUNCTION cardsync.refuse_change();
REVOKE ALL ON FUNCTION cardsync.hashed_key(text, text), cardsync.active_cards_estimate(), cardsync.count_deletion(text),
    cardsync.bind_secret(bytea), cardsync.refuse_undrawn_number() FROM PUBLIC;
"""

# Customers on probation: only a reader named them. The first card ends that, and so does anything else that names the customer
# (``store.customers.touch``). One without a card, a hint, a look under way or an erasure goes after a day.
PROBATION = r"""
CREATE OR REPLACE FUNCTION cardsync.end_probation() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE cardsync.customers SET probation_since = NULL WHERE id = NEW.customer AND probation_since IS NOT NULL;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER cards_end_probation AFTER INSERT ON cardsync.cards
FOR EACH ROW EXECUTE FUNCTION cardsync.end_probation();

CREATE OR REPLACE FUNCTION cardsync.forget_probation(p_days integer, p_limit integer) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH idle AS MATERIALIZED (
        SELECT id FROM cardsync.customers AS c
        WHERE probation_since < statement_timestamp() - make_interval(days => p_days)
          AND (ticket_no IS NULL OR lease_until < statement_timestamp())
          AND NOT EXISTS (SELECT FROM cardsync.cards AS k WHERE k.customer = c.id)
          AND NOT EXISTS (SELECT FROM cardsync.audits AS a WHERE a.customer = c.id)
          AND NOT EXISTS (
              SELECT FROM cardsync.events AS e
              WHERE e.environment = c.environment AND e.customer_id = c.customer_id AND e.status IN ('pending', 'failed')
          )
        ORDER BY probation_since LIMIT p_limit FOR UPDATE SKIP LOCKED
    ), looks AS (
        DELETE FROM cardsync.observations WHERE customer = ANY(ARRAY(SELECT id FROM idle))
    ), gone AS (
        DELETE FROM cardsync.customers WHERE id = ANY(ARRAY(SELECT id FROM idle)) RETURNING 1
    )
    SELECT count(*) FROM gone
$$;
REVOKE ALL ON FUNCTION cardsync.end_probation(), cardsync.forget_probation(integer, integer) FROM PUBLIC;
"""

# As before (migration 0002), and beside that: idempotency keys belong to an asker, a request beyond the brake is held, and a
# card whose deletion Ottu has just refused is not asked for again within an hour while an agreement still locks it.
ASKING = r"""
CREATE OR REPLACE FUNCTION cardsync.request_deletion(
    p_card_id uuid, p_requested_by text, p_reason text, p_idempotency_key text, p_request_hashes bytea[],
    p_when_unlocked boolean, p_asker text, OUT asked_id uuid, OUT fresh boolean, OUT held boolean
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    asker text := coalesce(p_asker, 'sql:' || session_user);
    keys text[] := ARRAY[cardsync.hashed_key(asker, p_idempotency_key)];
    known record;
    card record;
    newest record;
    whose bigint;
BEGIN
    fresh := false;
    held := false;
    IF p_requested_by IS NULL OR length(p_requested_by) NOT BETWEEN 1 AND 100 THEN
        RAISE EXCEPTION 'requested_by must be 1 to 100 characters' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF regexp_replace(p_requested_by, '[\s./·_-]+', '', 'g') ~ '[0-9]{11}' THEN
        RAISE EXCEPTION 'requested_by looks like a full card number' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF length(p_idempotency_key) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION 'an idempotency key must be 1 to 255 characters' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF p_idempotency_key IS NOT NULL THEN
        IF p_asker IS NULL THEN
            keys := keys || cardsync.hashed_key('sql:', p_idempotency_key);
        END IF;
        PERFORM pg_advisory_xact_lock(hashtextextended(keys[1], 0));
        SELECT k.deletion_id, k.request_hash, d.card_id INTO known
        FROM cardsync.deletion_keys AS k JOIN cardsync.deletions AS d USING (deletion_id)
        WHERE k.idempotency_key = ANY(keys) ORDER BY k.idempotency_key = keys[1] DESC LIMIT 1;
        IF FOUND THEN
            IF known.card_id <> p_card_id
               OR NOT coalesce(known.request_hash = ANY(p_request_hashes), p_request_hashes IS NULL AND known.request_hash IS NULL)
            THEN
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
        RETURNING d.deletion_id, d.due_at IS NOT DISTINCT FROM 'infinity' INTO STRICT asked_id, held;
        INSERT INTO cardsync.deletion_steps (deletion_id, step, detail) VALUES (
            asked_id, 'asked_again',
            jsonb_build_object('requested_by', p_requested_by, 'asker', asker, 'when_unlocked', p_when_unlocked)
        );
    ELSIF card.status = 'active' THEN
        SELECT d.deletion_id, d.phase, d.when_unlocked, d.finished_at > clock_timestamp() - interval '1 hour' AND (
            d.locked_by = '{}' OR EXISTS (
                SELECT FROM cardsync.agreements AS a WHERE a.card_id = p_card_id AND a.agreement_id = ANY(d.locked_by)
            )) AS is_recent
        INTO newest FROM cardsync.deletions AS d
        WHERE d.card_id = p_card_id AND d.life = card.life ORDER BY d.requested_at DESC, d.since_no DESC LIMIT 1;
        IF newest.phase = 'blocked' AND newest.is_recent THEN
            asked_id := newest.deletion_id;
            IF p_when_unlocked AND NOT newest.when_unlocked THEN
                UPDATE cardsync.deletions AS d SET when_unlocked = true WHERE d.deletion_id = asked_id;
                INSERT INTO cardsync.deletion_steps (deletion_id, step, detail) VALUES (
                    asked_id, 'asked_again',
                    jsonb_build_object('requested_by', p_requested_by, 'asker', asker, 'when_unlocked', p_when_unlocked)
                );
            END IF;
        ELSE
            fresh := true;
            held := cardsync.count_deletion(asker);
            UPDATE cardsync.cards AS c SET status = 'deleting', cause = 'deletion' WHERE c.card_id = p_card_id;
            INSERT INTO cardsync.deletions AS d (
                card_id, life, customer, phase, when_unlocked, requested_by, asker, reason, requested_at, tried_since, due_at,
                rung_at, error
            ) SELECT p_card_id, card.life, whose, 'asked', p_when_unlocked, p_requested_by, asker, nullif(p_reason, ''),
                     moment, moment, CASE WHEN held THEN 'infinity' ELSE moment END, moment, CASE WHEN held THEN 'held' END
            FROM clock_timestamp() AS moment
            RETURNING d.deletion_id INTO STRICT asked_id;
            INSERT INTO cardsync.deletion_steps (deletion_id, step, detail) VALUES (
                asked_id, 'asked',
                jsonb_build_object('card_id', p_card_id, 'life', card.life, 'requested_by', p_requested_by, 'asker', asker,
                                   'when_unlocked', p_when_unlocked, 'held', held)
            );
            IF NOT held THEN
                PERFORM pg_notify('cardsync_deletions', asked_id::text);
            END IF;
        END IF;
    ELSE
        RAISE EXCEPTION 'the card is %: only an active one can be deleted', card.status
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF p_idempotency_key IS NOT NULL THEN
        INSERT INTO cardsync.deletion_keys (idempotency_key, deletion_id, request_hash)
        VALUES (keys[1], asked_id, p_request_hashes[1]);
    END IF;
END
$$;

-- For code of the release before, and for registry.request_deletion: the login is the asker.
CREATE OR REPLACE FUNCTION cardsync.request_deletion(
    p_card_id uuid, p_requested_by text, p_reason text, p_idempotency_key text, p_request_hash bytea,
    p_when_unlocked boolean, OUT asked_id uuid, OUT fresh boolean
) LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.asked_id, a.fresh FROM cardsync.request_deletion(
        p_card_id, p_requested_by, p_reason, p_idempotency_key,
        CASE WHEN p_request_hash IS NOT NULL THEN ARRAY[p_request_hash] END, p_when_unlocked, NULL
    ) AS a
$$;
REVOKE ALL ON FUNCTION cardsync.request_deletion(uuid, text, text, text, bytea[], boolean, text) FROM PUBLIC;
"""

# What the asker says of itself is ``requested_by``; what the database knows of it is ``asker``.
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
    d.asker
FROM cardsync.deletions AS d JOIN cardsync.customers AS o ON o.id = d.customer;
"""


# As migrations 0002 and 0004 left them.
BEFORE = r"""
DROP VIEW registry.deletions;
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
GRANT SELECT ON registry.deletions TO cardsync_reader, cardsync_charger, cardsync_deleter, cardsync_web, cardsync_worker;

CREATE OR REPLACE FUNCTION cardsync.request_deletion(
    p_card_id uuid, p_requested_by text, p_reason text, p_idempotency_key text, p_request_hash bytea,
    p_when_unlocked boolean, OUT asked_id uuid, OUT fresh boolean
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(FUNCTIONS)
    op.execute(PROBATION)
    op.execute(HASHED_KEYS)
    op.execute(HASHED_ERASURE_KEYS)
    op.execute(ASKING)
    op.execute(VIEW)
    for name, on in INDEXES.items():
        db.make_index(op.get_context(), name, on)


def downgrade() -> None:
    """Idempotency keys stay hashed: what they were is not known any more."""
    op.execute(BEFORE)
    op.execute(
        """
        UPDATE cardsync.deletions SET due_at = clock_timestamp(), error = NULL WHERE due_at = 'infinity';
        DROP TRIGGER events_evidence_is_drawn ON cardsync.events;
        DROP TRIGGER customers_dirty_is_drawn ON cardsync.customers;
        DROP TRIGGER customers_identity_stays ON cardsync.customers;
        DROP TRIGGER erasures_asked_is_drawn ON cardsync.erasures;
        DROP TRIGGER cards_end_probation ON cardsync.cards;
        DROP FUNCTION cardsync.request_deletion(uuid, text, text, text, bytea[], boolean, text);
        DROP FUNCTION cardsync.refuse_undrawn_number(), cardsync.end_probation(), cardsync.forget_probation(integer, integer),
            cardsync.bind_secret(bytea), cardsync.count_deletion(text), cardsync.active_cards_estimate(),
            cardsync.hashed_key(text, text);
        DROP INDEX cardsync.deletions_held, cardsync.customers_probation;
        DROP TABLE cardsync.deletion_brake, cardsync.deletion_askers, cardsync.key_use;
        ALTER TABLE cardsync.deletions DROP COLUMN asker;
        ALTER TABLE cardsync.erasures DROP COLUMN asker;
        ALTER TABLE cardsync.customers DROP COLUMN probation_since;
        ALTER TABLE cardsync.api_keys DROP COLUMN owner, DROP COLUMN prefix, DROP COLUMN expires_at, DROP COLUMN replaced_at,
            DROP COLUMN calls_per_day, DROP COLUMN requests_per_second;
        """
    )
