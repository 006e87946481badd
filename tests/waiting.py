"""Waiting in a test: for a condition, up to a deadline, and never for a time that somebody thought long enough.

Rules: a deadline says that something is broken, and asserts no speed; what does not come about is named.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

WAIT_SECONDS: Final = 120.0  # for what takes a second on a machine that is not busy
POLL_SECONDS: Final = 0.02

Value = TypeVar("Value")


def until(condition: Callable[[], Value], what: str, *, seconds: float = WAIT_SECONDS) -> Value:
    """Wait until the condition holds, and return what it returned; fail, saying what did not come about."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(POLL_SECONDS)
    return value
