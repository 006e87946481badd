"""Heartbeats of web processes and consoles, and how many connections each process may hold.

Neither login may write the table: a web that could would say that a worker is at work. Two functions write rows of these two kinds.

Revision: 0042, after 0041. Old code runs beside it: its webs and consoles have no heartbeats, and its workers say no number.
"""

from __future__ import annotations

from alembic import op

revision = "0042"
down_revision = "0041"
branch_labels = None
depends_on = None

TABLE = r"""
ALTER TABLE cardsync.heartbeats
    ADD COLUMN IF NOT EXISTS connections integer
        CONSTRAINT heartbeats_connections_bounded CHECK (connections BETWEEN 1 AND 100000),
    DROP CONSTRAINT heartbeats_kind_known,
    ADD CONSTRAINT heartbeats_kind_known CHECK (kind IN ('worker', 'beat', 'web', 'console')) NOT VALID;
"""
VALIDATED = "ALTER TABLE cardsync.heartbeats VALIDATE CONSTRAINT heartbeats_kind_known"

FUNCTIONS = r"""
CREATE OR REPLACE FUNCTION cardsync.show_at_work(
    p_kind text, p_host text, p_pid integer, p_here timestamptz, p_connections integer
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF p_kind NOT IN ('web', 'console') THEN
        RAISE EXCEPTION 'only a web or a console is shown so' USING ERRCODE = '42501';
    END IF;
    INSERT INTO cardsync.heartbeats AS h (kind, host, pid, started_at, at, clock_ahead_seconds, connections)
    VALUES (
        p_kind, p_host, p_pid, clock_timestamp(), clock_timestamp(),
        extract(epoch FROM p_here - clock_timestamp()), p_connections
    )
    ON CONFLICT (kind, host, pid) DO UPDATE SET
        at = excluded.at,
        clock_ahead_seconds = excluded.clock_ahead_seconds,
        connections = excluded.connections,
        started_at = CASE WHEN h.at < excluded.at - interval '30 seconds' THEN excluded.started_at ELSE h.started_at END;
END
$$;

CREATE OR REPLACE FUNCTION cardsync.end_at_work(p_kind text, p_host text, p_pid integer) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM cardsync.heartbeats
    WHERE kind = p_kind AND kind IN ('web', 'console') AND host = p_host AND pid = p_pid
$$;

REVOKE ALL ON FUNCTION
    cardsync.show_at_work(text, text, integer, timestamptz, integer), cardsync.end_at_work(text, text, integer)
FROM PUBLIC;
"""


def upgrade() -> None:
    op.execute(TABLE)
    op.execute(VALIDATED)
    op.execute(FUNCTIONS)


def downgrade() -> None:
    op.execute("DROP FUNCTION cardsync.show_at_work(text, text, integer, timestamptz, integer)")
    op.execute("DROP FUNCTION cardsync.end_at_work(text, text, integer)")
    op.execute("DELETE FROM cardsync.heartbeats WHERE kind NOT IN ('worker', 'beat')")
    op.execute("ALTER TABLE cardsync.heartbeats DROP COLUMN connections, DROP CONSTRAINT heartbeats_kind_known")
    op.execute(
        "ALTER TABLE cardsync.heartbeats ADD CONSTRAINT heartbeats_kind_known CHECK (kind IN ('worker', 'beat'))"
    )
