"""Locks between processes, and files and folders that only their owner may read.

A lock is an exclusive ``flock`` on a file. The kernel releases it however its holder ends, SIGKILL included, so a lock is never
stale. Rejected: a file that holds a process id, since the kernel gives an id out again and containers all have a process 1; and
POSIX record locks (``lockf``), since a process loses them when it closes any other descriptor of the same file.

Rules: files have mode 0600 and folders 0700 from the moment they exist. A folder that exists already keeps its mode: a deployment
may share it with a group on purpose.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Final, Self

from cardsync.errors import CardsyncError

POLL_SECONDS: Final = 0.02
HOLDER_BYTES: Final = 20  # a process id has fewer digits


class LockHeld(CardsyncError):
    """Another process, or another ``Lock`` in this one, holds the lock. ``holder`` is the process id, if it was written."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is locked by process {holder or 'unknown'}")
        self.holder = holder or "unknown"


class Lock:
    """An exclusive lock on a file, held until ``release`` or the end of the process; a context manager."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def take(cls, path: Path, *, patience_seconds: float = 0.0, write_holder: bool = False) -> Self:
        """Make the file if need be and lock it; try again for ``patience_seconds``. Raises ``LockHeld``, ``OSError``.

        ``write_holder`` writes this process's id into the file for the next one's error text; without it nothing is written, so
        that the lock can be taken on a full disk.
        """
        deadline = time.monotonic() + patience_seconds
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if _lock_if_free(descriptor):
                    if _is_still_at(path, descriptor):
                        if write_holder:
                            _write_holder(descriptor)
                        return cls(descriptor)
                elif time.monotonic() >= deadline:
                    raise LockHeld(path, os.pread(descriptor, HOLDER_BYTES, 0).decode(errors="replace").strip())
                else:
                    time.sleep(POLL_SECONDS)
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def release(self) -> None:
        """Release the lock. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock on this file; False if there is no such file. Raises ``OSError``.

    To find out, it holds a shared lock for an instant: a ``Lock.take`` that must not fail by this needs some patience.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600 atomically and durably: a reader sees the old text or the new one, also after a power cut."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    flush_folder(path.parent)


def make_private_folder(folder: Path) -> None:
    """Make a folder of mode 0700 if it is missing, and its missing parents with the usual mode. Raises ``OSError``."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def flush_folder(folder: Path) -> None:
    """Make names in a folder durable: a file that was renamed is then still there after a power cut. Raises ``OSError``."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock_if_free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_holder(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)


def _is_still_at(path: Path, descriptor: int) -> bool:
    """Whether the path still names the file that was opened: the holder before may have removed it while it held the lock."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
