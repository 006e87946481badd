"""The wait that an endpoint asks for (``Retry-After``) stands in a column, and no longer in the words of the error alone.

Revision: 0037, after 0036. Old code runs beside it: it leaves the column empty, and such a delivery is at worst tried early, once.
"""

from __future__ import annotations

from alembic import op

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE cardsync.deliveries ADD COLUMN IF NOT EXISTS asked_until timestamptz")


def downgrade() -> None:
    op.execute("ALTER TABLE cardsync.deliveries DROP COLUMN asked_until")
