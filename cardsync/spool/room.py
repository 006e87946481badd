"""What may still be written to the spool: bounds on rows and bytes, with a share for repeated signatures.

Ottu's standard scheme signs three fields, so the holder of one genuine body can send it in any number of altered ones. While the
database is away each of them would take a place on the disk, and the honest hint after them would be refused: a hint that is
refused is lost. So the second and later bodies of the signatures that wait have a *tenth* of the room together; the other nine
tenths are kept for signatures that do not wait yet. Equal bodies are written once.

What is written and removed here is counted at once. What other processes write and remove is found out by counting the folder
every so often: on a thread of its own, so that no hint waits for it, and once more before a hint is refused for want of room.

Rules: what is remembered is bounded, and what was forgotten costs a place, never a hint. No file is touched here.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cardsync.core.spool_format import ROW_BYTES, WaitingRow
from cardsync.errors import SpoolUnusable

BLOCK_BYTES: Final = 4_096  # what a small file takes of most disks
REPEATS_SHARE: Final = 10  # one row in ten
REMEMBERED: Final = 65_536  # signatures, and bodies: some 20 MB at the most; two minutes of 500 hints a second

COUNT_SECONDS: Final = 1.0
COUNT_REST: Final = 20.0  # times as long as counting took: a twentieth of one thread at the most
# Before the first count a process's hints may pass the bounds a little: enough for 50,000 files.
FIRST_COUNT_SECONDS: Final = 0.25
# Between two counts before refusals: hints are refused by a full folder without reading it each time.
RECOUNT_SECONDS: Final = 0.1
RECOUNT_REST: Final = 4.0

Item = tuple[WaitingRow, bytes]  # a row and its record


@dataclass(frozen=True, slots=True)
class Totals:
    """Rows, repeats among them, and bytes of the disk."""

    rows: int = 0
    repeats: int = 0
    size_bytes: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(self.rows + other.rows, self.repeats + other.repeats, self.size_bytes + other.size_bytes)

    def __sub__(self, other: Totals) -> Totals:
        return self + Totals(-other.rows, -other.repeats, -other.size_bytes)


def on_disk(size_bytes: int) -> int:
    """What a file of this size takes of the disk."""
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class Claim:
    """Room that is taken for ``admitted``; ``beyond_share`` are repeats that got none. ``fresh`` are signatures new with it."""

    admitted: tuple[Item, ...]
    beyond_share: tuple[Item, ...]
    taken: Totals
    fresh: frozenset[bytes]


class Remembered:
    """The newest keys, and the name of a file for each; at most ``REMEMBERED``."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, str] = OrderedDict()

    def __contains__(self, key: bytes) -> bool:
        return key in self._kept

    def get(self, key: bytes) -> str | None:
        """The file that is remembered of the key."""
        return self._kept.get(key)

    def add(self, key: bytes, file: str = "") -> None:
        """Remember a key, and forget the oldest if there are too many."""
        self._kept[key] = file
        while len(self._kept) > REMEMBERED:
            self._kept.popitem(last=False)

    def discard(self, key: bytes) -> None:
        """Forget one."""
        self._kept.pop(key, None)

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()


class Room:
    """The bounds of one folder, and what is in it as far as this process knows. Safe to be used by several threads.

    ``count`` reads the folder; it may raise ``OSError``.
    """

    def __init__(self, *, max_rows: int, max_bytes: int, count: Callable[[], Totals]) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        # Bounded by rows alone, each at its largest: so a file's name need only say how many repeats are in it.
        self._max_repeats = max(1, min(max_rows, max_bytes // ROW_BYTES) // REPEATS_SHARE)
        self._count_folder = count
        self._lock = threading.Lock()  # of the totals and what is remembered; held for no I/O
        self._totals = Totals()
        self._since_count = Totals()  # what was written and removed while a count was under way
        self._signatures = Remembered()
        self._bodies = Remembered()
        self._counting = threading.Lock()  # one count at a time
        self._counted_at = float("-inf")
        self._took_seconds = 0.0
        self._counted = threading.Event()  # at least once
        self._wait_until = float("inf")

    def claim(self, items: Sequence[Item], *, all_or_none: bool) -> Claim:
        """Take room for the items, but for repeats beyond their share. Raises ``SpoolUnusable`` if there is none.

        With ``all_or_none`` one repeat beyond the share is a reason to raise, too.
        """
        self._count_if_due()
        claim = self._try_claim(items, all_or_none=all_or_none)
        if claim is None and self._count_again():
            claim = self._try_claim(items, all_or_none=all_or_none)
        if claim is None:
            found = self._totals
            raise SpoolUnusable(
                f"the spool is full: {found.rows} hints ({found.repeats} with repeated signatures), {found.size_bytes} bytes"
            )
        return claim

    def require_any(self) -> None:
        """Make sure that one more hint has room. Raises ``SpoolUnusable``."""
        self.give_back(self.claim([_SMALLEST], all_or_none=False))

    def give_back(self, claim: Claim) -> None:
        """Undo a claim: nothing was written."""
        with self._lock:
            self._add(Totals() - claim.taken)
            for one in claim.fresh:
                self._signatures.discard(one)

    def written(self, claim: Claim, file: str) -> None:
        """Remember in which file the claim's bodies wait, now that they are durable."""
        with self._lock:
            for row, _ in claim.admitted:
                self._bodies.add(row.body_hash, file)

    def removed(self, gone: Totals) -> None:
        """Count what was removed."""
        with self._lock:
            self._add(Totals() - gone)
            self._forget_if_empty()

    def file_of(self, body_hash: bytes) -> str | None:
        """The file in which this process wrote the body; it may be gone."""
        with self._lock:
            return self._bodies.get(body_hash)

    def _try_claim(self, items: Sequence[Item], *, all_or_none: bool) -> Claim | None:
        with self._lock:
            admitted, beyond, repeats = self._part(items)
            size_bytes = on_disk(sum(len(record) for _, record in admitted))
            taken = Totals(len(admitted), repeats, size_bytes)
            total = self._totals + taken
            if (beyond and all_or_none) or total.rows > self._max_rows or total.size_bytes > self._max_bytes:
                return None
            hashes = (row.signature_hash for row, _ in admitted)
            fresh = frozenset(one for one in hashes if one is not None and one not in self._signatures)
            for one in fresh:
                self._signatures.add(one)
            self._add(taken)
            return Claim(tuple(admitted), tuple(beyond), taken, fresh)

    def _part(self, items: Sequence[Item]) -> tuple[list[Item], list[Item], int]:
        """Those that are admitted, the repeats that are beyond their share, and how many repeats are among the first."""
        admitted: list[Item] = []
        beyond: list[Item] = []
        repeats = 0
        seen: set[bytes] = set()
        for item in items:
            signature = item[0].signature_hash
            if signature is not None and (signature in self._signatures or signature in seen):
                if self._totals.repeats + repeats >= self._max_repeats:
                    beyond.append(item)
                    continue
                repeats += -(-len(item[1]) // ROW_BYTES)  # one that holds a large body counts for several
            if signature is not None:
                seen.add(signature)
            admitted.append(item)
        return admitted, beyond, repeats

    def _add(self, more: Totals) -> None:
        self._totals += more
        self._since_count += more

    def _forget_if_empty(self) -> None:
        """Nothing waits any more, so that no body is a repeat of one that does."""
        if self._totals.rows <= 0:
            self._signatures.clear()
            self._bodies.clear()

    def _count_if_due(self) -> None:
        """Count on a thread of its own if the last count is old; the first count of all is waited for, but not for long."""
        is_old = time.monotonic() - self._counted_at >= max(COUNT_SECONDS, COUNT_REST * self._took_seconds)
        if is_old and self._counting.acquire(blocking=False):
            try:
                threading.Thread(target=self._count_and_release, name="spool-count", daemon=True).start()
            except RuntimeError:  # no thread can be had now; the next write tries again
                self._counting.release()
        if not self._counted.is_set():
            self._wait_until = min(self._wait_until, time.monotonic() + FIRST_COUNT_SECONDS)
            self._counted.wait(max(0.0, self._wait_until - time.monotonic()))

    def _count_again(self) -> bool:
        """Count before a refusal, and tell whether that was done; it was not if the last count is of just now."""
        with self._counting:
            if time.monotonic() - self._counted_at < max(RECOUNT_SECONDS, RECOUNT_REST * self._took_seconds):
                return False
            self._count()
            return True

    def _count_and_release(self) -> None:
        try:
            self._count()
        except OSError:
            pass  # the next write of a file tells, and counts again
        finally:
            self._counting.release()

    def _count(self) -> None:
        began = time.monotonic()
        with self._lock:
            self._since_count = Totals()
        try:
            counted = self._count_folder()
            with self._lock:
                self._totals = counted + self._since_count
                self._forget_if_empty()
        finally:
            self._counted_at = time.monotonic()
            self._took_seconds = self._counted_at - began
            self._counted.set()


_SMALLEST: Final[Item] = (WaitingRow(body_hash=b"", status="", kind="", scheme="", key_id=""), b"\n")
