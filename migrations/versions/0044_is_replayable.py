"""Whether a notification's body is still kept, for the console: it offers to replay a delivery only then, and may read no body.

Revision: 0044, after 0043. Old code runs beside it and does not use it.
"""

from __future__ import annotations

from alembic import op

revision = "0044"
down_revision = "0043"
branch_labels = None
depends_on = None

FUNCTION = r"""
CREATE OR REPLACE FUNCTION cardsync.body_is_kept(p_event_id uuid) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM cardsync.kept_bodies WHERE event_id = p_event_id AND body IS NOT NULL)
$$;
REVOKE ALL ON FUNCTION cardsync.body_is_kept(uuid) FROM PUBLIC;
"""


def upgrade() -> None:
    op.execute(FUNCTION)


def downgrade() -> None:
    op.execute("DROP FUNCTION cardsync.body_is_kept(uuid)")
