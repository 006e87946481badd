"""What ``cardsync dev`` shows: colours on a terminal, the same lines plainly elsewhere; the screen is never cleared.

Rules: lines are not broken, since commands in them are there to be pasted; texts that others chose (a customer's id) never
drive a terminal; more lines than anybody reads are counted instead.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import sys
import time
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.text import Text

from cardsync.dev.journal import Line, Tone

LINES_A_SECOND: Final = 20
_STYLES: Final[dict[Tone, str]] = {"good": "green", "plain": "", "quiet": "dim", "warning": "yellow", "bad": "red"}
_WHO_WIDTH: Final = 25


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing to know of what runs: a name, and one or more lines."""

    name: str
    lines: tuple[str, ...]
    style: str = ""


class Screen:
    """Writes to standard output, whoever reads it."""

    def __init__(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            with contextlib.suppress(OSError):
                sys.stdout.reconfigure(errors="backslashreplace")  # an arrow must not end us where there is none
        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        self._second, self._lines, self._left_out = 0, 0, 0

    def say(self, text: str, style: str = "") -> None:
        """One remark."""
        self._console.print(Text(text, style))

    def facts(self, facts: list[Fact]) -> None:
        """What is where."""
        width = max(len(fact.name) for fact in facts)
        for fact in facts:
            for number, line in enumerate(fact.lines):
                name = fact.name if number == 0 else ""
                self._console.print(Text.assemble((f"  {name:<{width}}  ", "bold cyan"), (line, fact.style)))

    def line(self, line: Line) -> None:
        """One live line; those beyond a bound are left out, and counted."""
        if (second := int(time.monotonic())) != self._second:
            left_out, self._second, self._lines, self._left_out = self._left_out, second, 0, 0
            if left_out:
                self.say(f"          ... and {left_out} lines more", "dim")
        self._lines += 1
        if self._lines > LINES_A_SECOND:
            self._left_out += 1
            return
        when = dt.datetime.fromtimestamp(line.at, dt.UTC).astimezone().strftime("%H:%M:%S")
        who = "" if line.who is None else " ".join(_printable(word) for word in line.who)
        style = _STYLES[line.tone]
        self._console.print(Text.assemble((f"{when}  ", "dim"), f"{who:<{_WHO_WIDTH}}", (line.text, style)))


def _printable(word: str) -> str:
    return word if word.isprintable() else word.encode("unicode_escape").decode("ascii")
