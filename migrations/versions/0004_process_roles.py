"""Roles of the processes: web and worker may do what their code does, and own nothing.

What each may do stands in cardsync/store/access/privileges.py; the newest migration grants it (env.py).

Revision: 0004, after 0003
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ROLES = ("cardsync_web", "cardsync_worker")

# The one way to ask for a deletion writes cards, deletions and receipts. It does so as its owner now, so that the web, which
# asks, may write none of them.
AS_OWNER = """
ALTER FUNCTION cardsync.request_deletion(uuid, text, text, text, bytea, boolean)
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
"""
AS_CALLER = """
ALTER FUNCTION cardsync.request_deletion(uuid, text, text, text, bytea, boolean) SECURITY INVOKER RESET search_path
"""


def upgrade() -> None:
    for role in ROLES:
        op.execute(
            f"""
            DO $$ BEGIN
                CREATE ROLE {role} NOLOGIN;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;  -- it is there, from another database
            END $$
            """
        )
    op.execute(AS_OWNER)


def downgrade() -> None:
    op.execute(AS_CALLER)
    roles = ", ".join(ROLES)
    for kind in ("TABLES", "SEQUENCES", "FUNCTIONS"):
        op.execute(f"REVOKE ALL ON ALL {kind} IN SCHEMA cardsync, registry FROM {roles}")
    op.execute(f"REVOKE ALL ON SCHEMA registry FROM {roles}")
    # Where the database stands, processes must still be able to see, so as to say it.
    op.execute(f"GRANT SELECT ON cardsync.alembic_version TO {roles}")
