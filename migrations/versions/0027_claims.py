"""An index by which a worker claims the most urgent customers that are due, lane by lane.

Revision: 0027. Old code runs beside it: it reads by the indexes that it knows.
"""

from __future__ import annotations

from alembic import op

from cardsync import db

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

# Every look writes it, as it writes `customers_due` beside it. Without it a claim would pass over all routine looks that are due
# to find the one hint behind them.
BY_LANE = "customers (lane, due_at) WHERE due_at IS NOT NULL"


def upgrade() -> None:
    db.make_index(op.get_context(), "customers_by_lane", BY_LANE)


def downgrade() -> None:
    op.execute("DROP INDEX cardsync.customers_by_lane")
