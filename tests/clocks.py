"""This host's clock, minutes off for as long as a test wants. What counts seconds is left as it is."""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def host_off_by(minutes: float) -> Iterator[None]:
    """Within this block ``time.time`` and ``datetime.now`` are so many minutes ahead, or behind."""
    ahead, of_seconds, real = dt.timedelta(minutes=minutes), time.time, dt.datetime

    class OfAnInstance(type):
        def __instancecheck__(cls, one: object) -> bool:
            return isinstance(one, real)

    class Off(real, metaclass=OfAnInstance):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
            return real.now(tz) + ahead

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dt, "datetime", Off)
        patched.setattr(time, "time", lambda: of_seconds() + ahead.total_seconds())
        yield
