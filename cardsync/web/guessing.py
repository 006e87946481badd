"""Keys tried at random: what an unknown key may cost, so that guessing costs the database little and real keys nothing.

A key has 256 random bits: nobody guesses one, but every try is a look into the database. So many tries a second are looked up, in
each process; beyond that a key that this process has not known before gets 429. One that it has is looked up always, so that a
revoked key is refused at once. It is found by its hash: how long that takes tells nothing of any key.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

UNKNOWN_A_SECOND: Final = (
    20  # far more than services with a wrong key try; 20 look-ups are a few milliseconds of PostgreSQL
)
KNOWN_MAX: Final = 1_024  # only real keys come in: a bound for the memory, not for an attacker


class Guesses:
    """Counts look-ups of unknown keys, a second at a time, and remembers the hashes of real ones."""

    def __init__(
        self, unknown_a_second: int = UNKNOWN_A_SECOND, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._unknown_a_second = unknown_a_second
        self._clock = clock
        self._lock = threading.Lock()
        self._known: set[bytes] = set()
        self._second = 0
        self._tried = 0

    def may_look_up(self, key_hash: bytes) -> bool:
        """Whether a key may be looked up now; one that was not known before is counted."""
        with self._lock:
            if key_hash in self._known:
                return True
            second = int(self._clock())
            if second != self._second:
                self._second, self._tried = second, 0
            self._tried += 1
            return self._tried <= self._unknown_a_second

    def note(self, key_hash: bytes, *, known: bool) -> None:
        """Note what a look-up found."""
        with self._lock:
            if not known:
                self._known.discard(key_hash)
            elif key_hash not in self._known and len(self._known) < KNOWN_MAX:
                self._known.add(key_hash)
                self._tried = max(0, self._tried - 1)  # it was no guess
