"""Where hints wait on disk while PostgreSQL is away: segments, each a batch of records, and their order.

A batch becomes one file (a *segment*): written under another name, flushed, renamed, and flushed once more with its folder; only
then does ``put`` return. So a batch costs two flushes, however many hints it holds. A segment is removed when all its rows are
durable elsewhere; a crash in between leaves it, so the drain must bear to see a row twice. What cannot be read or stored is set
aside in a file of its own (``*.bad``), for an operator. ``names`` says how files are called, ``core.spool_format`` what is in
them, ``room`` how much fits.

Rules: the folder is its owner's alone (0700, files 0600). Any number of processes may write to it, one at a time drains
(``alone``). Rows and bytes are bounded, ``*.bad`` files included, and counted as they are written: no write looks at the folder.
What other processes write and remove is counted every so often on a thread of its own, and once more before a hint is refused; so
the bounds may be passed by what others write in between. A write that fails raises ``SpoolUnusable``, and leaves no file.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cardsync.core.spool_format import WaitingRow, write_record
from cardsync.errors import SpoolUnusable
from cardsync.files import Lock, LockHeld, flush_folder
from cardsync.spool import names
from cardsync.spool.names import SegmentName
from cardsync.spool.room import BLOCK_BYTES, Claim, Room, Totals, on_disk

__all__ = ["ABANDONED_SECONDS", "BLOCK_BYTES", "FOLDER", "Record", "Spool", "State"]

FOLDER: Final = "spool"  # inside the data directory
_LOCK: Final = "drain.lock"

# Writing takes milliseconds. A draft of this age is a dead process's; one that was only stalled fails at its rename.
ABANDONED_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class State:
    """What lies in the folder: rows that wait, files set aside. ``size_bytes`` is what all takes of the disk, roughly.

    ``usage`` is the share of the room that is taken, of rows or of bytes, whichever is more. Ages go by this host's clock.
    """

    waiting: int
    bad: int
    size_bytes: int
    oldest_seconds: float
    usage: float


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file; ``place`` counts from 0. ``content`` is ``None`` for one that should be there and is not."""

    place: int
    content: bytes | None


class Spool:
    """One folder, as one process writes to it. Safe to be used by several threads."""

    def __init__(self, folder: Path, *, max_files: int, max_bytes: int) -> None:
        """Bound the folder. ``max_files`` is the setting's old name, from the time of one file a hint: it bounds rows."""
        self.folder = folder
        self._process = secrets.token_hex(4)  # not its id: containers that share the folder all have a process 1
        self._numbers = itertools.count()
        self._max_rows, self._max_bytes = max_files, max_bytes
        self._room = Room(max_rows=max_files, max_bytes=max_bytes, count=self._count)

    def put(self, rows: Sequence[WaitingRow]) -> None:
        """Make rows durable in one segment, in this order; all or none. Raises ``SpoolUnusable``."""
        self._put(rows, all_or_none=True)

    def put_what_fits(self, rows: Sequence[WaitingRow]) -> frozenset[uuid.UUID]:
        """The same, but for rows that are repeats beyond their share: their ids are returned, and the others are durable.

        So a flood of altered bodies of one signature fails alone, and not the honest hints of its batch. Raises
        ``SpoolUnusable`` if nothing could be written; then none is.
        """
        return self._put(rows, all_or_none=False)

    def check(self) -> None:
        """Make sure that a hint could be written now: by writing. Raises ``SpoolUnusable``."""
        try:
            self._make_folder()
            self._room.require_any()
            self._draft(b"\n").unlink()
        except OSError as error:
            raise SpoolUnusable(f"the spool cannot be written: {error.strerror}") from error

    def is_empty(self) -> bool:
        """Whether nothing waits, found out without reading a long list. Raises as ``waiting``."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            return not any(entry.name.endswith(names.WAITING) for entry in entries)
        return True

    def waiting(self) -> list[Path]:
        """The files that wait, oldest first. Raises ``OSError`` for a folder that cannot be read; a missing one is empty."""
        return self._files(*names.WAITING)

    def set_aside_files(self) -> list[Path]:
        """The files that were set aside, oldest first. Raises as ``waiting``."""
        return self._files(names.BAD)

    def state(self) -> State:
        """Look at everything. Raises ``OSError`` for a folder that cannot be read."""
        oldest = now = time.time()
        waiting = bad = size_bytes = 0
        for entry in self._entries():
            rows, _, more_bytes = _counts(entry)
            size_bytes += more_bytes
            bad += entry.name.endswith(names.BAD)
            if entry.name.endswith(names.WAITING):
                waiting += rows
                oldest = min(oldest, names.seconds_of(entry.name) or _changed_at(entry))
        usage = max(waiting / self._max_rows, size_bytes / self._max_bytes)
        return State(waiting, bad, size_bytes, max(0.0, now - oldest), usage)

    def read(self, file: Path) -> list[Record]:
        """The records of a file that waits, whole or not, in order; never an empty list. Raises ``OSError``."""
        content = file.read_bytes()
        if file.name.endswith(names.OLD):
            return [Record(0, content)]
        lines = content.splitlines(keepends=True)
        said = names.parse_segment(file.name)
        missing = range(len(lines), max(1, said.rows if said else 1))
        return [Record(place, line) for place, line in enumerate(lines)] + [Record(place, None) for place in missing]

    def remove(self, files: Sequence[Path]) -> None:
        """Remove what is durable elsewhere. Not flushed: a file that a power cut brings back holds duplicates."""
        gone = Totals()
        for file in files:
            said = names.parse_segment(file.name)
            size_bytes = 0 if said is None else on_disk(said.size_bytes)
            with contextlib.suppress(OSError):
                file.unlink()
                gone += Totals(1 if said is None else said.rows, said.repeats if said else 0, size_bytes or BLOCK_BYTES)
        self._room.removed(gone)

    def set_aside(self, file: Path, record: Record, reason: str) -> None:
        """Keep a copy of a record out of the way; durable once it returns. The file itself is removed by the caller.

        Raises ``OSError``; then the file must stay.
        """
        name = names.bad_name(names.stem_of(file), record.place, reason)
        self._draft(record.content or b"").rename(self.folder / name)
        flush_folder(self.folder)

    def set_aside_whole(self, file: Path, reason: str) -> None:
        """Take a file that cannot be read out of the way as it is."""
        with contextlib.suppress(FileNotFoundError):
            file.rename(self.folder / names.bad_name(names.stem_of(file), names.WHOLE, reason))

    def restore(self, file: Path) -> None:
        """Let a file that was set aside wait again, in its old place. Raises ``OSError``."""
        content = file.read_bytes()
        stem, place = names.stem_of(file), file.name.split(".")[1].removesuffix(names.BAD[1:])
        if content.startswith(b"{"):
            name = f"{stem}{names.OLD}"
        else:
            rows = max(1, len(content.splitlines()))
            own = stem if place in ("", names.WHOLE) else f"{stem}-{place}"
            name = SegmentName(own, rows, 0, len(content)).text
        file.rename(self.folder / name)
        flush_folder(self.folder)

    def tidy(self) -> None:
        """Remove the drafts of processes that died while they wrote."""
        before = time.time() - ABANDONED_SECONDS
        drafts = [entry for entry in self._entries() if entry.name.endswith(names.DRAFT)]
        _remove([self.folder / draft.name for draft in drafts if _changed_at(draft) < before])

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether this is the one process that drains, until the end of the block. The kernel frees a dead one's place."""
        try:
            lock = Lock.take(self.folder / _LOCK)
        except LockHeld:
            yield False
            return
        with lock:
            yield True

    def _put(self, rows: Sequence[WaitingRow], *, all_or_none: bool) -> frozenset[uuid.UUID]:
        new = self._not_waiting(rows)
        if not new:
            return frozenset()
        try:
            self._make_folder()
            claim = self._room.claim([(row, write_record(row)) for row in new], all_or_none=all_or_none)
            if claim.admitted:
                self._write(claim)
        except OSError as error:
            raise SpoolUnusable(f"the spool cannot be written: {error.strerror}") from error
        return frozenset(row.event_id for row, _ in claim.beyond_share)

    def _not_waiting(self, rows: Sequence[WaitingRow]) -> list[WaitingRow]:
        """Each body once, without those that wait in a file that is still there: they are durable."""
        once = {row.body_hash: row for row in reversed(rows)}
        files = {row.body_hash: self._room.file_of(row.body_hash) for row in rows}
        return [once[body] for body, file in files.items() if file is None or not (self.folder / file).exists()]

    def _write(self, claim: Claim) -> None:
        """Write a segment: one flush of the file, one of the folder."""
        content = b"".join(record for _, record in claim.admitted)
        written: list[Path] = []
        try:
            draft = self._draft(content)
            written.append(draft)
            name = SegmentName(names.stem_of(draft), claim.taken.rows, claim.taken.repeats, len(content)).text
            written.append(draft.rename(self.folder / name))
            flush_folder(self.folder)
        except OSError:
            _remove(written)
            self._room.give_back(claim)
            raise
        self._room.written(claim, name)

    def _make_folder(self) -> None:
        if self.folder.is_dir():
            return
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        flush_folder(self.folder.parent)

    def _count(self) -> Totals:
        rows = repeats = size_bytes = 0
        for entry in self._entries():
            if entry.name != _LOCK:
                more_rows, more_repeats, more_bytes = _counts(entry)
                rows, repeats, size_bytes = rows + more_rows, repeats + more_repeats, size_bytes + more_bytes
        return Totals(rows, repeats, size_bytes)

    def _files(self, *endings: str) -> list[Path]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            return [self.folder / name for name in sorted(e.name for e in entries if e.name.endswith(endings))]
        return []

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            yield from entries

    def _draft(self, content: bytes) -> Path:
        """A flushed file under a name that is not drained."""
        path = self.folder / f"{time.time_ns():020d}-{self._process}-{next(self._numbers):08d}{names.DRAFT}"
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            _remove([path])
            raise
        return path


def _counts(entry: os.DirEntry[str]) -> tuple[int, int, int]:
    """Rows, repeats and bytes that a file counts for: a segment's name says it, another file is one row and is looked at."""
    said = names.parse_segment(entry.name)
    if said is not None:
        return said.rows, said.repeats, on_disk(said.size_bytes)
    return 1, 0, on_disk(_size(entry))


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:  # drained meanwhile
        return 0


def _changed_at(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return time.time()


def _remove(files: Sequence[Path]) -> None:
    for file in files:
        with contextlib.suppress(OSError):
            file.unlink()
