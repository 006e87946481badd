"""The merchant's own number of the order that a notification is about, so that a person finds it by what the shop has at hand.

Most notifications name an order: each costs one more entry of an index. A number of an order says nothing of a card; it goes when the
payment's other references go.

Revision: 0043, after 0042. Old code runs beside it: what it stores has no order, and it passes the field over in the spool.
"""

from __future__ import annotations

from alembic import op

from cardsync import db

revision = "0043"
down_revision = "0042"
branch_labels = None
depends_on = None

COLUMN = "ALTER TABLE cardsync.events ADD COLUMN IF NOT EXISTS order_no text"
INDEX = ("events_order", "events (order_no, evidence_no) WHERE order_no IS NOT NULL")


def fold_repeat(order_no: str) -> str:
    """The function of 0016, in which a repeated body takes the place of the one before."""
    return rf"""
CREATE OR REPLACE FUNCTION cardsync.fold_repeat(p_event_id uuid, p_row jsonb) RETURNS uuid
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE cardsync.events AS e
    SET status = 'pending', evidence_no = nextval('cardsync.observation_no'),
        received_at = greatest(e.received_at, (p_row ->> 'received_at')::timestamptz),
        session_id = p_row ->> 'session_id', reference_number = p_row ->> 'reference_number', {order_no}
        result = p_row ->> 'result',
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


def upgrade() -> None:
    op.execute(COLUMN)
    op.execute(fold_repeat("order_no = p_row ->> 'order_no',"))
    db.make_index(op.get_context(), *INDEX)


def downgrade() -> None:
    op.execute(fold_repeat(""))
    op.execute("DROP INDEX cardsync.events_order")
    op.execute("ALTER TABLE cardsync.events DROP COLUMN order_no")
