"""What operators do with customers, cards and notifications, as functions for the console; and what its pages find rows by.

Each function asks who acts by the session's secret, carries the action out under the guard that the row itself gives, and writes
the journal in the same transaction. A request that was carried out before, under the same key, does nothing a second time.

Revision: 0024. Old code knows none of this.
"""

from __future__ import annotations

from alembic import op

from cardsync import db

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

# In every function: the customer is locked before its cards and hints, as everywhere, and the journal comes last. The next sweep
# rings for what is due, within a second: the console needs no broker.
ACTIONS = r"""
CREATE FUNCTION cardsync.console_look_now(p_session bytea, p_customer bigint, p_from text, p_key uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    actor cardsync.operators := cardsync.acting_operator(p_session, 'support');
    one cardsync.customers;
BEGIN
    IF cardsync.was_carried_out(actor.operator_id, p_key, 'look_now', p_customer::text) THEN
        RETURN false;
    END IF;
    SELECT * INTO one FROM cardsync.customers AS c WHERE c.id = p_customer FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no such customer' USING ERRCODE = 'CC404';
    END IF;
    -- As for a reader who wants a newer list (store/customers.py): while Ottu fails, the wait is shortened and not ended.
    UPDATE cardsync.customers AS c
    SET dirty_no = greatest(c.dirty_no, nextval('cardsync.observation_no')),
        dirty_since = coalesce(c.dirty_since, clock_timestamp()),
        due_at = CASE WHEN c.failures > 0 AND c.due_at IS NOT NULL
                      THEN least(c.due_at, clock_timestamp() + interval '30 seconds')
                      ELSE least(c.due_at, clock_timestamp()) END,
        lane = CASE WHEN c.lane IN ('deletion', 'hint') THEN c.lane ELSE 'read' END,
        rung_at = NULL
    WHERE c.id = p_customer;
    PERFORM cardsync.note_operator_action(
        actor.operator_id, actor.name, 'look_now', 'customer', p_customer::text,
        jsonb_build_object('due_at', one.due_at, 'lane', one.lane, 'reconciled_at', one.reconciled_at), NULL, NULL, p_from, p_key
    );
    RETURN true;
END
$$;

CREATE FUNCTION cardsync.console_request_deletion(
    p_session bytea, p_card_id uuid, p_reason text, p_when_unlocked boolean, p_from text, p_key uuid
) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    actor cardsync.operators := cardsync.acting_operator(p_session, 'support');
    asked record;
BEGIN
    SELECT * INTO STRICT asked FROM cardsync.request_deletion(
        p_card_id, 'console:' || actor.name, p_reason, p_key::text, NULL::bytea[], p_when_unlocked, 'console:' || actor.name
    );
    IF NOT cardsync.was_carried_out(actor.operator_id, p_key, 'request_deletion', p_card_id::text) THEN
        PERFORM cardsync.note_operator_action(
            actor.operator_id, actor.name, 'request_deletion', 'card', p_card_id::text, NULL,
            jsonb_build_object('deletion_id', asked.asked_id, 'held', asked.held, 'when_unlocked', p_when_unlocked), p_reason,
            p_from, p_key
        );
    END IF;
    RETURN asked.asked_id;
END
$$;

REVOKE ALL ON FUNCTION
    cardsync.console_look_now(bytea, bigint, text, uuid),
    cardsync.console_request_deletion(bytea, uuid, text, boolean, text, uuid) FROM PUBLIC;
"""

# For finding by what a payer or a shop has at hand, and for what needs a person. Most notifications name a session and a
# reference, so each costs two more entries of an index; without them a look would read an inbox of millions.
INDEXES = {
    "events_session": "events (session_id, evidence_no) WHERE session_id IS NOT NULL",
    "events_reference": "events (reference_number, evidence_no) WHERE reference_number IS NOT NULL",
    "deletions_ended_badly": "deletions (finished_at, deletion_id) WHERE phase IN ('blocked', 'failed')",
}


def upgrade() -> None:
    op.execute(ACTIONS)
    for name, on in INDEXES.items():
        db.make_index(op.get_context(), name, on)


def downgrade() -> None:
    op.execute(
        """
        DROP INDEX cardsync.events_session, cardsync.events_reference, cardsync.deletions_ended_badly;
        DROP FUNCTION cardsync.console_look_now(bytea, bigint, text, uuid),
            cardsync.console_request_deletion(bytea, uuid, text, boolean, text, uuid);
        """
    )
