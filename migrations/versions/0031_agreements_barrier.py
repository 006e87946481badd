"""``registry.agreements`` is a barrier too: a reader's function sees no card that the view does not show.

The view shows the card only while it is active. Without the barrier PostgreSQL may run a reader's own cheap function on the rows
below that condition, as migration 0014 says of the other views.

Revision: 0031, after 0030. Old code runs beside it.
"""

from __future__ import annotations

from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER VIEW registry.agreements SET (security_barrier = true)")


def downgrade() -> None:
    op.execute("ALTER VIEW registry.agreements RESET (security_barrier)")
