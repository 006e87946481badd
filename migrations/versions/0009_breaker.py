"""The pace after a 429, and the breaker before Ottu: columns of the gate's one row.

Revision: 0009, after 0008
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# Nullable, or with a constant default: nothing is rewritten, and a version that knows none of it goes on.
COLUMNS = r"""
ALTER TABLE cardsync.gate
    ADD COLUMN pace_per_second double precision CONSTRAINT gate_pace_is_one CHECK (pace_per_second > 0),
    ADD COLUMN pace_since timestamptz,
    ADD COLUMN pace_next_at timestamptz,
    ADD COLUMN breaker_reason text CONSTRAINT gate_breaker_reason_known CHECK (breaker_reason IN ('down', 'credentials')),
    ADD COLUMN breaker_opened_at timestamptz,
    ADD COLUMN breaker_shut_until timestamptz,
    ADD COLUMN breaker_probing bigint,
    ADD COLUMN breaker_failing bigint[] NOT NULL DEFAULT '{}',
    ADD COLUMN breaker_failed_at timestamptz,
    ADD CONSTRAINT gate_pace_is_whole
        CHECK (num_nulls(pace_per_second, pace_since, pace_next_at) IN (0, 3)),
    ADD CONSTRAINT gate_breaker_is_whole
        CHECK ((breaker_reason IS NULL) = (breaker_opened_at IS NULL) AND (breaker_reason IS NULL) = (breaker_shut_until IS NULL));
"""


def upgrade() -> None:
    op.execute(COLUMNS)


def downgrade() -> None:
    op.execute("""
        ALTER TABLE cardsync.gate
            DROP COLUMN pace_per_second, DROP COLUMN pace_since, DROP COLUMN pace_next_at,
            DROP COLUMN breaker_reason, DROP COLUMN breaker_opened_at, DROP COLUMN breaker_shut_until,
            DROP COLUMN breaker_probing, DROP COLUMN breaker_failing, DROP COLUMN breaker_failed_at
    """)
