"""A reader who asks for one payment gateway's cards is answered by Ottu's list filtered by that gateway.

Each customer and gateway that a reader asked about has a row here: when it is due, the ticket of the question, and when Ottu's
answer last agreed with what is known. The rows are forgotten a day after the last reader.

Revision: 0036, after 0035. Old code runs beside it: it asks for complete lists, and these serve such readers too.
"""

from __future__ import annotations

from alembic import op

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None

TABLE = """
CREATE TABLE IF NOT EXISTS cardsync.gateway_asks (
    customer bigint NOT NULL
        CONSTRAINT gateway_asks_customer_fkey REFERENCES cardsync.customers (id) ON DELETE CASCADE,
    pg_code text NOT NULL CONSTRAINT gateway_asks_pg_code_bounded CHECK (length(pg_code) BETWEEN 1 AND 128),
    wanted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at timestamptz,
    not_before timestamptz,
    ticket_no bigint,
    asked_at timestamptz,
    lease_until timestamptz,
    answered_no bigint,
    answered_at timestamptz,
    failures integer NOT NULL DEFAULT 0 CONSTRAINT gateway_asks_failures_counted CHECK (failures >= 0),
    last_error text,
    CONSTRAINT gateway_asks_pkey PRIMARY KEY (customer, pg_code),
    CONSTRAINT gateway_asks_ticket_is_whole CHECK (
        (ticket_no IS NULL) = (asked_at IS NULL) AND (ticket_no IS NULL) = (lease_until IS NULL)
    ),
    CONSTRAINT gateway_asks_answer_is_whole CHECK ((answered_no IS NULL) = (answered_at IS NULL))
);
CREATE INDEX IF NOT EXISTS gateway_asks_due ON cardsync.gateway_asks (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS gateway_asks_wanted ON cardsync.gateway_asks (wanted_at);
"""


def upgrade() -> None:
    op.execute(TABLE)


def downgrade() -> None:
    op.execute("DROP TABLE cardsync.gateway_asks")
