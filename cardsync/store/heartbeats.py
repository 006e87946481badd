"""Heartbeats: which processes are at work, each a row that its process writes again every few seconds.

Work needs a worker and a beat, so that these are missed. A web or a console is shown: what it may hold of the server's sessions
counts. These two write through a function, since their logins may write no heartbeat of another kind. No heartbeat's commit waits
for a standby: one that is lost is written again, and a process whose standby is away is at work.

Ages are the database's: one clock wrote a heartbeat and reads it. The clock of the process's host is compared with it on the way,
so that ``doctor`` can say which host's is wrong; nothing else is decided by that. A process that is told to stop removes its row;
the row of one that was killed is forgotten after an hour.
"""

from __future__ import annotations

import datetime as dt
import socket
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import Connection, text

Kind = Literal["worker", "beat", "web", "console"]
KINDS: Final[tuple[Kind, ...]] = ("worker", "beat")  # without one of each, work stands still
SHOWN: Final[tuple[Kind, ...]] = ("web", "console")

EVERY_SECONDS: Final = 5.0
SHOWN_EVERY_SECONDS: Final = 10.0
# Five heartbeats may be slow or lost before it is said that there is none.
MISSED_AFTER_SECONDS: Final = 30.0
FORGET_AFTER_SECONDS: Final = 3_600.0
CLOCK_SECONDS: Final = 5.0  # of difference: more than any network's delay, and what NTP never leaves


@dataclass(frozen=True, slots=True)
class Process:
    """One process, as its host knows it."""

    kind: Kind
    host: str
    pid: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A process and how long ago it was at work; ``clock_ahead_seconds`` is its host's clock minus the database's.

    ``connections`` are the most that it may hold, if it is of a release that says so.
    """

    process: Process
    seconds_ago: float
    clock_ahead_seconds: float
    connections: int | None = None

    @property
    def is_missed(self) -> bool:
        """Whether it is so old that the process must be thought to stand still."""
        return self.seconds_ago > MISSED_AFTER_SECONDS


def this_host() -> str:
    """This host's name, as heartbeats hold it."""
    return socket.gethostname()[:255] or "unnamed"


_BEAT = text("""
    WITH mode AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) AS set)
    INSERT INTO cardsync.heartbeats AS h (kind, host, pid, started_at, at, clock_ahead_seconds, connections)
    SELECT :kind, :host, :pid, clock_timestamp(), clock_timestamp(),
        extract(epoch FROM :here - clock_timestamp()), cast(:connections AS integer)
    FROM mode
    ON CONFLICT (kind, host, pid) DO UPDATE SET
        at = excluded.at,
        clock_ahead_seconds = excluded.clock_ahead_seconds,
        connections = excluded.connections,
        -- A number of the system's is given again: what was forgotten long ago was another process.
        started_at = CASE WHEN h.at < excluded.at - make_interval(secs => :missed_after)
                          THEN excluded.started_at ELSE h.started_at END
""")
_SHOW = text("""
    SELECT set_config('synchronous_commit', 'off', true), cardsync.show_at_work(:kind, :host, :pid, :here, :connections)
""")
_END = text("SELECT set_config('synchronous_commit', 'off', true), cardsync.end_at_work(:kind, :host, :pid)")
_FORGET = text("""
    WITH mode AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) AS set)
    DELETE FROM cardsync.heartbeats USING mode WHERE at < clock_timestamp() - make_interval(secs => :forget_after)
""")
_LEAVE = text("""
    WITH mode AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) AS set)
    DELETE FROM cardsync.heartbeats USING mode WHERE kind = :kind AND host = :host AND pid = :pid
""")
_ALL = text("""
    SELECT kind, host, pid, extract(epoch FROM clock_timestamp() - at) AS seconds_ago, clock_ahead_seconds, connections
    FROM cardsync.heartbeats ORDER BY kind NOT IN ('worker', 'beat'), kind, at DESC, host, pid LIMIT 1000
""")


def beat(connection: Connection, process: Process, *, here: dt.datetime, connections: int | None = None) -> None:
    """Write that the process is at work; ``here`` is its host's clock at this moment."""
    values = {"kind": process.kind, "host": process.host, "pid": process.pid, "here": here, "connections": connections}
    if process.kind in SHOWN:
        connection.execute(_SHOW, values)
        return
    connection.execute(_BEAT, {**values, "missed_after": MISSED_AFTER_SECONDS})
    connection.execute(_FORGET, {"forget_after": FORGET_AFTER_SECONDS})


def leave(connection: Connection, process: Process) -> None:
    """Remove the process's row: it ends because it was told to."""
    leave = _END if process.kind in SHOWN else _LEAVE
    connection.execute(leave, {"kind": process.kind, "host": process.host, "pid": process.pid})


def read(connection: Connection) -> list[Heartbeat]:
    """Read all of them, of each kind the newest first."""
    return [
        Heartbeat(
            Process(row.kind, row.host, row.pid), float(row.seconds_ago), row.clock_ahead_seconds, row.connections
        )
        for row in connection.execute(_ALL)
    ]


def missing(found: list[Heartbeat]) -> list[Kind]:
    """Which kinds of process are not at work, as far as heartbeats tell."""
    at_work = {one.process.kind for one in found if not one.is_missed}
    return [kind for kind in KINDS if kind not in at_work]


def wrong_clocks(found: list[Heartbeat]) -> list[Heartbeat]:
    """The processes at work whose hosts' clocks differ too much from the database's."""
    return [one for one in found if not one.is_missed and abs(one.clock_ahead_seconds) > CLOCK_SECONDS]
