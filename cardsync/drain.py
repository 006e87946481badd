"""``drain``: hints that waited on disk become rows, in the order of their arrival; each is rung for.

One process at a time. A file is removed once its row is committed: a crash in between leaves a file whose row is there, and
writing it again changes nothing. A file that cannot be read, or that the database refuses for its content, is set aside and
holds up nobody. Files of a database that this process's secret key does not belong to are left alone.

Rules: batches are bounded, and after each one it rests as long as the batch took, so that fresh hints have the database's
time too.
"""

from __future__ import annotations

import errno
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Engine
from sqlalchemy.exc import DataError, IntegrityError

from cardsync import metrics
from cardsync.core.waiting import read_waiting
from cardsync.errors import MalformedBody
from cardsync.spool import Spool
from cardsync.store import inbox
from cardsync.store.inbox import Row, Stored
from cardsync.store.secret import check_secret

PASSING: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # this process's trouble, and not the file's
AT_ONCE: Final = 100  # rows in one statement: tens of milliseconds, and bells in one message

Ring = Callable[[Sequence[uuid.UUID]], None]
Rest = Callable[[float], bool]


@dataclass(frozen=True, slots=True)
class Drained:
    """How many files became rows (or were rows already), and how many were set aside."""

    drained: int = 0
    bad: int = 0

    def __add__(self, other: Drained) -> Drained:
        return Drained(self.drained + other.drained, self.bad + other.bad)


def drain(engine: Engine, spool: Spool, *, secret: bytes, ring: Ring, rest: Rest) -> Drained:
    """Empty the spool of what lies there now, unless another process is at it. ``engine`` commits each statement by itself.

    ``rest`` waits for so many seconds and tells whether to stop there.

    Raises ``Misconfigured`` if the database was made with another secret key, SQLAlchemy's ``DBAPIError`` if it takes nothing,
    ``OSError`` if the folder cannot be read. What is not drained then waits on.
    """
    if spool.is_empty():
        return Drained()
    with spool.alone() as alone:
        if not alone:
            return Drained()
        with engine.connect() as connection:
            check_secret(connection, secret)
        spool.tidy()
        files = spool.waiting()
        done = Drained()
        for first in range(0, len(files), AT_ONCE):
            began = time.monotonic()
            done += _drain_batch(engine, spool, files[first : first + AT_ONCE], ring)
            if rest(time.monotonic() - began):
                break
        return done


def _drain_batch(engine: Engine, spool: Spool, files: Sequence[Path], ring: Ring) -> Drained:
    rows: list[tuple[Path, Row]] = []
    bad: list[Path] = []
    for file in files:
        try:
            rows.append((file, read_waiting(file.read_bytes())))
        except FileNotFoundError:
            continue
        except (MalformedBody, OSError) as error:
            if isinstance(error, OSError) and error.errno in PASSING:
                raise
            bad.append(file)
    stored, refused = _store(engine, rows)
    spool.remove([file for file, _ in stored])
    for file in (*bad, *refused):
        spool.set_aside(file)
    metrics.SPOOLED.labels("drained").inc(len(stored))
    metrics.SPOOLED.labels("bad").inc(len(bad) + len(refused))
    ring([row.event_id for _, row in stored if row.status == "pending"])
    return Drained(len(stored), len(bad) + len(refused))


def _store(engine: Engine, rows: Sequence[tuple[Path, Row]]) -> tuple[list[tuple[Path, Stored]], list[Path]]:
    """Store all in one statement; if the database will not take one of them, each alone. Those stored, those refused."""
    if not rows:
        return [], []
    try:
        with engine.connect() as connection:
            stored = inbox.store_rows(connection, [row for _, row in rows])
        return [(file, row) for (file, _), row in zip(rows, stored, strict=True)], []
    except (DataError, IntegrityError):
        if len(rows) == 1:
            return [], [rows[0][0]]
    halves = [_store(engine, [one]) for one in rows]
    return [one for stored, _ in halves for one in stored], [file for _, refused in halves for file in refused]
