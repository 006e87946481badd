"""The inbox, the customers, the cards, the feed, and what others may read of them.

Revision: 0001, the first
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ROLES = ("cardsync_reader", "cardsync_charger", "cardsync_deleter")

TABLES = r"""
CREATE SEQUENCE cardsync.observation_no AS bigint;

CREATE TABLE cardsync.events (
    event_id uuid DEFAULT gen_random_uuid() CONSTRAINT events_pkey PRIMARY KEY,
    evidence_no bigint NOT NULL DEFAULT nextval('cardsync.observation_no'::regclass),
    body_hash bytea NOT NULL CONSTRAINT events_body_hash_is_sha256 CHECK (octet_length(body_hash) = 32),
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    status text NOT NULL CONSTRAINT events_status_known CHECK (status IN ('pending', 'done', 'ignored', 'failed')),
    kind text NOT NULL CONSTRAINT events_kind_known CHECK (kind IN ('payment', 'operation', 'unknown')),
    ignored_because text,
    environment text CONSTRAINT events_environment_known CHECK (environment IN ('sandbox', 'production')),
    customer_id text CONSTRAINT events_customer_id_bounded CHECK (length(customer_id) BETWEEN 1 AND 64),
    session_id text,
    reference_number text,
    result text,
    state text,
    payment_type text,
    agreement_id text,
    scheme text NOT NULL CONSTRAINT events_scheme_known CHECK (scheme IN ('standard', 'subscription')),
    key_id text NOT NULL,
    token text CONSTRAINT events_token_bounded CHECK (length(token) BETWEEN 1 AND 50),
    facts jsonb,
    card_id uuid,
    attempts smallint NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    settled_at timestamptz,
    last_error text,
    CONSTRAINT events_ignored_says_why CHECK ((status = 'ignored') = (ignored_because IS NOT NULL)),
    CONSTRAINT events_job_is_whole CHECK (
        status NOT IN ('pending', 'failed')
        OR (environment IS NOT NULL AND customer_id IS NOT NULL AND facts IS NOT NULL)
    ),
    -- A token stands here only for as long as the hint is work to do; afterwards the card holds it.
    CONSTRAINT events_settled_holds_no_token CHECK (status IN ('pending', 'failed') OR (token IS NULL AND facts IS NULL))
);
CREATE UNIQUE INDEX events_body_hash_key ON cardsync.events (body_hash);
CREATE INDEX events_pending ON cardsync.events (due_at) WHERE status = 'pending';
CREATE INDEX events_failed ON cardsync.events (received_at) WHERE status = 'failed';
CREATE INDEX events_customer ON cardsync.events (environment, customer_id, evidence_no);
CREATE INDEX events_received_at ON cardsync.events (received_at);

CREATE TABLE cardsync.customers (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT customers_pkey PRIMARY KEY,
    environment text NOT NULL
        CONSTRAINT customers_environment_known CHECK (environment IN ('sandbox', 'production')),
    customer_id text NOT NULL CONSTRAINT customers_customer_id_bounded CHECK (length(customer_id) BETWEEN 1 AND 64),
    first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    dirty_no bigint NOT NULL DEFAULT 0,
    dirty_since timestamptz,
    due_at timestamptz,
    lane text CONSTRAINT customers_lane_known CHECK (lane IN ('deletion', 'hint', 'read', 'retry', 'sweep', 'audit')),
    rung_at timestamptz,
    ticket_no bigint,
    asked_at timestamptz,
    lease_until timestamptz,
    applied_no bigint NOT NULL DEFAULT 0,
    reconciled_at timestamptz,
    failures integer NOT NULL DEFAULT 0 CONSTRAINT customers_failures_counted CHECK (failures >= 0),
    last_error text,
    removals_held boolean NOT NULL DEFAULT false,
    CONSTRAINT customers_dirty_is_due CHECK (dirty_since IS NULL OR due_at IS NOT NULL),
    CONSTRAINT customers_due_has_a_lane CHECK ((due_at IS NULL) = (lane IS NULL)),
    CONSTRAINT customers_ticket_is_whole CHECK (
        (ticket_no IS NULL) = (asked_at IS NULL) AND (ticket_no IS NULL) = (lease_until IS NULL)
    ),
    CONSTRAINT customers_ticket_is_newer CHECK (ticket_no IS NULL OR ticket_no > applied_no)
);
CREATE UNIQUE INDEX customers_identity ON cardsync.customers (environment, customer_id);
CREATE INDEX customers_due ON cardsync.customers (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX customers_stalest ON cardsync.customers (reconciled_at NULLS FIRST, id) WHERE due_at IS NULL;
CREATE INDEX customers_held ON cardsync.customers (id) WHERE removals_held;

CREATE TABLE cardsync.cards (
    card_id uuid DEFAULT gen_random_uuid() CONSTRAINT cards_pkey PRIMARY KEY,
    customer bigint NOT NULL CONSTRAINT cards_customer_fkey REFERENCES cardsync.customers (id),
    fingerprint bytea NOT NULL CONSTRAINT cards_fingerprint_is_hmac_sha256 CHECK (octet_length(fingerprint) = 32),
    token text CONSTRAINT cards_token_bounded CHECK (length(token) BETWEEN 1 AND 50),
    status text NOT NULL
        CONSTRAINT cards_status_known CHECK (status IN ('unconfirmed', 'active', 'deleting', 'removed')),
    life integer NOT NULL DEFAULT 1 CONSTRAINT cards_life_counted CHECK (life >= 1),
    pg_code text,
    pg_name text,
    brand text,
    -- A full card number has at least twelve digits in a row; no mask that may be kept shows eleven.
    number text CONSTRAINT cards_number_is_masked
        CHECK (regexp_replace(number, '[\s./·_-]+', '', 'g') !~ '[0-9]{11}'),
    last4 text CONSTRAINT cards_last4_is_four_digits CHECK (last4 ~ '^[0-9]{4}$'),
    expiry_month text,
    expiry_year text,
    expires_on date,
    is_expired boolean,
    is_preferred boolean,
    cvv_required boolean,
    agreements text[] NOT NULL DEFAULT '{}'::text[],
    name_on_card text CONSTRAINT cards_name_is_no_number
        CHECK (regexp_replace(name_on_card, '[\s./·_-]+', '', 'g') !~ '[0-9]{11}'),
    first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    confirmed_at timestamptz,
    removed_at timestamptz,
    removed_because text CONSTRAINT cards_removed_because_known CHECK (removed_because IN ('requested', 'absent')),
    awaited_no bigint,
    awaited_at timestamptz,
    believed_no bigint NOT NULL DEFAULT 0,
    cause text NOT NULL,
    CONSTRAINT cards_removed_holds_no_token CHECK ((status = 'removed') = (token IS NULL)),
    CONSTRAINT cards_removed_says_when CHECK (
        (status = 'removed') = (removed_at IS NOT NULL) AND (status = 'removed') = (removed_because IS NOT NULL)
    ),
    CONSTRAINT cards_awaited_is_whole CHECK ((awaited_no IS NULL) = (awaited_at IS NULL)),
    CONSTRAINT cards_unconfirmed_is_awaited CHECK (status <> 'unconfirmed' OR awaited_no IS NOT NULL)
);
CREATE UNIQUE INDEX cards_identity ON cardsync.cards (customer, fingerprint);
CREATE INDEX cards_fingerprint ON cardsync.cards (fingerprint);

CREATE TABLE cardsync.agreements (
    environment text NOT NULL
        CONSTRAINT agreements_environment_known CHECK (environment IN ('sandbox', 'production')),
    agreement_id text NOT NULL
        CONSTRAINT agreements_agreement_id_bounded CHECK (length(agreement_id) BETWEEN 1 AND 128),
    card_id uuid NOT NULL CONSTRAINT agreements_card_fkey REFERENCES cardsync.cards (card_id) ON DELETE CASCADE,
    since_no bigint NOT NULL,
    CONSTRAINT agreements_pkey PRIMARY KEY (environment, agreement_id)
);
CREATE INDEX agreements_card ON cardsync.agreements (card_id);

CREATE TABLE cardsync.card_changes (
    seq bigint CONSTRAINT card_changes_pkey PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    card_id uuid NOT NULL CONSTRAINT card_changes_card_fkey REFERENCES cardsync.cards (card_id),
    customer bigint NOT NULL CONSTRAINT card_changes_customer_fkey REFERENCES cardsync.customers (id),
    change text NOT NULL CONSTRAINT card_changes_change_known
        CHECK (change IN ('added', 'updated', 'deleting', 'restored', 'removed', 'returned')),
    fields text[] NOT NULL,
    cause text NOT NULL
);
CREATE INDEX card_changes_card ON cardsync.card_changes (card_id, seq);

CREATE TABLE cardsync.feed_head (
    singleton boolean DEFAULT true CONSTRAINT feed_head_pkey PRIMARY KEY CONSTRAINT feed_head_is_one_row CHECK (singleton),
    seq bigint NOT NULL DEFAULT 0
);
INSERT INTO cardsync.feed_head DEFAULT VALUES;

CREATE TABLE cardsync.observations (
    observation_no bigint CONSTRAINT observations_pkey PRIMARY KEY,
    customer bigint NOT NULL CONSTRAINT observations_customer_fkey REFERENCES cardsync.customers (id),
    lane text NOT NULL,
    asked_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    outcome text NOT NULL,
    calls smallint NOT NULL DEFAULT 0,
    listed integer,
    changed integer NOT NULL DEFAULT 0,
    removed integer NOT NULL DEFAULT 0,
    suspicious integer NOT NULL DEFAULT 0
);
CREATE INDEX observations_customer ON cardsync.observations (customer, observation_no);
CREATE INDEX observations_asked_at ON cardsync.observations (asked_at);

CREATE TABLE cardsync.call_minutes (
    minute timestamptz NOT NULL,
    lane text NOT NULL,
    calls integer NOT NULL CONSTRAINT call_minutes_calls_counted CHECK (calls > 0),
    CONSTRAINT call_minutes_pkey PRIMARY KEY (minute, lane)
);

CREATE TABLE cardsync.gate (
    singleton boolean DEFAULT true CONSTRAINT gate_pkey PRIMARY KEY CONSTRAINT gate_is_one_row CHECK (singleton),
    paused_until timestamptz,
    paused_because text,
    swept_at timestamptz,
    pass_started_at timestamptz,
    pass_cards bigint NOT NULL DEFAULT 0,
    pass_removed bigint NOT NULL DEFAULT 0,
    brake_engaged_at timestamptz,
    secret_check bytea
);
INSERT INTO cardsync.gate DEFAULT VALUES;

CREATE TABLE cardsync.api_keys (
    key_id uuid DEFAULT gen_random_uuid() CONSTRAINT api_keys_pkey PRIMARY KEY,
    name text NOT NULL CONSTRAINT api_keys_name_bounded CHECK (length(name) BETWEEN 1 AND 100),
    key_hash bytea NOT NULL CONSTRAINT api_keys_hash_is_sha256 CHECK (octet_length(key_hash) = 32),
    scopes text[] NOT NULL CONSTRAINT api_keys_scopes_known CHECK (
        cardinality(scopes) > 0
        AND scopes <@ ARRAY['cards:read', 'tokens:read', 'cards:delete', 'cards:reconcile', 'ops']
    ),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    revoked_at timestamptz
);
CREATE UNIQUE INDEX api_keys_hash_key ON cardsync.api_keys (key_hash);
"""

# Why a deferred trigger: it runs at commit, so the lock on the feed's head is held only while transactions commit, however long
# they were open (a service of the merchant's may hold one), and numbers are taken in commit order. A sequence would show 6
# before 5 to a reader who then never sees 5. Why on the table: no code path can change a card and forget the feed.
FEED = r"""
CREATE FUNCTION cardsync.record_card_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    what text;
    which text[] := '{}';
    next_seq bigint;
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.status = 'unconfirmed' THEN
            RETURN NULL;
        END IF;
        what := 'added';
    ELSE
        SELECT coalesce(array_agg(n.key ORDER BY n.key), '{}') INTO which
        FROM jsonb_each(to_jsonb(NEW)) AS n JOIN jsonb_each(to_jsonb(OLD)) AS o USING (key)
        WHERE n.value IS DISTINCT FROM o.value
          AND n.key NOT IN ('token', 'fingerprint', 'life', 'customer', 'cause', 'awaited_no', 'awaited_at', 'believed_no');
        what := CASE
            WHEN NEW.status = 'unconfirmed' THEN NULL
            WHEN OLD.status = 'unconfirmed' THEN 'added'
            WHEN NEW.status = 'removed' AND OLD.status <> 'removed' THEN 'removed'
            WHEN OLD.status = 'removed' AND NEW.status <> 'removed' THEN 'returned'
            WHEN NEW.status = 'deleting' AND OLD.status <> 'deleting' THEN 'deleting'
            WHEN OLD.status = 'deleting' AND NEW.status = 'active' THEN 'restored'
            WHEN which <> '{}' THEN 'updated'
        END;
        IF what IS NULL THEN
            RETURN NULL;
        END IF;
    END IF;
    IF what = 'added' THEN
        which := '{}';  -- all of it is new
    END IF;
    UPDATE cardsync.feed_head SET seq = seq + 1 RETURNING seq INTO STRICT next_seq;
    INSERT INTO cardsync.card_changes (seq, card_id, customer, change, fields, cause)
    VALUES (next_seq, NEW.card_id, NEW.customer, what, which, NEW.cause);
    PERFORM pg_notify('registry_card_changes', '');
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER cards_feed AFTER INSERT OR UPDATE ON cardsync.cards
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION cardsync.record_card_change();

CREATE FUNCTION cardsync.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER card_changes_append_only BEFORE UPDATE OR DELETE ON cardsync.card_changes
FOR EACH ROW EXECUTE FUNCTION cardsync.refuse_change();
"""

REGISTRY = r"""
CREATE SCHEMA registry;

CREATE VIEW registry.cards AS
SELECT
    c.card_id,
    o.environment,
    o.customer_id,
    c.status,
    c.pg_code,
    c.pg_name,
    c.brand,
    c.number,
    c.last4,
    c.expiry_month,
    c.expiry_year,
    c.expires_on,
    coalesce(c.is_expired, false)
        OR coalesce(c.expires_on < (now() AT TIME ZONE 'UTC')::date, false) AS is_expired,
    coalesce(c.is_preferred, false) AS is_preferred,
    c.cvv_required,
    coalesce(NOT c.cvv_required, false) AS auto_debit,
    c.agreements,
    c.name_on_card,
    c.first_seen_at,
    c.confirmed_at,
    c.removed_at,
    c.removed_because
FROM cardsync.cards AS c JOIN cardsync.customers AS o ON o.id = c.customer;

CREATE VIEW registry.active_cards AS SELECT * FROM registry.cards WHERE status = 'active' AND NOT is_expired;

CREATE VIEW registry.card_tokens AS SELECT card_id, token FROM cardsync.cards WHERE status = 'active';

CREATE VIEW registry.agreement_cards AS
SELECT a.environment, a.agreement_id, a.card_id
FROM cardsync.agreements AS a JOIN cardsync.cards AS c USING (card_id)
WHERE c.status = 'active';

CREATE VIEW registry.customers AS
SELECT environment, customer_id, reconciled_at, dirty_since, last_error FROM cardsync.customers;

CREATE VIEW registry.card_changes AS
SELECT f.seq, f.at, f.card_id, o.environment, o.customer_id, f.change, f.fields, f.cause
FROM cardsync.card_changes AS f JOIN cardsync.customers AS o ON o.id = f.customer;

COMMENT ON SCHEMA registry IS 'Stable across releases: what services of the merchant may read. Tables behind it are private.';
COMMENT ON VIEW registry.cards IS 'Every card, without its token. status: unconfirmed, active, deleting, removed.';
COMMENT ON VIEW registry.active_cards IS 'What may be charged: active, not expired.';
COMMENT ON VIEW registry.card_tokens IS 'The tokens of active cards, for those who charge.';
COMMENT ON VIEW registry.agreement_cards IS 'The card that each agreement is charged to.';
COMMENT ON VIEW registry.customers IS 'How fresh what we know of each customer is.';
COMMENT ON VIEW registry.card_changes IS
    'Append-only, without gaps, in commit order: poll WHERE seq > last ORDER BY seq; LISTEN registry_card_changes.';
"""

# Roles belong to the whole server, not to one database: they may be there already, and they outlive a downgrade.
# A role's time-outs hold for sessions that log in as it, and do not pass on by membership: `cardsync db grant` sets them on the
# login that it lets in.
GRANTS = r"""
REVOKE ALL ON SCHEMA cardsync FROM PUBLIC;
REVOKE ALL ON FUNCTION cardsync.record_card_change() FROM PUBLIC;
REVOKE ALL ON FUNCTION cardsync.refuse_change() FROM PUBLIC;
GRANT USAGE ON SCHEMA registry TO cardsync_reader, cardsync_charger, cardsync_deleter;
GRANT SELECT ON registry.cards, registry.active_cards, registry.agreement_cards, registry.customers, registry.card_changes
    TO cardsync_reader, cardsync_charger, cardsync_deleter;
GRANT SELECT ON registry.card_tokens TO cardsync_charger;
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(FEED)
    op.execute(REGISTRY)
    for role in ROLES:
        op.execute(
            f"""
            DO $$ BEGIN
                CREATE ROLE {role} NOLOGIN;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;  -- it is there, from another database
            END $$
            """
        )
        op.execute(f"ALTER ROLE {role} SET statement_timeout = '30s'")
        op.execute(f"ALTER ROLE {role} SET idle_in_transaction_session_timeout = '60s'")
    op.execute(GRANTS)


def downgrade() -> None:
    op.execute("DROP SCHEMA registry CASCADE")
    op.execute(
        """
        DROP TABLE cardsync.api_keys, cardsync.gate, cardsync.call_minutes, cardsync.observations, cardsync.feed_head,
            cardsync.card_changes, cardsync.agreements, cardsync.cards, cardsync.customers, cardsync.events;
        DROP FUNCTION cardsync.record_card_change();
        DROP FUNCTION cardsync.refuse_change();
        DROP SEQUENCE cardsync.observation_no;
        """
    )
