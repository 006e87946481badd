"""Operators of the console: who they are, their sessions, and the journal of what they did.

The console's login can read no token and write no table. All that it does goes through functions here, which run as the owner and
look up who acts by the session's secret: a login without an operator's session can do nothing at all.

Revision: 0023. Old code knows none of this.
"""

from __future__ import annotations

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

ROLE = """
DO $$ BEGIN
    CREATE ROLE cardsync_console NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;  -- it is there, from another database
END $$
"""

# A link and a session are 256 random bits each, of which only a hash is kept. A name is one person's, for good: the journal says
# who did what by it, so a disabled operator's row stays. `issuer` and `subject` are those of OpenID Connect.
TABLES = """
CREATE TABLE cardsync.operators (
    operator_id uuid DEFAULT gen_random_uuid() CONSTRAINT operators_pkey PRIMARY KEY,
    name text NOT NULL CONSTRAINT operators_name_key UNIQUE CONSTRAINT operators_name_length CHECK (length(name) BETWEEN 1 AND 100),
    role text NOT NULL CONSTRAINT operators_role_known CHECK (role IN ('viewer', 'support', 'operator', 'admin')),
    issuer text,
    subject text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    disabled_at timestamptz,
    link_hash bytea CONSTRAINT operators_link_hash_length CHECK (length(link_hash) = 32),
    link_expires_at timestamptz,
    signed_in_at timestamptz,
    CONSTRAINT operators_link_expires CHECK ((link_hash IS NULL) = (link_expires_at IS NULL)),
    CONSTRAINT operators_subject_is_an_issuers CHECK ((issuer IS NULL) = (subject IS NULL))
);
CREATE UNIQUE INDEX operators_link_hash_key ON cardsync.operators (link_hash) WHERE link_hash IS NOT NULL;
CREATE UNIQUE INDEX operators_subject_key ON cardsync.operators (issuer, subject) WHERE subject IS NOT NULL;

CREATE TABLE cardsync.console_sessions (
    session_hash bytea CONSTRAINT console_sessions_pkey PRIMARY KEY
        CONSTRAINT console_sessions_hash_length CHECK (length(session_hash) = 32),
    operator_id uuid NOT NULL CONSTRAINT console_sessions_operator_fkey REFERENCES cardsync.operators (operator_id),
    began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL DEFAULT clock_timestamp() + interval '12 hours',
    ended_at timestamptz
);
CREATE INDEX console_sessions_operator ON cardsync.console_sessions (operator_id) WHERE ended_at IS NULL;
CREATE INDEX console_sessions_expires_at ON cardsync.console_sessions (expires_at);

CREATE TABLE cardsync.operator_actions (
    action_id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT operator_actions_pkey PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    operator_id uuid CONSTRAINT operator_actions_operator_fkey REFERENCES cardsync.operators (operator_id),
    actor text NOT NULL,
    action text NOT NULL,
    kind text NOT NULL,
    subject text NOT NULL,
    before jsonb,
    after jsonb,
    reason text CONSTRAINT operator_actions_reason_length CHECK (length(reason) BETWEEN 1 AND 200),
    came_from text,
    request_key uuid
);
CREATE UNIQUE INDEX operator_actions_request_key ON cardsync.operator_actions (operator_id, request_key)
    WHERE request_key IS NOT NULL;
CREATE INDEX operator_actions_subject ON cardsync.operator_actions (kind, subject, action_id);

CREATE TABLE cardsync.operator_action_chain (
    action_no bigint CONSTRAINT operator_action_chain_pkey PRIMARY KEY,
    action_id bigint NOT NULL CONSTRAINT operator_action_chain_action_fkey REFERENCES cardsync.operator_actions (action_id),
    hash bytea NOT NULL CONSTRAINT operator_action_chain_hash_length CHECK (length(hash) = 32)
);
CREATE UNIQUE INDEX operator_action_chain_action_key ON cardsync.operator_action_chain (action_id);

CREATE TABLE cardsync.operator_action_head (
    singleton boolean DEFAULT true CONSTRAINT operator_action_head_pkey PRIMARY KEY
        CONSTRAINT operator_action_head_is_one_row CHECK (singleton),
    action_no bigint NOT NULL DEFAULT 0,
    hash bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex')
        CONSTRAINT operator_action_head_hash_length CHECK (length(hash) = 32)
);
INSERT INTO cardsync.operator_action_head DEFAULT VALUES;

"""

# One text of an action, over which its hash goes; reading it again verifies the chain (store/console/journal.py). The chain is made
# at commit, as that of the receipts (migration 0014), so that its head is locked for a moment only, after every other lock.
CHAIN = r"""
CREATE FUNCTION cardsync.operator_action_said(p_no bigint, p_action cardsync.operator_actions) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_array(
        p_no, p_action.action_id, to_char(p_action.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), p_action.operator_id,
        p_action.actor, p_action.action, p_action.kind, p_action.subject, p_action.before, p_action.after, p_action.reason,
        p_action.came_from, p_action.request_key
    )::text
$$;

CREATE FUNCTION cardsync.chain_operator_action() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    head cardsync.operator_action_head;
BEGIN
    SELECT * INTO STRICT head FROM cardsync.operator_action_head FOR UPDATE;
    head.action_no := head.action_no + 1;
    head.hash := sha256(head.hash || convert_to(cardsync.operator_action_said(head.action_no, NEW), 'UTF8'));
    UPDATE cardsync.operator_action_head SET action_no = head.action_no, hash = head.hash;
    INSERT INTO cardsync.operator_action_chain (action_no, action_id, hash) VALUES (head.action_no, NEW.action_id, head.hash);
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER operator_actions_chained AFTER INSERT ON cardsync.operator_actions
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION cardsync.chain_operator_action();
CREATE TRIGGER operator_actions_append_only BEFORE UPDATE OR DELETE ON cardsync.operator_actions
FOR EACH ROW EXECUTE FUNCTION cardsync.refuse_change();
CREATE TRIGGER operator_actions_never_emptied BEFORE TRUNCATE ON cardsync.operator_actions
EXECUTE FUNCTION cardsync.refuse_change();
CREATE TRIGGER operator_action_chain_append_only BEFORE UPDATE OR DELETE ON cardsync.operator_action_chain
FOR EACH ROW EXECUTE FUNCTION cardsync.refuse_change();
CREATE TRIGGER operator_action_chain_never_emptied BEFORE TRUNCATE ON cardsync.operator_action_chain
EXECUTE FUNCTION cardsync.refuse_change();
REVOKE ALL ON FUNCTION cardsync.operator_action_said(bigint, cardsync.operator_actions), cardsync.chain_operator_action() FROM PUBLIC;
"""

# Refusals have codes of their own, which the console tells apart from PostgreSQL's: CC001 no session, CC003 the role is too low,
# CC010 the sign-in is too long ago, CC023 the row's state allows it no more, CC409 the key came with another request.
SESSIONS = r"""
CREATE FUNCTION cardsync.console_operator(p_session bytea)
RETURNS TABLE (operator_id uuid, name text, role text, began_at timestamptz, expires_at timestamptz, now timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT o.operator_id, o.name, o.role, s.began_at, s.expires_at, clock_timestamp()
    FROM cardsync.console_sessions AS s JOIN cardsync.operators AS o USING (operator_id)
    WHERE s.session_hash = sha256(p_session) AND s.ended_at IS NULL AND s.expires_at > clock_timestamp() AND o.disabled_at IS NULL
$$;

CREATE FUNCTION cardsync.acting_operator(p_session bytea, p_role text, p_within interval DEFAULT NULL)
RETURNS cardsync.operators
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    actor cardsync.operators;
    began timestamptz;
    ranks CONSTANT text[] := ARRAY['viewer', 'support', 'operator', 'admin'];
BEGIN
    SELECT s.began_at INTO began FROM cardsync.console_sessions AS s
    WHERE s.session_hash = sha256(p_session) AND s.ended_at IS NULL AND s.expires_at > clock_timestamp() FOR SHARE;
    SELECT o.* INTO actor FROM cardsync.operators AS o JOIN cardsync.console_sessions AS s USING (operator_id)
    WHERE s.session_hash = sha256(p_session) AND o.disabled_at IS NULL FOR SHARE OF o;
    IF began IS NULL OR actor.operator_id IS NULL THEN
        RAISE EXCEPTION 'no session' USING ERRCODE = 'CC001';
    END IF;
    IF coalesce(array_position(ranks, actor.role) < array_position(ranks, p_role), true) THEN
        RAISE EXCEPTION 'this needs the role %', p_role USING ERRCODE = 'CC003';
    END IF;
    IF p_within IS NOT NULL AND began < clock_timestamp() - p_within THEN
        RAISE EXCEPTION 'this needs a newer sign-in' USING ERRCODE = 'CC010';
    END IF;
    RETURN actor;
END
$$;

-- The row of the journal; true if this request was carried out before, under the same key.
CREATE FUNCTION cardsync.note_operator_action(
    p_operator uuid, p_actor text, p_action text, p_kind text, p_subject text, p_before jsonb, p_after jsonb, p_reason text,
    p_from text, p_key uuid
) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO cardsync.operator_actions
        (operator_id, actor, action, kind, subject, before, after, reason, came_from, request_key)
    VALUES (p_operator, p_actor, p_action, p_kind, p_subject, p_before, p_after, nullif(p_reason, ''), p_from, p_key)
    RETURNING action_id
$$;

CREATE FUNCTION cardsync.was_carried_out(p_operator uuid, p_key uuid, p_action text, p_subject text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known cardsync.operator_actions;
BEGIN
    -- Of two requests with one key the second waits here, and finds what the first did.
    PERFORM pg_advisory_xact_lock(hashtextextended('operator_actions:' || p_operator || ':' || p_key, 0));
    SELECT * INTO known FROM cardsync.operator_actions AS a WHERE a.operator_id = p_operator AND a.request_key = p_key;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF known.action <> p_action OR known.subject <> p_subject THEN
        RAISE EXCEPTION 'the idempotency key was used for another request' USING ERRCODE = 'CC409';
    END IF;
    RETURN true;
END
$$;

CREATE FUNCTION cardsync.open_console_session(p_link bytea, p_session bytea, p_from text)
RETURNS TABLE (operator_id uuid, name text, role text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    actor cardsync.operators;
BEGIN
    UPDATE cardsync.operators AS o SET link_hash = NULL, link_expires_at = NULL, signed_in_at = clock_timestamp()
    WHERE o.link_hash = sha256(p_link) AND o.link_expires_at > clock_timestamp() AND o.disabled_at IS NULL
    RETURNING o.* INTO actor;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    INSERT INTO cardsync.console_sessions (session_hash, operator_id) VALUES (sha256(p_session), actor.operator_id);
    PERFORM cardsync.note_operator_action(
        actor.operator_id, actor.name, 'sign_in', 'operator', actor.operator_id::text, NULL, jsonb_build_object('by', 'link'),
        NULL, p_from, NULL
    );
    RETURN QUERY SELECT actor.operator_id, actor.name, actor.role;
END
$$;

CREATE FUNCTION cardsync.end_sessions_of(p_operator uuid) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH ended AS (
        UPDATE cardsync.console_sessions SET ended_at = clock_timestamp()
        WHERE operator_id = p_operator AND ended_at IS NULL AND expires_at > clock_timestamp() RETURNING 1
    )
    SELECT count(*) FROM ended
$$;

CREATE FUNCTION cardsync.close_console_session(p_session bytea, p_everywhere boolean, p_from text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    actor record;
    ended bigint := 1;
BEGIN
    SELECT * INTO actor FROM cardsync.console_operator(p_session);
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    IF p_everywhere THEN
        ended := cardsync.end_sessions_of(actor.operator_id);
    ELSE
        UPDATE cardsync.console_sessions SET ended_at = clock_timestamp() WHERE session_hash = sha256(p_session);
    END IF;
    PERFORM cardsync.note_operator_action(
        actor.operator_id, actor.name, 'sign_out', 'operator', actor.operator_id::text, NULL,
        jsonb_build_object('sessions', ended), NULL, p_from, NULL
    );
    RETURN ended;
END
$$;
"""

# What the command line does as the owner, and an operator with the role `admin` in the console.
OPERATORS = r"""
CREATE FUNCTION cardsync.invite_operator(
    p_name text, p_role text, p_link_hash bytea, p_by uuid, p_actor text, p_from text, p_key uuid
) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known cardsync.operators;
    found_id uuid;
    ended bigint;
BEGIN
    SELECT * INTO known FROM cardsync.operators AS o WHERE o.name = p_name FOR UPDATE;
    INSERT INTO cardsync.operators AS o (name, role, link_hash, link_expires_at)
    VALUES (p_name, p_role, p_link_hash, clock_timestamp() + interval '24 hours')
    ON CONFLICT (name) DO UPDATE SET
        role = excluded.role, link_hash = excluded.link_hash, link_expires_at = excluded.link_expires_at, disabled_at = NULL
    RETURNING o.operator_id INTO found_id;
    ended := cardsync.end_sessions_of(found_id);
    PERFORM cardsync.note_operator_action(
        p_by, p_actor, 'invite', 'operator', found_id::text,
        CASE WHEN known.operator_id IS NOT NULL
             THEN jsonb_build_object('role', known.role, 'disabled', known.disabled_at IS NOT NULL) END,
        jsonb_build_object('name', p_name, 'role', p_role, 'sessions_ended', ended), NULL, p_from, p_key
    );
    RETURN found_id;
END
$$;

CREATE FUNCTION cardsync.disable_operator(p_name text, p_by uuid, p_actor text, p_from text, p_key uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_id uuid;
BEGIN
    UPDATE cardsync.operators AS o SET disabled_at = clock_timestamp(), link_hash = NULL, link_expires_at = NULL
    WHERE o.name = p_name AND o.disabled_at IS NULL RETURNING o.operator_id INTO found_id;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM cardsync.note_operator_action(
        p_by, p_actor, 'disable', 'operator', found_id::text, jsonb_build_object('disabled', false),
        jsonb_build_object('disabled', true, 'sessions_ended', cardsync.end_sessions_of(found_id)), NULL, p_from, p_key
    );
    RETURN true;
END
$$;

REVOKE ALL ON FUNCTION
    cardsync.console_operator(bytea), cardsync.acting_operator(bytea, text, interval),
    cardsync.note_operator_action(uuid, text, text, text, text, jsonb, jsonb, text, text, uuid),
    cardsync.was_carried_out(uuid, uuid, text, text), cardsync.open_console_session(bytea, bytea, text),
    cardsync.end_sessions_of(uuid), cardsync.close_console_session(bytea, boolean, text),
    cardsync.invite_operator(text, text, bytea, uuid, text, text, uuid),
    cardsync.disable_operator(text, uuid, text, text, uuid) FROM PUBLIC;
"""


def upgrade() -> None:
    op.execute(ROLE)
    op.execute(TABLES)
    op.execute(CHAIN)
    op.execute(SESSIONS)
    op.execute(OPERATORS)


def downgrade() -> None:
    op.execute(
        """
        DROP FUNCTION cardsync.console_operator(bytea), cardsync.acting_operator(bytea, text, interval),
            cardsync.note_operator_action(uuid, text, text, text, text, jsonb, jsonb, text, text, uuid),
            cardsync.was_carried_out(uuid, uuid, text, text), cardsync.open_console_session(bytea, bytea, text),
            cardsync.end_sessions_of(uuid), cardsync.close_console_session(bytea, boolean, text),
            cardsync.invite_operator(text, text, bytea, uuid, text, text, uuid),
            cardsync.disable_operator(text, uuid, text, text, uuid);
        DROP TABLE cardsync.operator_action_head, cardsync.operator_action_chain;
        DROP TRIGGER operator_actions_chained ON cardsync.operator_actions;
        DROP FUNCTION cardsync.operator_action_said(bigint, cardsync.operator_actions);
        DROP TABLE cardsync.operator_actions, cardsync.console_sessions, cardsync.operators;
        DROP FUNCTION cardsync.chain_operator_action();
        REVOKE ALL ON ALL TABLES IN SCHEMA cardsync, registry FROM cardsync_console;
        REVOKE ALL ON ALL FUNCTIONS IN SCHEMA cardsync, registry FROM cardsync_console;
        REVOKE ALL ON SCHEMA cardsync, registry FROM cardsync_console;
        """
    )
