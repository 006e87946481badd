"""``bring_in``: when the server went back, the hints of the last minutes are stored again from this disk.

A server went back where its timeline or its system changed (a standby took over, a backup was restored), where the evidence
numbers fell, or where an operator said that a backup was restored (another epoch of the feed). Whether something is missing then
cannot be told, so every hint of the ring goes through the spool once more: what is there already is recognised by its body's
hash, and only what was lost becomes a row, and is rung for. Erasures hold as for all that waits on disk.

One process of a folder at a time. The server's new state is noted last: a crash in between begins again, and changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog
from sqlalchemy import Engine

from cardsync.spool import Spool
from cardsync.spool.ring import Mark, Ring
from cardsync.store.ops import replication
from cardsync.stories.drain import Drained

log = structlog.get_logger(__name__)

NOTE_EVERY_SECONDS: Final = 5.0  # two flushes of a disk; a number that is older notices a smaller loss later

Drain = Callable[[], Drained]


class BringIn:
    """What one process does about the ring of its folder. ``drain`` makes rows of what is in the spool."""

    def __init__(self, engine: Engine, ring: Ring, spool: Spool) -> None:
        self._engine, self._ring, self._spool = engine, ring, spool
        self._noted_at = float("-inf")

    def look(self, drain: Drain) -> int | None:
        """Ask the server, and bring in the ring's hints if it went back: how many were lost, ``None`` if it did not.

        Raises as ``drain`` and the spool do; what is not brought in is tried again at the next look.
        """
        if not self._ring.is_on:
            return None
        with self._engine.connect() as connection:
            state = replication.state(connection)
        if state is None:
            return None
        now = Mark(state.system_identifier, state.timeline, state.evidence_no, state.epoch)
        with self._ring.alone() as alone:
            if not alone:
                return None
            before = self._ring.mark()
            if before is not None and before.went_back(now):
                lost = self._bring_in(drain)
                log.warning("hints_brought_in", lost=lost, timeline=now.timeline, before=before.timeline)
                self._ring.note(now)
                return lost
            if before is None or time.monotonic() - self._noted_at >= NOTE_EVERY_SECONDS:
                self._noted_at = time.monotonic()
                if before != now:
                    self._ring.note(now)
                self._ring.forget_old()
        return None

    def _bring_in(self, drain: Drain) -> int:
        """Through the spool, a batch at a time: a full disk or a slow database stops it, and loses nothing."""
        lost = 0
        for file in self._ring.files():
            for rows in self._ring.batches(file):
                self._spool.put_what_fits(rows)
                lost += drain().fresh
        return lost
