"""``drain``: hints that waited on disk become rows, in the order of their arrival, and bells are rung for them.

One process at a time. A batch of rows is one statement, whatever is known of them already. A file is removed once all its rows
are committed: a crash in between leaves it, and storing its rows again changes nothing. Before that the rows that are new go into
the ring, as those do that never waited: a server that goes back would lose them else. A record that cannot be read, or that the
database refuses for its content, is set aside in a file of its own, and the records around it are stored. Nothing is drained
into a database that this process's secret key does not belong to.

A hint of a person who was erased after it arrived is dropped: the lists that proved the erasure were asked for later than the
hint, so it says nothing that they did not. One that arrived after the erasure was asked for is stored, as the database stores
such hints too.

Rules: batches are bounded, and after each one it rests as long as the batch took, so that fresh hints have the database's
time too.
"""

from __future__ import annotations

import datetime as dt
import errno
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from sqlalchemy import Engine
from sqlalchemy.exc import DataError, IntegrityError

from cardsync import metrics
from cardsync.ciphers import KeyRing, encrypted
from cardsync.core.kept_batches import write_batch
from cardsync.core.spool_format import WaitingRow, checked, read_record, read_row
from cardsync.errors import MalformedBody
from cardsync.spool import Record, Spool
from cardsync.spool import ring as ring_of_hints
from cardsync.spool.names import OLD
from cardsync.store import intake
from cardsync.store.access.secret_keys import fingerprint_key
from cardsync.store.deletions.erased import Erased, done_since
from cardsync.store.given_rows import as_parameter
from cardsync.store.intake import Stored

PASSING: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # this process's trouble, and not the file's
AT_ONCE: Final = 100  # rows in one statement: tens of milliseconds

ASK_AGAIN_SECONDS: Final = 5.0  # for erasures that are done while a long run goes on
CLOCKS_DIFFER: Final = dt.timedelta(
    hours=1
)  # between processes that share a folder: a row may be older than the one before

DAMAGED: Final = "damaged"  # the checksum is wrong, or the record is missing
UNREADABLE: Final = "unreadable"  # whole, but not a row: perhaps a newer release's

Ring = Callable[[], None]
Rest = Callable[[float], bool]


@dataclass(frozen=True, slots=True)
class Drained:
    """How many rows were stored (or were there already), set aside, and dropped for an erasure."""

    drained: int = 0
    bad: int = 0
    erased: int = 0
    fresh: int = field(default=0, compare=False)  # of those stored, the ones that were not there already

    def __add__(self, other: Drained) -> Drained:
        fresh = self.fresh + other.fresh
        return Drained(self.drained + other.drained, self.bad + other.bad, self.erased + other.erased, fresh)


@dataclass(frozen=True, slots=True)
class _Place:
    """One record of one file: its row, or why there is none. After the ``is_last`` one the file has been dealt with.

    No record at all stands for a file that cannot be opened.
    """

    file: Path
    record: Record | None
    row: WaitingRow | None
    trouble: str | None
    is_last: bool


def drain(
    engine: Engine, spool: Spool, *, keys: KeyRing, kept: ring_of_hints.Ring | None, ring: Ring, rest: Rest
) -> Drained:
    """Empty the spool of what lies there now, unless another process is at it. ``engine`` commits each statement by itself.

    What is new in the database is ``kept`` on this disk for a while.

    ``rest`` waits for that many seconds and tells whether to stop there.

    Raises ``Misconfigured`` if the database was made with another secret key, SQLAlchemy's ``DBAPIError`` if it takes nothing,
    ``OSError`` if the folder cannot be read, or a record cannot be set aside (then all others are drained). What is not drained
    waits on.
    """
    if spool.is_empty():
        return Drained()
    with spool.alone() as alone:
        if not alone:
            return Drained()
        # One transaction: a crash between its statements would bind the database to a key that no process knows.
        with engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
            fingerprint_key(connection, keys)
        spool.tidy()
        return _Run(engine, spool, keys, kept, ring).drain(spool.waiting(), rest)


class _Run:
    """One run over the files that waited at its start. ``trouble`` is the first error that kept a file where it is."""

    def __init__(
        self, engine: Engine, spool: Spool, keys: KeyRing, hints: ring_of_hints.Ring | None, ring: Ring
    ) -> None:
        self._engine = engine
        self._spool = spool
        self._keys = keys
        self._hints = hints
        self._ring = ring
        self._kept: set[Path] = set()
        self._trouble: OSError | None = None
        self._erased: Mapping[str, Erased] = {}
        self._asked_at = float("-inf")

    def drain(self, files: Sequence[Path], rest: Rest) -> Drained:
        """Drain the files batch by batch, until ``rest`` says to stop."""
        done = Drained()
        places = self._places(files)
        began = time.monotonic()
        while batch := list(islice(places, AT_ONCE)):
            done += self._drain_batch(batch)
            if rest(time.monotonic() - began):
                break
            began = time.monotonic()
        if self._trouble is not None:
            raise self._trouble
        return done

    def _places(self, files: Iterable[Path]) -> Iterator[_Place]:
        for file in files:
            try:
                records = self._spool.read(file)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno in PASSING:
                    raise
                yield _Place(file, None, None, UNREADABLE, is_last=True)
                continue
            for record in records:
                row, trouble = _read(file, record)
                yield _Place(file, record, row, trouble, is_last=record is records[-1])

    def _drain_batch(self, batch: Sequence[_Place]) -> Drained:
        """Store the rows, keep the new ones, set aside what is none, remove the files that were dealt with; in this order."""
        # What a release before encryption left on the disk is encrypted here; all else is already.
        rows = [(place, encrypted(self._keys, place.row)) for place in batch if place.row is not None]
        wanted = [(place, row) for place, row in rows if not self._is_erased(row)]
        stored, refused = self._store(wanted)
        fresh = {one.event_id for one in stored if one.fresh}
        self._keep([row for _, row in wanted if row.event_id in fresh])
        unread = [(place, place.trouble) for place in batch if place.trouble is not None]
        bad = sum(self._set_aside(place, reason) for place, reason in (*unread, *refused))
        self._spool.remove([place.file for place in batch if place.is_last and place.file not in self._kept])
        done = Drained(len(stored), bad, len(rows) - len(wanted), sum(row.fresh for row in stored))
        for step, count in (("drained", done.drained), ("bad", done.bad), ("erased", done.erased)):
            metrics.SPOOLED.labels(step).inc(count)
        # A known one that is pending, too: it was perhaps inserted in time, and spooled as well, so that no bell was rung for it.
        if any(r.status == "pending" and not r.repeated for r in stored):
            self._ring()
        return done

    def _keep(self, rows: Sequence[WaitingRow]) -> None:
        if self._hints is None or not self._hints.is_on or not rows:
            return
        for piece in intake.pieces(rows):
            kept = [row.kept for row in piece]
            self._hints.keep(write_batch(as_parameter(piece), kept, received_at=dt.datetime.now(dt.UTC)))

    def _set_aside(self, place: _Place, reason: str) -> bool:
        """Set a record aside; if the disk does not take it, its file stays, and holds up no other."""
        try:
            if place.record is None:
                self._spool.set_aside_whole(place.file, reason)
            else:
                self._spool.set_aside(place.file, place.record, reason)
        except OSError as error:
            self._kept.add(place.file)
            self._trouble = self._trouble or error
            return False
        return True

    def _is_erased(self, row: WaitingRow) -> bool:
        """Whether the row's customer was erased since; the database is asked for all such persons at once."""
        if row.received_at is None or row.customer_id is None:
            return False
        if time.monotonic() - self._asked_at >= ASK_AGAIN_SECONDS:
            # Files are in the order of arrival: no row of this run is much older than the first one that asks.
            with self._engine.connect() as connection:
                self._erased = done_since(connection, row.received_at - CLOCKS_DIFFER)
            self._asked_at = time.monotonic()
        erased = self._erased.get(row.customer_id)
        return erased is not None and row.received_at <= erased.requested_at

    def _store(self, rows: Sequence[tuple[_Place, WaitingRow]]) -> tuple[list[Stored], list[tuple[_Place, str]]]:
        """Store all in one statement; if the database refuses one of them, each half alone. Those stored, those refused."""
        if not rows:
            return [], []
        try:
            with self._engine.connect() as connection:
                return intake.store_rows(connection, [row for _, row in rows]), []
        except (DataError, IntegrityError) as error:
            if len(rows) == 1:
                return [], [(rows[0][0], f"refused-{getattr(error.orig, 'sqlstate', None) or 'unknown'}")]
        half = len(rows) // 2
        stored, refused = self._store(rows[:half])
        more_stored, more_refused = self._store(rows[half:])
        return stored + more_stored, refused + more_refused


def _read(file: Path, record: Record) -> tuple[WaitingRow | None, str | None]:
    """The row of a record, or why it is none."""
    if record.content is None:
        return None, DAMAGED
    try:
        return (read_row if file.name.endswith(OLD) else read_record)(record.content), None
    except MalformedBody:
        is_whole = file.name.endswith(OLD) or checked(record.content) is not None
        return None, UNREADABLE if is_whole else DAMAGED
