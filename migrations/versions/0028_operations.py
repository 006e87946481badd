"""Operations: what an operator asks for and a worker carries out, with its progress; and what admins do with operators and keys.

The console's login may call nothing that changes a deletion or a hint. It asks for an operation; the next sweep of a worker carries
it out with the code that the command line uses, writes the outcome to the journal, and asks again whether the operator may.

Revision: 0028. Old code knows none of this.
"""

from __future__ import annotations

from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

# `filter` is frozen when it is asked for; `place` is how far a bulk operation is. One operation of a kind on a subject at a time.
TABLE = """
CREATE TABLE cardsync.operations (
    operation_id uuid DEFAULT gen_random_uuid() CONSTRAINT operations_pkey PRIMARY KEY,
    kind text NOT NULL,
    subject text NOT NULL,
    filter jsonb NOT NULL DEFAULT '{}',
    status text NOT NULL DEFAULT 'running'
        CONSTRAINT operations_status_known CHECK (status IN ('running', 'done', 'failed', 'cancelled')),
    operator_id uuid NOT NULL CONSTRAINT operations_operator_fkey REFERENCES cardsync.operators (operator_id),
    actor text NOT NULL,
    came_from text,
    reason text,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expected bigint NOT NULL DEFAULT 1,
    done bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    failures jsonb NOT NULL DEFAULT '[]',
    place jsonb,
    claimed_until timestamptz,
    finished_at timestamptz,
    error text,
    CONSTRAINT operations_finished CHECK ((status = 'running') = (finished_at IS NULL))
);
CREATE INDEX operations_running ON cardsync.operations (asked_at) WHERE status = 'running';
CREATE UNIQUE INDEX operations_one_at_a_time ON cardsync.operations (kind, subject) WHERE status = 'running';
CREATE INDEX operations_asked_at ON cardsync.operations (asked_at, operation_id);
"""

FUNCTIONS = r"""
-- Which role an operation needs, and how new the sign-in must be. NULL for a kind that is not known.
CREATE FUNCTION cardsync.operation_role(p_kind text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN p_kind IN ('replay_event', 'replay_deletion', 'cancel_deletion', 'replay_events', 'replay_deletions', 'release_brake',
                        'release_deletions', 'enable_endpoint', 'disable_endpoint') THEN 'operator'
        WHEN p_kind = 'erase' THEN 'admin'
    END
$$;
CREATE FUNCTION cardsync.operation_wants(p_kind text) RETURNS interval
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN p_kind IN ('replay_events', 'replay_deletions', 'release_brake', 'release_deletions', 'erase')
                THEN interval '10 minutes' END
$$;

CREATE FUNCTION cardsync.console_ask_operation(
    p_session bytea, p_kind text, p_subject text, p_filter jsonb, p_expected bigint, p_reason text, p_from text, p_key uuid
) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    actor cardsync.operators := cardsync.acting_operator(
        p_session, coalesce(cardsync.operation_role(p_kind), 'nothing'), cardsync.operation_wants(p_kind)
    );
    asked uuid;
BEGIN
    IF cardsync.was_carried_out(actor.operator_id, p_key, p_kind, p_subject) THEN
        SELECT (a.after ->> 'operation_id')::uuid INTO asked FROM cardsync.operator_actions AS a
        WHERE a.operator_id = actor.operator_id AND a.request_key = p_key;
        RETURN asked;
    END IF;
    INSERT INTO cardsync.operations AS o (kind, subject, filter, operator_id, actor, came_from, reason, expected)
    VALUES (p_kind, p_subject, coalesce(p_filter, '{}'), actor.operator_id, actor.name, p_from, nullif(p_reason, ''), p_expected)
    ON CONFLICT (kind, subject) WHERE status = 'running' DO NOTHING RETURNING o.operation_id INTO asked;
    IF asked IS NULL THEN
        RAISE EXCEPTION 'this is under way already' USING ERRCODE = 'CC023';
    END IF;
    PERFORM cardsync.note_operator_action(
        actor.operator_id, actor.name, p_kind, 'operation', p_subject, NULL,
        jsonb_build_object('operation_id', asked, 'filter', p_filter, 'expected', p_expected), p_reason, p_from, p_key
    );
    RETURN asked;
END
$$;

CREATE FUNCTION cardsync.console_cancel_operation(p_session bytea, p_operation uuid, p_from text, p_key uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    actor cardsync.operators := cardsync.acting_operator(p_session, 'operator');
    one cardsync.operations;
BEGIN
    IF cardsync.was_carried_out(actor.operator_id, p_key, 'cancel', p_operation::text) THEN
        RETURN false;
    END IF;
    UPDATE cardsync.operations AS o SET status = 'cancelled', finished_at = clock_timestamp()
    WHERE o.operation_id = p_operation AND o.status = 'running' RETURNING o.* INTO one;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'it is not under way any more' USING ERRCODE = 'CC023';
    END IF;
    PERFORM cardsync.note_operator_action(
        actor.operator_id, actor.name, 'cancel', 'operation', p_operation::text,
        jsonb_build_object('done', one.done, 'failed', one.failed, 'expected', one.expected), NULL, NULL, p_from, p_key
    );
    RETURN true;
END
$$;

-- For the worker: the outcome, in the journal, in the transaction that carried it out. Only for an operation that is under way.
CREATE FUNCTION cardsync.finish_operation(p_operation uuid, p_status text, p_error text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    one cardsync.operations;
BEGIN
    UPDATE cardsync.operations AS o SET status = p_status, error = left(p_error, 200), finished_at = clock_timestamp()
    WHERE o.operation_id = p_operation AND o.status = 'running' RETURNING o.* INTO one;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM cardsync.note_operator_action(
        one.operator_id, one.actor, one.kind || '_ended', 'operation', one.subject, NULL,
        jsonb_build_object('operation_id', one.operation_id, 'status', p_status, 'done', one.done, 'failed', one.failed,
                           'error', one.error),
        NULL, NULL, NULL
    );
    RETURN true;
END
$$;

CREATE FUNCTION cardsync.console_invite_operator(
    p_session bytea, p_name text, p_role text, p_link_hash bytea, p_from text, p_key uuid
) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    actor cardsync.operators := cardsync.acting_operator(p_session, 'admin', interval '10 minutes');
BEGIN
    IF p_name = actor.name THEN
        RAISE EXCEPTION 'this is your own name: ask another admin' USING ERRCODE = 'CC023';
    END IF;
    RETURN cardsync.invite_operator(p_name, p_role, p_link_hash, actor.operator_id, actor.name, p_from, p_key);
END
$$;

CREATE FUNCTION cardsync.console_disable_operator(p_session bytea, p_name text, p_from text, p_key uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    actor cardsync.operators := cardsync.acting_operator(p_session, 'admin');
BEGIN
    IF p_name = actor.name THEN
        RAISE EXCEPTION 'this is your own name: sign out instead' USING ERRCODE = 'CC023';
    END IF;
    RETURN cardsync.disable_operator(p_name, actor.operator_id, actor.name, p_from, p_key);
END
$$;

CREATE FUNCTION cardsync.console_create_key(
    p_session bytea, p_name text, p_hash bytea, p_prefix text, p_scopes text[], p_days integer, p_from text, p_key uuid
) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    actor cardsync.operators := cardsync.acting_operator(p_session, 'admin', interval '10 minutes');
    made uuid;
BEGIN
    INSERT INTO cardsync.api_keys AS k (name, key_hash, prefix, scopes, owner, expires_at)
    VALUES (p_name, p_hash, p_prefix, p_scopes, p_name, clock_timestamp() + make_interval(days => p_days))
    RETURNING k.key_id INTO made;
    PERFORM cardsync.note_operator_action(
        actor.operator_id, actor.name, 'create_key', 'key', made::text, NULL,
        jsonb_build_object('name', p_name, 'scopes', p_scopes, 'days', p_days), NULL, p_from, p_key
    );
    RETURN made;
END
$$;

CREATE FUNCTION cardsync.console_revoke_key(p_session bytea, p_key_id uuid, p_from text, p_key uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    actor cardsync.operators := cardsync.acting_operator(p_session, 'admin');
    known text;
BEGIN
    IF cardsync.was_carried_out(actor.operator_id, p_key, 'revoke_key', p_key_id::text) THEN
        RETURN false;
    END IF;
    UPDATE cardsync.api_keys AS k SET revoked_at = clock_timestamp() WHERE k.key_id = p_key_id AND k.revoked_at IS NULL
    RETURNING k.name INTO known;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no such key, or it is revoked already' USING ERRCODE = 'CC023';
    END IF;
    PERFORM cardsync.note_operator_action(
        actor.operator_id, actor.name, 'revoke_key', 'key', p_key_id::text, jsonb_build_object('name', known), NULL, NULL, p_from,
        p_key
    );
    RETURN true;
END
$$;

-- Sign-in by OpenID Connect: the console has verified who it is. The role is what the issuer says now, and an operator who was
-- disabled here stays out.
CREATE FUNCTION cardsync.open_session_by_issuer(
    p_issuer text, p_subject text, p_name text, p_role text, p_session bytea, p_from text
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    actor cardsync.operators;
BEGIN
    INSERT INTO cardsync.operators AS o (name, role, issuer, subject, signed_in_at)
    VALUES (p_name, p_role, p_issuer, p_subject, clock_timestamp())
    ON CONFLICT (issuer, subject) WHERE subject IS NOT NULL DO UPDATE
        SET role = excluded.role, signed_in_at = clock_timestamp()
    RETURNING o.* INTO actor;
    IF actor.disabled_at IS NOT NULL THEN
        RETURN NULL;
    END IF;
    INSERT INTO cardsync.console_sessions (session_hash, operator_id) VALUES (sha256(p_session), actor.operator_id);
    PERFORM cardsync.note_operator_action(
        actor.operator_id, actor.name, 'sign_in', 'operator', actor.operator_id::text, NULL,
        jsonb_build_object('by', 'issuer', 'role', actor.role), NULL, p_from, NULL
    );
    RETURN actor.name;
END
$$;

REVOKE ALL ON FUNCTION
    cardsync.operation_role(text), cardsync.operation_wants(text),
    cardsync.console_ask_operation(bytea, text, text, jsonb, bigint, text, text, uuid),
    cardsync.console_cancel_operation(bytea, uuid, text, uuid), cardsync.finish_operation(uuid, text, text),
    cardsync.console_invite_operator(bytea, text, text, bytea, text, uuid),
    cardsync.console_disable_operator(bytea, text, text, uuid),
    cardsync.console_create_key(bytea, text, bytea, text, text[], integer, text, uuid),
    cardsync.console_revoke_key(bytea, uuid, text, uuid),
    cardsync.open_session_by_issuer(text, text, text, text, bytea, text) FROM PUBLIC;
"""


def upgrade() -> None:
    op.execute(TABLE)
    op.execute(FUNCTIONS)


def downgrade() -> None:
    op.execute(
        """
        DROP FUNCTION cardsync.operation_role(text), cardsync.operation_wants(text),
            cardsync.console_ask_operation(bytea, text, text, jsonb, bigint, text, text, uuid),
            cardsync.console_cancel_operation(bytea, uuid, text, uuid), cardsync.finish_operation(uuid, text, text),
            cardsync.console_invite_operator(bytea, text, text, bytea, text, uuid),
            cardsync.console_disable_operator(bytea, text, text, uuid),
            cardsync.console_create_key(bytea, text, bytea, text, text[], integer, text, uuid),
            cardsync.console_revoke_key(bytea, uuid, text, uuid),
            cardsync.open_session_by_issuer(text, text, text, text, bytea, text);
        DROP TABLE cardsync.operations;
        """
    )
