"""An operator pauses all calls to Ottu, and lets them go on, in the console.

The pause is a word in the gate's row, where each call is counted before it is made (``store.calls.gate``): no process makes a call
that it counts later. A call that was counted before ends as it would have. It ends by an operator's word only.

Revision: 0035, after 0034. Old code runs beside it, and calls on: a pause holds once every process is of this release.
"""

from __future__ import annotations

from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE cardsync.gate
    ADD COLUMN IF NOT EXISTS operator_paused_at timestamptz,
    ADD COLUMN IF NOT EXISTS operator_paused_by text,
    ADD COLUMN IF NOT EXISTS operator_paused_why text;
ALTER TABLE cardsync.gate ADD CONSTRAINT gate_operator_paused CHECK (
    (operator_paused_at IS NULL) = (operator_paused_by IS NULL) AND (operator_paused_at IS NOT NULL OR operator_paused_why IS NULL)
);
"""

# A pause is wanted in a hurry, and resuming undoes all of it: it needs no new sign-in. Resuming lets calls go on, deletions among
# them, that somebody stopped: it needs one.
FUNCTIONS = r"""
CREATE OR REPLACE FUNCTION cardsync.console_pause_calls(p_session bytea, p_reason text, p_from text, p_key uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    actor cardsync.operators := cardsync.acting_operator(p_session, 'operator');
BEGIN
    IF cardsync.was_carried_out(actor.operator_id, p_key, 'pause_calls', 'all') THEN
        RETURN false;
    END IF;
    UPDATE cardsync.gate
    SET operator_paused_at = clock_timestamp(), operator_paused_by = actor.name, operator_paused_why = nullif(p_reason, '')
    WHERE operator_paused_at IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'calls are paused already' USING ERRCODE = 'CC023';
    END IF;
    PERFORM cardsync.note_operator_action(
        actor.operator_id, actor.name, 'pause_calls', 'calls', 'all', jsonb_build_object('paused', false),
        jsonb_build_object('paused', true), p_reason, p_from, p_key
    );
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION cardsync.console_resume_calls(p_session bytea, p_reason text, p_from text, p_key uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    actor cardsync.operators := cardsync.acting_operator(p_session, 'operator', interval '10 minutes');
    was cardsync.gate;
BEGIN
    IF cardsync.was_carried_out(actor.operator_id, p_key, 'resume_calls', 'all') THEN
        RETURN false;
    END IF;
    SELECT * INTO STRICT was FROM cardsync.gate FOR UPDATE;
    IF was.operator_paused_at IS NULL THEN
        RAISE EXCEPTION 'no operator has paused calls' USING ERRCODE = 'CC023';
    END IF;
    UPDATE cardsync.gate SET operator_paused_at = NULL, operator_paused_by = NULL, operator_paused_why = NULL;
    PERFORM cardsync.note_operator_action(
        actor.operator_id, actor.name, 'resume_calls', 'calls', 'all',
        jsonb_build_object('paused', true, 'by', was.operator_paused_by, 'since', was.operator_paused_at),
        jsonb_build_object('paused', false), p_reason, p_from, p_key
    );
    RETURN true;
END
$$;

REVOKE ALL ON FUNCTION
    cardsync.console_pause_calls(bytea, text, text, uuid), cardsync.console_resume_calls(bytea, text, text, uuid) FROM PUBLIC;
"""


def upgrade() -> None:
    op.execute(COLUMNS)
    op.execute(FUNCTIONS)


def downgrade() -> None:
    op.execute(
        """
        DROP FUNCTION cardsync.console_pause_calls(bytea, text, text, uuid), cardsync.console_resume_calls(bytea, text, text, uuid);
        ALTER TABLE cardsync.gate
            DROP COLUMN operator_paused_at, DROP COLUMN operator_paused_by, DROP COLUMN operator_paused_why;
        """
    )
