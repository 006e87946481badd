"""Output of ``cardsync dev``: lines with colours on a terminal, and the same lines without colours elsewhere.

Rules: the screen is never cleared. Facts are not wrapped, because commands in them are there to be pasted; a live line is wrapped
under its own text on a terminal, and is one line elsewhere. Control characters in
texts that others chose (a customer's id) never reach a terminal. At most 20 live lines a second are shown; the rest is counted.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import sys
import textwrap
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.text import Text

from cardsync.dev.live.journal import Line, Tone
from cardsync.web.rate_limits import RateLimiter

LINES_A_SECOND: Final = 20
_STYLES: Final[dict[Tone, str]] = {"good": "green", "plain": "", "quiet": "dim", "warning": "yellow", "bad": "red"}
_WHO_WIDTH: Final = 25
_INDENT: Final = len("12:34:56  ") + _WHO_WIDTH
_ROOM_LEAST: Final = 30  # columns; on a narrower terminal the terminal itself wraps


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing to know: a name, and one or more lines."""

    name: str
    lines: tuple[str, ...]
    style: str = ""


class Screen:
    """Writes to standard output."""

    def __init__(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            with contextlib.suppress(OSError):
                sys.stdout.reconfigure(
                    errors="backslashreplace"
                )  # an arrow is no reason to fail where the encoding has none
        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        self._limiter = RateLimiter(LINES_A_SECOND)
        self._left_out = 0

    def say(self, text: str, style: str = "") -> None:
        """Print one remark."""
        self._console.print(Text(text, style))

    def facts(self, facts: list[Fact]) -> None:
        """Print a table of facts."""
        width = max(len(fact.name) for fact in facts)
        for fact in facts:
            for number, line in enumerate(fact.lines):
                name = fact.name if number == 0 else ""
                self._console.print(Text.assemble((f"  {name:<{width}}  ", "bold cyan"), (line, fact.style)))

    def line(self, line: Line) -> None:
        """Print one live line; leave it out and count it if there were too many in this second."""
        if not self._limiter.lets_pass():
            self._left_out += 1
            return
        left_out, self._left_out = self._left_out, 0
        if left_out:
            self.say(f"          ... and {left_out} more lines", "dim")
        when = dt.datetime.fromtimestamp(line.at, dt.UTC).astimezone().strftime("%H:%M:%S")
        who = "" if line.who is None else " ".join(_printable(word) for word in line.who)
        style = _STYLES[line.tone]
        first, *rest = self._wrapped(line.text)
        self._console.print(Text.assemble((f"{when}  ", "dim"), f"{who:<{_WHO_WIDTH}}", (first, style)))
        for text in rest:
            self._console.print(Text.assemble(" " * _INDENT, (text, style)))

    def _wrapped(self, text: str) -> list[str]:
        """The text in lines that fit the terminal, or in one."""
        room = self._console.width - _INDENT
        if not self._console.is_terminal or room < _ROOM_LEAST:
            return [text]
        return textwrap.wrap(text, room, break_long_words=False) or [""]


def _printable(word: str) -> str:
    return word if word.isprintable() else word.encode("unicode_escape").decode("ascii")
