"""Idempotency keys are held by rows, customers are forgotten where there is no list, and only a worker tells of an inquiry.

Revision: 0034, after 0033. Old code runs beside it. A request of old code and one of new code with the same key do not wait for one
another while both run; the unique key of what they write still lets only one of them through.
"""

from __future__ import annotations

from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

# Two requests with one idempotency key: the second waits for the first at the unique index, and finds what the first did. The
# row is gone again in the same transaction, so the table stays empty. Advisory locks are open to every login, who may guess a key
# and hold it up; and where they are taken from PUBLIC (`cardsync db close`), our functions' owner cannot take one either.
# UNLOGGED: no row is needed after a crash.
HELD = r"""
CREATE UNLOGGED TABLE cardsync.held_keys (
    key text NOT NULL CONSTRAINT held_keys_pkey PRIMARY KEY
);

CREATE FUNCTION cardsync.hold_key(p_key text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO cardsync.held_keys (key) VALUES (p_key) ON CONFLICT DO NOTHING;
    DELETE FROM cardsync.held_keys WHERE key = p_key;
END
$$;
REVOKE ALL ON FUNCTION cardsync.hold_key(text) FROM PUBLIC;
"""

# Every function of ours that takes an advisory lock, as it stands in this database: its other lines belong to the migrations
# that made it.
EXCHANGE = r"""
DO $do$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT pg_get_functiondef(p.oid) AS made
        FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = 'cardsync' AND p.proname <> 'hold_key' AND p.prosrc ~ '{before}'
    LOOP
        EXECUTE regexp_replace(one.made, '{before}', '{after}', 'g');
    END LOOP;
END
$do$
"""
BY_LOCK = (r"pg_advisory_xact_lock\(hashtextextended\(([^\n]*), 0\)\)", r"pg_advisory_xact_lock(hashtextextended(\1, 0))")
BY_ROW = (r"cardsync\.hold_key\(([^\n]*)\);", r"cardsync.hold_key(\1)")

# As `forget_customers` (migration 0016), where Ottu lists no cards: no customer was ever looked at, and none waits for a look. An
# unconfirmed card is what a hint said and nothing bore out. It goes with a customer that no hint has named for so long.
FORGET = r"""
CREATE FUNCTION cardsync.forget_unlisted_customers(p_days integer, p_limit integer) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH silent AS MATERIALIZED (
        SELECT id, environment, customer_id FROM cardsync.customers WHERE id = ANY(ARRAY(
            SELECT id FROM cardsync.customers WHERE hinted_at < statement_timestamp() - make_interval(days => p_days)
            ORDER BY hinted_at LIMIT p_limit FOR UPDATE SKIP LOCKED
        ))
    ), judged AS MATERIALIZED (
        SELECT id, EXISTS (
            SELECT 1 FROM cardsync.events AS e
            WHERE e.environment = s.environment AND e.customer_id = s.customer_id AND e.status IN ('pending', 'failed')
        ) AS is_busy, coalesce(
            (SELECT bool_or(c.status <> 'unconfirmed') FROM cardsync.cards AS c WHERE c.customer = s.id), false
        )
            OR EXISTS (SELECT 1 FROM cardsync.audits AS a WHERE a.customer = s.id)
            OR EXISTS (SELECT 1 FROM cardsync.erasures AS p WHERE p.customer_id = s.customer_id) AS has_a_past
        FROM silent AS s
    ), looks AS (
        DELETE FROM cardsync.observations
        WHERE customer = ANY(ARRAY(SELECT id FROM judged WHERE NOT has_a_past AND NOT is_busy))
    ), cards AS (
        DELETE FROM cardsync.cards
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
REVOKE ALL ON FUNCTION cardsync.forget_unlisted_customers(integer, integer) FROM PUBLIC;
"""

# An inquiry's answer is Ottu's own word, and where there is no list it makes cards active. The web stores what anyone sends it;
# an attacker who broke into it must not be able to speak for Ottu. Only a worker may delete notifications, and so only a worker asks.
INQUIRY = r"""
CREATE FUNCTION cardsync.refuse_a_foreign_inquiry() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT has_table_privilege(session_user, 'cardsync.events', 'DELETE') THEN
        RAISE EXCEPTION 'only a worker tells of an inquiry' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER events_inquiries_are_a_workers BEFORE INSERT OR UPDATE OF scheme ON cardsync.events
FOR EACH ROW WHEN (NEW.scheme = 'inquiry') EXECUTE FUNCTION cardsync.refuse_a_foreign_inquiry();
REVOKE ALL ON FUNCTION cardsync.refuse_a_foreign_inquiry() FROM PUBLIC;
"""


def upgrade() -> None:
    op.execute(HELD)
    op.execute(EXCHANGE.format(before=BY_LOCK[0], after=BY_ROW[1]))
    op.execute(FORGET)
    op.execute(INQUIRY)


def downgrade() -> None:
    op.execute("DROP TRIGGER events_inquiries_are_a_workers ON cardsync.events")
    op.execute("DROP FUNCTION cardsync.refuse_a_foreign_inquiry()")
    op.execute("DROP FUNCTION cardsync.forget_unlisted_customers(integer, integer)")
    op.execute(EXCHANGE.format(before=BY_ROW[0].removesuffix(";"), after=BY_LOCK[1]))
    op.execute("DROP FUNCTION cardsync.hold_key(text)")
    op.execute("DROP TABLE cardsync.held_keys")
