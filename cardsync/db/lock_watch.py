"""The lock watch: while a migration waits for a lock, it says on standard error which sessions hold it.

PostgreSQL's own error at the time-out names no session. So a second session looks every half second which sessions the first one
waits for. Each is told once, and only if it is there at two looks, because most waits are over at once. Rejected: to ask once the
time-out has come, when the holder may be gone. No text of a statement is told, because it may hold values.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

LOOK_SECONDS: Final = 0.5  # two looks are over long before a migration gives up, after five seconds
END_SECONDS: Final = 10.0  # for a look that is under way at the end; the thread ends with the process in any case
HOLDERS_MAX: Final = 10

# A transaction that was prepared for a later commit has no session: it is 0, and pg_prepared_xacts lists it.
_HOLDERS: Final = text("""
    SELECT DISTINCT h.pid, a.application_name, a.usename, a.state, a.xact_start
    FROM unnest(pg_blocking_pids(:pid)) AS h(pid) LEFT JOIN pg_stat_activity AS a ON a.pid = h.pid
    ORDER BY h.pid LIMIT :most
""")


@dataclass(frozen=True, slots=True)
class Holder:
    """A session that another one waits for. What this login may not see of other users' sessions is ``None``."""

    pid: int
    application_name: str | None
    user: str | None
    state: str | None
    since: dt.datetime | None

    def __str__(self) -> str:
        if not self.pid:
            return "a prepared transaction (pg_prepared_xacts lists it)"
        known = [_printable(self.application_name or "without an application_name")]
        known += [] if self.user is None else [f"user {_printable(self.user)}"]
        known += [] if self.state is None else [self.state]
        if self.since is not None:
            known.append(f"in a transaction since {self.since.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%SZ}")
        return f"PostgreSQL session {self.pid} ({', '.join(known)})"


@contextlib.contextmanager
def telling_holders(engine: Engine, pid: int) -> Iterator[None]:
    """Within the block, say which sessions ``pid`` waits for. ``engine`` connects at the first look, and may fail."""
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(engine, pid, ended), name="lock-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(END_SECONDS)


def _watch(engine: Engine, pid: int, ended: threading.Event) -> None:
    before: set[int] = set()
    told: set[int] = set()
    while not ended.wait(LOOK_SECONDS):
        try:
            found = _holders(engine, pid)
        except SQLAlchemyError:  # no room for a second session, or the server is away: the migration itself says that
            found = []
        for holder in found:
            if holder.pid in before and holder.pid not in told:
                sys.stderr.write(f"cardsync: the migration waits for a lock that is held by {holder}\n")
                sys.stderr.flush()
                told.add(holder.pid)
        before = {holder.pid for holder in found}


def _holders(engine: Engine, pid: int) -> list[Holder]:
    with engine.connect() as connection:
        return [Holder(*row) for row in connection.execute(_HOLDERS, {"pid": pid, "most": HOLDERS_MAX})]


def _printable(name: str) -> str:
    """A name that others chose, on one line."""
    return "".join(sign if sign.isprintable() else "?" for sign in name)
