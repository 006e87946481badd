"""Where hints wait on disk while PostgreSQL is away: files and their order, and nothing of what stands in them.

A hint is one file, written under another name, flushed, renamed, and flushed again with its folder; only then does ``put``
return. Names sort in the order of writing: time, then the process, then its counter. A file is removed by whoever has made its
content durable elsewhere; dying in between leaves it, so what drains must bear to see a hint twice.

Rules: the folder is its owner's alone (0700, files 0600); any number of processes may write to it, one at a time drains
(``alone``); count and bytes are bounded, `*.bad` files included. Other processes' files are counted anew every so often, so
that the bounds may be passed by what they write in between. What fails raises ``SpoolUnusable``, and leaves no file.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cardsync.errors import SpoolUnusable

FOLDER: Final = "spool"  # inside the data directory
HINT: Final = ".hint"
BAD: Final = ".bad"
_DRAFT: Final = ".tmp"
_LOCK: Final = "drain.lock"

BLOCK_BYTES: Final = 4_096  # what a small file takes of most disks
COUNT_SECONDS: Final = 1.0
COUNT_REST: Final = 20.0  # times as long as counting took: a twentieth of the writer's time at the most
# Writing takes milliseconds. A draft of this age is a dead process's; one that was only stalled fails at its rename.
ABANDONED_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class State:
    """What lies in the folder. ``size_bytes`` is what it takes of the disk, roughly; ages go by this host's clock."""

    waiting: int
    bad: int
    size_bytes: int
    oldest_seconds: float


class Spool:
    """One folder, as one process writes to it. Safe to be used by several threads."""

    def __init__(self, folder: Path, *, max_files: int, max_bytes: int) -> None:
        self.folder = folder
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._process = secrets.token_hex(4)  # not its id: containers that share the folder all have a process 1
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._files = 0
        self._bytes = 0
        self._count_again_at = float("-inf")

    def put(self, hints: Sequence[bytes]) -> None:
        """Make hints durable, one file each, in this order; all or none. Raises ``SpoolUnusable``."""
        with self._lock:
            written: list[Path] = []
            try:
                self._make_folder()
                self._require_room(hints)
                written.extend(map(self._write, hints))  # one by one: those before a failure are in it
                _flush_folder(self.folder)
            except OSError as error:
                _remove(written)
                raise SpoolUnusable(f"the spool cannot be written: {error.strerror}") from error
            self._files += len(hints)
            self._bytes += sum(map(_on_disk, map(len, hints)))

    def check(self) -> None:
        """Make sure that a hint could be written now: by writing. Raises ``SpoolUnusable``."""
        with self._lock:
            try:
                self._make_folder()
                self._require_room([b"\n"])
                draft = self._draft(b"\n")
                draft.unlink()
            except OSError as error:
                raise SpoolUnusable(f"the spool cannot be written: {error.strerror}") from error

    def is_empty(self) -> bool:
        """Whether nothing waits, found out without reading a long list. Raises as ``waiting``."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            return not any(entry.name.endswith(HINT) for entry in entries)
        return True

    def waiting(self) -> list[Path]:
        """The files that wait, oldest first. Raises ``OSError`` for a folder that cannot be read; a missing one is empty."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            return [self.folder / name for name in sorted(e.name for e in entries if e.name.endswith(HINT))]
        return []

    def state(self) -> State:
        """Look at everything. Raises ``OSError`` for a folder that cannot be read."""
        waiting = bad = size_bytes = 0
        oldest = float("inf")
        for name, status in self._entries():
            size_bytes += _on_disk(status.st_size)
            bad += name.endswith(BAD)
            if name.endswith(HINT):
                waiting += 1
                oldest = min(oldest, status.st_mtime)
        age = max(0.0, time.time() - oldest) if waiting else 0.0
        return State(waiting, bad, size_bytes, age)

    def remove(self, files: Sequence[Path]) -> None:
        """Remove what is durable elsewhere. Not flushed: a file that a power cut brings back is a duplicate."""
        _remove(files)
        self._count_again_at = float("-inf")

    def set_aside(self, file: Path) -> None:
        """Take a file out of the way and keep it, for an operator (who renames it back)."""
        with contextlib.suppress(FileNotFoundError):
            file.rename(file.with_suffix(BAD))

    def tidy(self) -> None:
        """Remove the drafts of processes that died while they wrote."""
        before = time.time() - ABANDONED_SECONDS
        for name, status in self._entries():
            if name.endswith(_DRAFT) and status.st_mtime < before:
                _remove([self.folder / name])

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether this is the one process that drains, until the end of the block. The kernel frees a dead one's place."""
        descriptor = os.open(self.folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
        finally:
            os.close(descriptor)

    def _make_folder(self) -> None:
        if self.folder.is_dir():
            return
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        _flush_folder(self.folder.parent)

    def _require_room(self, hints: Sequence[bytes]) -> None:
        if time.monotonic() >= self._count_again_at:
            began = time.monotonic()
            sizes = [_on_disk(status.st_size) for name, status in self._entries() if name != _LOCK]
            self._files, self._bytes = len(sizes), sum(sizes)
            took = time.monotonic() - began
            self._count_again_at = time.monotonic() + max(COUNT_SECONDS, COUNT_REST * took)
        size_bytes = sum(_on_disk(len(content)) for content in hints)
        if self._files + len(hints) > self._max_files or self._bytes + size_bytes > self._max_bytes:
            raise SpoolUnusable(f"the spool is full: {self._files} files, {self._bytes} bytes")

    def _entries(self) -> Iterator[tuple[str, os.stat_result]]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # drained meanwhile
                    yield entry.name, entry.stat(follow_symlinks=False)

    def _write(self, content: bytes) -> Path:
        draft = self._draft(content)
        try:
            return draft.rename(draft.with_suffix(HINT))
        except OSError:
            _remove([draft])
            raise

    def _draft(self, content: bytes) -> Path:
        """A flushed file under a name that nobody drains."""
        name = f"{time.time_ns():020d}-{self._process}-{next(self._numbers):08d}{_DRAFT}"
        path = self.folder / name
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


def _on_disk(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(files: Sequence[Path]) -> None:
    for file in files:
        with contextlib.suppress(OSError):
            file.unlink()
