"""The ring: notifications that the database acknowledged lately, kept on this disk for some minutes in case it forgets them.

A failover to a standby that lagged, or a restored backup, takes back commits that were answered with success, and Ottu never
sends them again. So each batch is written here after its commit: one line of the text that the database was given, appended to a
file of the process's own. ``stories.bring_in`` notices that the server went back, and brings the ring's hints in again; those
that are there already are recognised.

Hints that waited in the spool are written here as well when they have become rows: while the spool is emptied after an outage, a
failover is likelier than at any other time.

Rules: nothing is flushed to the disk, and no error reaches a caller. A hint is lost only where the database and the web's host
fail within the same seconds; a flush for each batch would cost a payer as much as the commit itself. A file is closed after half
a minute and removed some minutes later, but never while it is unknown whether the server went back. The folder's bytes are
bounded: beyond them the oldest file goes. What is in a line stands in ``core.kept_batches``.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from cardsync.core.kept_batches import read_batch
from cardsync.core.spool_format import WaitingRow
from cardsync.episodes import Episode
from cardsync.errors import MalformedBody
from cardsync.files import Lock, LockHeld, write_private

log = structlog.get_logger(__name__)

FOLDER: Final = "kept"  # inside the data directory
KEPT: Final = ".kept"
_LOCK: Final = "bring-in.lock"
_MARK: Final = "server.json"
FILE_SECONDS: Final = 30.0
FILE_BYTES: Final = 16 * 1_048_576  # and one batch; read as a whole
PARTS: Final = 8  # of the bound on bytes: a file of one process is an eighth at most


@dataclass(frozen=True, slots=True)
class Mark:
    """A state of the server that these hints are safe in: its system, its timeline, and the newest evidence number."""

    system_identifier: int
    timeline: int
    evidence_no: int
    epoch: int = 1  # of the feed; a file of the release before names none

    def went_back(self, now: Mark) -> bool:
        """Whether what was committed up to this mark may be missing now: another system, timeline or
        epoch of the feed, or a lower number."""
        return (
            now.system_identifier != self.system_identifier
            or now.timeline != self.timeline
            or now.evidence_no < self.evidence_no
            or now.epoch != self.epoch
        )


class Ring:
    """One folder, as one process writes to it. Thread-safe. Without minutes nothing is kept."""

    def __init__(self, folder: Path, *, keep_minutes: int, max_bytes: int) -> None:
        self.folder = folder
        self.keep_seconds = keep_minutes * 60.0
        self._max_bytes = max_bytes
        self._file_bytes = min(FILE_BYTES, max_bytes // PARTS)
        self._process = secrets.token_hex(4)
        self._descriptor: int | None = None
        self._opened_at = 0.0
        self._size_bytes = 0
        self._not_kept = Episode("hints_not_kept")
        self._guard = threading.Lock()  # of the open file: what comes in and what is drained are kept by two threads

    @property
    def is_on(self) -> bool:
        """Whether anything is kept."""
        return self.keep_seconds > 0

    def keep(self, batch: bytes) -> None:
        """Append one line. Raises nothing: the hints are in the database."""
        with self._guard:
            try:
                self._append(batch)
            except OSError as error:
                self._close()
                self._not_kept.goes_on(error=error.strerror or str(error))
            else:
                self._not_kept.is_over()

    def files(self) -> list[Path]:
        """The files, oldest first. Raises ``OSError`` for a folder that cannot be read; a missing one is empty."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            return [self.folder / name for name in sorted(entry.name for entry in entries if entry.name.endswith(KEPT))]
        return []

    def batches(self, file: Path) -> Iterator[list[WaitingRow]]:
        """The whole batches of a file that somebody may be writing to. Raises ``OSError``; a file that is gone is empty."""
        with contextlib.suppress(FileNotFoundError):
            content = file.read_bytes()
            for line in content[: content.rfind(b"\n") + 1].splitlines(keepends=True):
                try:
                    yield read_batch(line)
                except MalformedBody:
                    log.warning("kept_batch_unreadable", file=file.name)

    def forget_old(self) -> None:
        """Remove what is past its minutes, and the oldest beyond the bound. For when the server did not go back."""
        before, kept_bytes = time.time() - self.keep_seconds, 0
        for file in reversed(self.files()):
            with contextlib.suppress(OSError):
                found = file.stat()
                kept_bytes += found.st_size
                if found.st_mtime < before or kept_bytes > self._max_bytes:
                    file.unlink()

    def size_bytes(self) -> int:
        """What the files take. Raises ``OSError``."""
        return sum(file.stat().st_size for file in self.files())

    def mark(self) -> Mark | None:
        """The state of the server that was noted last; ``None`` if none was, or it cannot be read."""
        try:
            content = json.loads((self.folder / _MARK).read_bytes())
            system, timeline = int(content["system_identifier"]), int(content["timeline"])
            return Mark(system, timeline, int(content["evidence_no"]), int(content.get("epoch", 1)))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def note(self, mark: Mark) -> None:
        """Write down a state of the server whose hints need not be brought in. Raises ``OSError``."""
        self._make_folder()
        content = {
            "system_identifier": str(mark.system_identifier),
            "timeline": mark.timeline,
            "evidence_no": mark.evidence_no,
            "epoch": mark.epoch,
        }
        write_private(self.folder / _MARK, json.dumps(content))

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether this is the one process that looks, until the end of the block. Raises ``OSError``."""
        self._make_folder()
        try:
            lock = Lock.take(self.folder / _LOCK)
        except LockHeld:
            yield False
            return
        with lock:
            yield True

    def _append(self, batch: bytes) -> None:
        written = os.write(self._file(), batch)
        self._size_bytes += written
        if written < len(batch):  # the disk is full: what follows must not stand in this line
            raise OSError("the line is not whole")

    def _file(self) -> int:
        now = time.monotonic()
        is_over = now - self._opened_at >= FILE_SECONDS or self._size_bytes >= self._file_bytes
        if self._descriptor is not None and not is_over:
            return self._descriptor
        self._close()
        self._make_folder()
        path = self.folder / f"{time.time_ns():020d}-{self._process}{KEPT}"
        self._descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._opened_at, self._size_bytes = now, 0
        return self._descriptor

    def _close(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None

    def _make_folder(self) -> None:
        if not self.folder.is_dir():
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
