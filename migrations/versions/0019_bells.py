"""Bells that a full queue of notifications cannot stop, and an index of the requests that wait for their first bell.

Revision: 0019. Old code runs beside it: it rings as before, and its requests are found by the index as well.
"""

from __future__ import annotations

from alembic import op

from cardsync import db

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

# PostgreSQL keeps one queue of notifications for the whole server, 8 GB. Any login can fill it: one session listens and keeps a
# transaction open, another one sends. From then on each commit that notifies fails, and with it each change of a card. A bell is
# never needed (the sweep looks, consumers poll), so above half of the queue we ring none, and no commit of ours fails.
RING = r"""
CREATE OR REPLACE FUNCTION cardsync.ring(p_channel text, p_payload text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_notification_queue_usage() < 0.5 THEN
        PERFORM pg_notify(p_channel, p_payload);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION cardsync.ring(text, text) FROM PUBLIC;
"""

# Every function of ours that notifies, as it stands in this database: its other lines belong to the migrations that made it.
EXCHANGE = r"""
DO $do$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT pg_get_functiondef(p.oid) AS made
        FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = 'cardsync' AND p.proname <> 'ring' AND strpos(p.prosrc, '{before}') > 0
    LOOP
        EXECUTE replace(one.made, '{before}', '{after}');
    END LOOP;
END
$do$
"""
NOTIFY, CALL = "PERFORM pg_notify(", "PERFORM cardsync.ring("

# Asking stamps `due_at` and `rung_at` with one moment, and each later bell is younger: a bell that is not is none. A deletion that
# failed and waits to be tried again has no bell (NULL) and is not here: the sweep rings for it, as many a tick as calls are left.
NEWLY_ASKED = "deletions (due_at) WHERE phase = 'asked' AND rung_at <= due_at"


def upgrade() -> None:
    op.execute(RING)
    op.execute(EXCHANGE.format(before=NOTIFY, after=CALL))
    db.make_index(op.get_context(), "deletions_newly_asked", NEWLY_ASKED)


def downgrade() -> None:
    op.execute("DROP INDEX cardsync.deletions_newly_asked")
    op.execute(EXCHANGE.format(before=CALL, after=NOTIFY))
    op.execute("DROP FUNCTION cardsync.ring(text, text)")
