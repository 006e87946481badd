"""Audits: customers drawn at random, and whether what was served of them was right.

Revision: 0006, after 0005
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TABLES = r"""
CREATE TABLE cardsync.audits (
    audit_no bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT audits_pkey PRIMARY KEY,
    customer bigint NOT NULL CONSTRAINT audits_customer_fkey REFERENCES cardsync.customers (id),
    drawn_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    observation_no bigint,
    judged_at timestamptz,
    verdict text CONSTRAINT audits_verdict_known CHECK (verdict IN ('right', 'wrong')),
    causes text[] NOT NULL DEFAULT '{}'::text[],
    CONSTRAINT audits_judged_is_whole CHECK (
        (verdict IS NULL) = (observation_no IS NULL) AND (verdict IS NULL) = (judged_at IS NULL)
    ),
    CONSTRAINT audits_wrong_says_why CHECK (coalesce(verdict = 'wrong', false) = (causes <> '{}'))
);
CREATE UNIQUE INDEX audits_one_waits ON cardsync.audits (customer) WHERE verdict IS NULL;
CREATE INDEX audits_drawn_at ON cardsync.audits (drawn_at);
CREATE INDEX audits_judged_at ON cardsync.audits (judged_at);
"""


def upgrade() -> None:
    op.execute(TABLES)


def downgrade() -> None:
    op.execute("DROP TABLE cardsync.audits")
