"""What PostgreSQL's replication says that concerns hints: commits that wait for a standby, and whether the server went back.

A synchronous primary whose standby is gone ends no commit, and no time-out of the server's ends the wait. The session stays, also
when its client has gone: PostgreSQL does not look for the client while it waits for a standby.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from cardsync.db.server_memory import SYSTEM_IDENTIFIER, TIMELINE

# Every commit waits for a synchronous standby, for about a round trip. Only sessions of the own login are shown.
_WAITING: Final = text("""
    SELECT count(*) FROM pg_stat_activity
    WHERE usename = current_user AND datname = current_database() AND wait_event = 'SyncRep'
        AND clock_timestamp() - query_start > make_interval(secs => :longer_than_seconds)
""")


def commits_that_wait(connection: Connection, *, longer_than_seconds: float) -> int:
    """How many sessions of this login, of any process, wait for a standby for longer than this. It writes nothing."""
    return int(connection.execute(_WAITING, {"longer_than_seconds": longer_than_seconds}).scalar_one())


@dataclass(frozen=True, slots=True)
class State:
    """Which server this is, at which time of its life, the newest evidence number, and the feed's epoch."""

    system_identifier: int
    timeline: int
    evidence_no: int
    epoch: int


_STATE: Final = text(f"""
    SELECT {SYSTEM_IDENTIFIER} AS system_identifier, {TIMELINE} AS timeline,
        coalesce(pg_sequence_last_value('cardsync.observation_no'), 0) AS evidence_no,
        (SELECT max(epoch) FROM cardsync.feed_epochs) AS epoch
""")


def state(connection: Connection) -> State | None:
    """The server's state; ``None`` of a standby, which takes no hints."""
    row = connection.execute(_STATE).one()
    return None if row.timeline is None else State(row.system_identifier, row.timeline, row.evidence_no, row.epoch)
