"""The type of every option that takes a moment: it reads what cardsync itself prints."""

from __future__ import annotations

import contextlib
import datetime as dt
from typing import Any, Final

import click

# As ``click.DateTime`` reads them: months and days may have one digit.
_WITHOUT_AN_OFFSET: Final = ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S")


class Moment(click.ParamType[Any]):
    """A moment in RFC 3339. One without an offset may mean several: it is refused, or in UTC where ``utc`` says so."""

    name = "moment"

    def __init__(self, *, utc: bool = False) -> None:
        self._utc = utc

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dt.datetime:
        """Read it."""
        if isinstance(value, dt.datetime):
            return value
        moment = self._read(str(value))
        if moment is not None and moment.tzinfo is None and self._utc:
            return moment.replace(tzinfo=dt.UTC)
        if moment is None or moment.tzinfo is None:
            so = "must be a moment, like 2026-11-25T10:20:30Z, or in UTC a day or a moment without the Z"
            self.fail(so if self._utc else "must be a moment with its offset, like 2026-11-25T10:20:30Z", param, ctx)
        return moment

    def _read(self, text: str) -> dt.datetime | None:
        with contextlib.suppress(ValueError):
            return dt.datetime.fromisoformat(text)
        for form in _WITHOUT_AN_OFFSET:
            with contextlib.suppress(ValueError):
                return dt.datetime.strptime(text, form)  # noqa: DTZ007  (its caller says the zone, or refuses it)
        return None
