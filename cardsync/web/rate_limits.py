"""Limits of N a second, for what anybody can cause at will: look-ups of unknown API keys, and lines in the log.

A key has 256 random bits, so that guessing finds none; but every try is a look into the database. In each process a few tries a
second are looked up. Beyond that a key that this process has not known before gets 429. A key that it has known is always looked
up, so that a revoked key is refused at once. A key is found by its hash: the time this takes tells nothing about any key.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from cardsync.web import headers

log = structlog.get_logger(__name__)

UNKNOWN_A_SECOND: Final = 20  # far more than services with a wrong key try; a few milliseconds of PostgreSQL
KNOWN_MAX: Final = 1_024  # only real keys come in: a bound for the memory, not for an attacker
LINES_A_SECOND: Final = 10  # enough to see what is going on; a flood of any size writes a few hundred bytes a second

Clock = Callable[[], float]


class RateLimiter:
    """Lets at most N pass in each second of its clock. Safe to be used by several threads."""

    def __init__(self, a_second: int, *, clock: Clock = time.monotonic) -> None:
        self._a_second = a_second
        self._clock = clock
        self._lock = threading.Lock()
        self._second = 0
        self._passed = 0

    def lets_pass(self) -> bool:
        """Count one, and tell whether it may pass."""
        with self._lock:
            second = int(self._clock())
            if second != self._second:
                self._second, self._passed = second, 0
            self._passed += 1
            return self._passed <= self._a_second

    def give_back(self) -> None:
        """Take one out of the count again: it should not have been counted."""
        with self._lock:
            self._passed = max(0, self._passed - 1)


class KeyGuessLimiter:
    """Limits look-ups of unknown keys, and remembers the hashes of real ones."""

    def __init__(self, unknown_a_second: int = UNKNOWN_A_SECOND, *, clock: Clock = time.monotonic) -> None:
        self._limiter = RateLimiter(unknown_a_second, clock=clock)
        self._known: set[bytes] = set()

    def may_look_up(self, key_hash: bytes) -> bool:
        """Whether a key may be looked up now; one that was not known before is counted."""
        return key_hash in self._known or self._limiter.lets_pass()

    def note(self, key_hash: bytes, *, known: bool) -> None:
        """Note what a look-up found."""
        if not known:
            self._known.discard(key_hash)
        elif key_hash not in self._known and len(self._known) < KNOWN_MAX:
            self._known.add(key_hash)
            self._limiter.give_back()  # it was no guess

    def note_failure(self, key_hash: bytes) -> None:
        """Note that the database did not say whether the key is real: that is no guess either."""
        if key_hash not in self._known:
            self._limiter.give_back()


class RateLimitedLog:
    """Writes at most N lines a second, and with the next line how many were left out."""

    def __init__(self, lines_a_second: int = LINES_A_SECOND, *, clock: Clock = time.monotonic) -> None:
        self._limiter = RateLimiter(lines_a_second, clock=clock)
        self._lock = threading.Lock()
        self._left_out = 0

    def warning(self, event: str, **facts: object) -> None:
        """Write a line for an operator to look at, or count it as left out."""
        self._write(log.warning, logging.WARNING, event, facts)

    def info(self, event: str, **facts: object) -> None:
        """Write a line, or count it as left out."""
        self._write(log.info, logging.INFO, event, facts)

    def _write(self, write: Callable[..., object], level: int, event: str, facts: Mapping[str, object]) -> None:
        passes = self._limiter.lets_pass()
        with self._lock:
            if not passes:
                self._left_out += 1
                return
            left_out, self._left_out = self._left_out, 0
        write(event, **facts, **({"left_out_before": left_out} if left_out else {}))
        headers.note_line(level)
