"""Notice that the feed went backwards: what no database can say of itself after a failover that lost something, or a restore.

The feed's numbers only rise. A lower one than was seen before means that this is an older state of the database: a standby that
lagged took over, or a backup was restored. Then changes that consumers have read are gone, and their numbers are given to other
changes. So the highest number is remembered outside of the database: in memory, and in a small file of the data folder, which
also outlives a restart of the process. Rejected: a row in the database (it goes back with the feed); the server's timeline (a
failover without loss changes it too, and a restored dump has none); the numbers of observations (no consumer reads them, and
whatever loses them without a change of the feed loses looks alone, which are made again).

Rules: what is remembered is read *before* the database is asked, so that a change by another process in between is no step
backwards. A mark stays until an operator removes the file: only they know when the consumers have begun again. Nothing is raised
for a disk that cannot be written: then memory alone remembers.
"""

from __future__ import annotations

import datetime as dt
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from cardsync import metrics
from cardsync.files import Lock, LockHeld, write_private

log = structlog.get_logger(__name__)

FILE: Final = "feed-seen.json"
WRITE_EVERY_SECONDS: Final = 5.0  # two flushes of a disk; a process that is killed forgets at most so much
FILE_MAX_BYTES: Final = 4_096


@dataclass(frozen=True, slots=True)
class WentBack:
    """When it was noticed, the highest number seen before, and the lowest one found since: consumers begin again after it."""

    at: str
    seen: int
    found: int

    def __str__(self) -> str:
        return f"it went back from {self.seen} to {self.found} (noticed {self.at})"


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the file says."""

    seq: int = 0
    went_back: WentBack | None = None


def recall(folder: Path) -> Remembered:
    """Read what a data folder remembers; nothing if there is no file, or none that can be read."""
    try:
        with (folder / FILE).open("rb") as file:
            return _read(json.loads(file.read(FILE_MAX_BYTES)))
    except (OSError, ValueError, TypeError, KeyError):
        return Remembered()


def _read(content: Any) -> Remembered:
    mark = content["went_back"]
    went_back = None if mark is None else WentBack(str(mark["at"]), int(mark["seen"]), int(mark["found"]))
    return Remembered(int(content["seq"]), went_back)


class FeedWatch:
    """Compares the feed's newest number with the highest that this process, or any with the same data folder, has seen."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._seen = 0
        self._unwritten: WentBack | None = None  # a mark that the disk did not take
        self._written_at = float("-inf")

    def look(self, read: Callable[[], int]) -> WentBack | None:
        """Ask for the newest number, and return the mark if the feed ever went backwards. Raises what ``read`` raises."""
        with self._lock:
            before = recall(self._folder)
            found = read()
            known = before.went_back or self._unwritten
            mark = known
            # Another process's mark answers for what this one remembers from before it.
            seen = before.seq if before.went_back else max(before.seq, self._seen)
            if found < seen:
                mark = self._note(known, seen, found)
            self._seen = found
            due = found > before.seq and time.monotonic() - self._written_at >= WRITE_EVERY_SECONDS
            if mark != before.went_back or due:
                self._write(found, mark)
            return mark

    def _note(self, known: WentBack | None, seen: int, found: int) -> WentBack:
        """Say it once, and join it with a mark that no operator has removed yet."""
        metrics.FEED_WENT_BACK.inc()
        log.error("feed_went_back", seen=seen, found=found)
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        if known is None:
            return WentBack(now, seen, found)
        return WentBack(now, max(known.seen, seen), min(known.found, found))

    def _write(self, found: int, mark: WentBack | None) -> None:
        content = {"seq": found, "went_back": None if mark is None else _as_json(mark)}
        self._unwritten = mark
        try:
            with Lock.take(self._folder / f"{FILE}.lock"):
                write_private(self._folder / FILE, json.dumps(content))
        except (OSError, LockHeld):  # the next look tries again
            return
        self._unwritten, self._written_at = None, time.monotonic()


def _as_json(mark: WentBack) -> dict[str, object]:
    return {"at": mark.at, "seen": mark.seen, "found": mark.found}
