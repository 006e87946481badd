"""Cached checks: a question that may hang runs on a thread of its own, is waited for within a bound, and is cached for a moment.

A frozen database then holds one thread for each check, not one for each request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Value = TypeVar("Value")


class NoAnswer(Exception):
    """The check did not end within the bound."""


@dataclass(frozen=True, slots=True)
class Latest(Generic[Value]):
    """The last answer, and how old it is."""

    value: Value
    age_seconds: float


class CachedCheck(Generic[Value]):
    """One check. ``read`` raises ``NoAnswer``, or the error that the question itself raised.

    An answer is kept for ``keep_seconds``, and for ``rest`` times as long as the question took if that is more.
    """

    def __init__(self, question: Callable[[], Value], *, keep_seconds: float, rest: float = 0.0) -> None:
        self._question = question
        self._keep_seconds = keep_seconds
        self._rest = rest
        self._rest_seconds = 0.0
        self._condition = threading.Condition()
        self._asking = False
        self._answer: tuple[Value, float] | None = None  # with the time of it
        self._error: Exception | None = None
        self._answered_at = float("-inf")

    def read(self, *, wait_seconds: float) -> Value:
        """Return an answer that is fresh enough at the time of the call; wait for a new one if need be."""
        began = time.monotonic()
        deadline = began + wait_seconds
        with self._condition:
            while self._answered_at < began - self._keep_seconds - self._rest_seconds:
                if not self._asking:
                    # It may raise: then no thread asks.
                    threading.Thread(target=self._ask, name="cached-check", daemon=True).start()
                    self._asking = True
                if not self._condition.wait(deadline - time.monotonic()) and time.monotonic() >= deadline:
                    raise NoAnswer
            if self._error is not None:
                raise self._error
            assert self._answer is not None
            return self._answer[0]

    def latest(self) -> Latest[Value] | None:
        """The last answer, at any age, or ``None``: for figures that are better old than missing."""
        with self._condition:
            return None if self._answer is None else Latest(self._answer[0], time.monotonic() - self._answer[1])

    def _ask(self) -> None:
        answer: tuple[Value, float] | None = None
        error: Exception | None = None
        began = time.monotonic()
        try:
            answer = (self._question(), time.monotonic())
        except Exception as raised:  # noqa: BLE001  (a thread's border; the reader gets it)
            error = raised
        with self._condition:
            self._answer, self._error = answer or self._answer, error
            self._answered_at = time.monotonic()
            self._rest_seconds = max(0.0, (self._answered_at - began) * self._rest - self._keep_seconds)
            self._asking = False
            self._condition.notify_all()
