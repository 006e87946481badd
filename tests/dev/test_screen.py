"""Live lines fit the terminal, and are one line each where there is none."""

from __future__ import annotations

import io

from rich.console import Console

from cardsync.dev.live.journal import Line
from cardsync.dev.live.screen import Screen

LONG = "deleted a card in Ottu's own checkout, which sends no notification"


def shown(*, terminal: bool) -> list[str]:
    screen, written = Screen(), io.StringIO()
    screen._console = Console(file=written, width=80, force_terminal=terminal, color_system=None, soft_wrap=True)
    screen.line(Line(0.0, ("sandbox", "shopper-0001"), LONG))
    return written.getvalue().splitlines()


def test_a_live_line_is_wrapped_under_its_own_text_on_a_terminal() -> None:
    lines = shown(terminal=True)
    assert len(lines) == 2
    assert all(len(line) <= 80 for line in lines)
    assert len(lines[1]) - len(lines[1].lstrip()) == lines[0].index("deleted")


def test_elsewhere_it_is_one_line() -> None:
    (line,) = shown(terminal=False)
    assert line.endswith(LONG)
