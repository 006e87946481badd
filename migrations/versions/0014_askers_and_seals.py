"""Askers' transactions no longer touch the feed's head; receipts get keyed seals; filtering views are security barriers.

Revision: 0014. Old code runs beside it: it asks as before, its changes are numbered at commit as before, and it
seals nothing. What a service asked for by SQL is then numbered by the next change that old code commits.
"""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# Three small tables, empty but for moments. A transaction that calls `registry.request_deletion` belongs to somebody else: it may
# be SERIALIZABLE, may send SET CONSTRAINTS ALL IMMEDIATE, and may stay open for an hour. So it must not lock what everybody
# needs. It appends here, and `number_changes` gives the numbers after its commit.
TABLES = r"""
CREATE TABLE cardsync.asking_transactions (
    xid bigint CONSTRAINT asking_transactions_pkey PRIMARY KEY
);

CREATE TABLE cardsync.unnumbered_changes (
    change_no bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT unnumbered_changes_pkey PRIMARY KEY,
    card_id uuid NOT NULL,
    customer bigint NOT NULL,
    change text NOT NULL,
    fields text[] NOT NULL,
    cause text NOT NULL
);

CREATE TABLE cardsync.unchained_steps (
    step_id bigint CONSTRAINT unchained_steps_pkey PRIMARY KEY
);

CREATE TABLE cardsync.receipt_seals (
    step_no bigint CONSTRAINT receipt_seals_pkey PRIMARY KEY,
    hash bytea NOT NULL CONSTRAINT receipt_seals_hash_is_sha256 CHECK (octet_length(hash) = 32),
    sealed_at timestamptz NOT NULL,
    seal bytea NOT NULL CONSTRAINT receipt_seals_seal_is_hmac_sha256 CHECK (octet_length(seal) = 32)
);
CREATE TRIGGER receipt_seals_append_only BEFORE UPDATE OR DELETE ON cardsync.receipt_seals
FOR EACH ROW EXECUTE FUNCTION cardsync.refuse_change();
CREATE TRIGGER receipt_seals_never_emptied BEFORE TRUNCATE ON cardsync.receipt_seals
EXECUTE FUNCTION cardsync.refuse_change();
"""

# Locks are taken in one order: customers, then the feed's head. A row of the feed refers to its customer, and that reference takes
# a lock too (FOR KEY SHARE). So whoever numbers a waiting change holds its customer before the head: a writer of ours holds
# its own customer anyway, and numbers what waits of that one before its own change; `number_changes` takes the customers that
# nobody holds just now, and leaves the others to the next time. So a customer's changes are in commit order.
NUMBERING = r"""
CREATE FUNCTION cardsync.is_asking_transaction() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM cardsync.asking_transactions AS a WHERE a.xid = pg_current_xact_id()::text::bigint)
$$;

CREATE FUNCTION cardsync.number_waiting_changes(p_customers bigint[]) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    numbered bigint;
BEGIN
    WITH waiting AS (
        DELETE FROM cardsync.unnumbered_changes AS u WHERE u.customer = ANY(p_customers)
        RETURNING u.change_no, u.card_id, u.customer, u.change, u.fields, u.cause
    )
    INSERT INTO cardsync.card_changes (seq, card_id, customer, change, fields, cause)
    SELECT h.seq + row_number() OVER (ORDER BY w.change_no), w.card_id, w.customer, w.change, w.fields, w.cause
    FROM waiting AS w CROSS JOIN cardsync.feed_head AS h;
    GET DIAGNOSTICS numbered = ROW_COUNT;
    UPDATE cardsync.feed_head SET seq = seq + numbered WHERE numbered > 0;
    RETURN numbered;
END
$$;

CREATE FUNCTION cardsync.chain_step(p_step_id bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    head cardsync.receipt_head;
    one cardsync.deletion_steps;
BEGIN
    SELECT * INTO STRICT head FROM cardsync.receipt_head FOR UPDATE;
    SELECT * INTO STRICT one FROM cardsync.deletion_steps WHERE step_id = p_step_id;
    head.step_no := head.step_no + 1;
    head.hash := sha256(head.hash || convert_to(
        head.step_no || E'\n' || one.deletion_id || E'\n'
            || to_char(one.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') || E'\n'
            || one.step || E'\n' || one.detail::text,
        'UTF8'
    ));
    UPDATE cardsync.receipt_head SET step_no = head.step_no, hash = head.hash;
    INSERT INTO cardsync.receipt_chain (step_no, step_id, hash) VALUES (head.step_no, one.step_id, head.hash);
END
$$;

CREATE FUNCTION cardsync.chain_waiting_steps() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    waiting bigint;
    chained bigint := 0;
BEGIN
    PERFORM 1 FROM cardsync.receipt_head FOR UPDATE;
    FOR waiting IN SELECT u.step_id FROM cardsync.unchained_steps AS u ORDER BY u.step_id LOOP
        DELETE FROM cardsync.unchained_steps AS u WHERE u.step_id = waiting;
        PERFORM cardsync.chain_step(waiting);
        chained := chained + 1;
    END LOOP;
    RETURN chained;
END
$$;

-- What the workers call. It looks before it locks: nearly always there is nothing to do.
CREATE FUNCTION cardsync.number_changes() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    free bigint[];
    numbered bigint := 0;
BEGIN
    IF NOT EXISTS (SELECT FROM cardsync.unnumbered_changes) AND NOT EXISTS (SELECT FROM cardsync.unchained_steps)
       AND NOT EXISTS (SELECT FROM cardsync.asking_transactions) THEN
        RETURN 0;
    END IF;
    SELECT array_agg(f.id) INTO free FROM (
        SELECT o.id FROM cardsync.customers AS o WHERE o.id IN (SELECT u.customer FROM cardsync.unnumbered_changes AS u)
        ORDER BY o.id FOR KEY SHARE SKIP LOCKED
    ) AS f;
    PERFORM 1 FROM cardsync.feed_head FOR UPDATE;
    IF free IS NOT NULL THEN
        numbered := cardsync.number_waiting_changes(free);
    END IF;
    PERFORM cardsync.chain_waiting_steps();
    DELETE FROM cardsync.asking_transactions AS a WHERE a.xid <> pg_current_xact_id()::text::bigint;
    IF numbered > 0 THEN
        PERFORM pg_notify('registry_card_changes', '');
    END IF;
    RETURN numbered;
END
$$;

REVOKE ALL ON FUNCTION cardsync.is_asking_transaction() FROM PUBLIC;
REVOKE ALL ON FUNCTION cardsync.number_waiting_changes(bigint[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION cardsync.chain_step(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION cardsync.chain_waiting_steps() FROM PUBLIC;
REVOKE ALL ON FUNCTION cardsync.number_changes() FROM PUBLIC;
"""

# As in migrations 0001 and 0002, but for what an asker's transaction leaves to later.
TRIGGERS = r"""
CREATE OR REPLACE FUNCTION cardsync.record_card_change() RETURNS trigger
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
    IF cardsync.is_asking_transaction() THEN
        INSERT INTO cardsync.unnumbered_changes (card_id, customer, change, fields, cause)
        VALUES (NEW.card_id, NEW.customer, what, which, NEW.cause);
        RETURN NULL;
    END IF;
    PERFORM 1 FROM cardsync.feed_head FOR UPDATE;
    IF EXISTS (SELECT FROM cardsync.unnumbered_changes AS u WHERE u.customer = NEW.customer) THEN
        PERFORM cardsync.number_waiting_changes(ARRAY[NEW.customer]);
    END IF;
    UPDATE cardsync.feed_head SET seq = seq + 1 RETURNING seq INTO STRICT next_seq;
    INSERT INTO cardsync.card_changes (seq, card_id, customer, change, fields, cause)
    VALUES (next_seq, NEW.card_id, NEW.customer, what, which, NEW.cause);
    PERFORM pg_notify('registry_card_changes', '');
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION cardsync.chain_deletion_step() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF cardsync.is_asking_transaction() THEN
        INSERT INTO cardsync.unchained_steps (step_id) VALUES (NEW.step_id);
        RETURN NULL;
    END IF;
    PERFORM 1 FROM cardsync.feed_head FOR UPDATE;
    PERFORM cardsync.chain_waiting_steps();
    PERFORM cardsync.chain_step(NEW.step_id);
    RETURN NULL;
END
$$;
"""

ASKING = r"""
CREATE OR REPLACE FUNCTION registry.request_deletion(card_id uuid, requested_by text, idempotency_key text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO cardsync.asking_transactions (xid) VALUES (pg_current_xact_id()::text::bigint) ON CONFLICT DO NOTHING;
    RETURN (SELECT a.asked_id FROM cardsync.request_deletion(card_id, requested_by, NULL, idempotency_key, NULL, false) AS a);
END
$$;
"""

# Without it a cheap function of the reader's own runs before the view's filter, and is shown the tokens of cards that the view
# hides. Comparisons of uuid and text are leakproof, so the indexes are used as before.
FILTERING = ("active_cards", "card_tokens", "agreement_cards")


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(NUMBERING)
    op.execute(TRIGGERS)
    op.execute(ASKING)
    for view in FILTERING:
        op.execute(f"ALTER VIEW registry.{view} SET (security_barrier = true)")


BEFORE = r"""
SELECT cardsync.number_changes();

CREATE OR REPLACE FUNCTION cardsync.record_card_change() RETURNS trigger
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

CREATE OR REPLACE FUNCTION cardsync.chain_deletion_step() RETURNS trigger
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

CREATE OR REPLACE FUNCTION registry.request_deletion(card_id uuid, requested_by text, idempotency_key text) RETURNS uuid
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT asked_id FROM cardsync.request_deletion(card_id, requested_by, NULL, idempotency_key, NULL, false)
$$;
"""


def downgrade() -> None:
    op.execute(BEFORE)
    for view in FILTERING:
        op.execute(f"ALTER VIEW registry.{view} RESET (security_barrier)")
    op.execute(
        """
        DROP FUNCTION cardsync.number_changes();
        DROP FUNCTION cardsync.chain_waiting_steps();
        DROP FUNCTION cardsync.chain_step(bigint);
        DROP FUNCTION cardsync.number_waiting_changes(bigint[]);
        DROP FUNCTION cardsync.is_asking_transaction();
        DROP TABLE cardsync.receipt_seals, cardsync.unchained_steps, cardsync.unnumbered_changes,
            cardsync.asking_transactions;
        """
    )
