"""Keeps the parts of ``cardsync dev`` alive: says that one ended and why, and starts it again, at growing intervals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from cardsync.dev.errors import ServiceError
from cardsync.dev.service import tail

FIRST_WAIT_SECONDS: Final = 1.0
LONGEST_WAIT_SECONDS: Final = 30.0
HEALTHY_SECONDS: Final = 60.0  # who lived this long starts over with the first wait
LOG_LINES: Final = 4
LINE_CHARACTERS: Final = 150  # of each: a line of JSON is long, and begins with what matters


class Part(Protocol):
    """A server or a process of ours."""

    log_path: Path

    @property
    def pid(self) -> int | None:
        """The process id while it runs, else None."""
        ...

    def start(self) -> object:
        """Start it. Raises ``ServiceError``."""
        ...


@dataclass(slots=True)
class _Kept:
    name: str
    part: Part
    started_at: float
    wait_seconds: float = FIRST_WAIT_SECONDS
    again_at: float | None = None  # it has ended, and is started then


class Keeper:
    """Looks after parts that run. Whoever calls gives the time, and prints what comes back."""

    def __init__(self) -> None:
        self._kept: list[_Kept] = []

    def keep(self, name: str, part: Part, now: float) -> None:
        """Look after this one from now on."""
        self._kept.append(_Kept(name, part, now))

    def look(self, now: float) -> list[str]:
        """Look at all of them; return what there is to say."""
        return [said for kept in self._kept if (said := self._look(kept, now)) is not None]

    def _look(self, kept: _Kept, now: float) -> str | None:
        if kept.part.pid is not None:
            return None
        if kept.again_at is None:
            if now - kept.started_at > HEALTHY_SECONDS:
                kept.wait_seconds = FIRST_WAIT_SECONDS
            kept.again_at = now + kept.wait_seconds
            said = f"{kept.name} {getattr(kept.part, 'ended_how', 'ended')}; started again in {kept.wait_seconds:.0f} s"
            kept.wait_seconds = min(LONGEST_WAIT_SECONDS, kept.wait_seconds * 2)
            return f"{said}{last_lines(kept.part.log_path)}"
        if now < kept.again_at:
            return None
        kept.again_at, kept.started_at = None, now
        try:
            kept.part.start()
        except ServiceError as error:
            return f"{kept.name} cannot be started: {error}"
        return f"{kept.name} started again"


def last_lines(log: Path) -> str:
    """The last lines of a log, indented, and where it is."""
    lines = [f"    {line[:LINE_CHARACTERS]}" for line in tail(log).splitlines()[-LOG_LINES:]]
    return "\n".join([f". Its log, {log}, ends:", *lines]) if lines else f". Its log, {log}, is empty."
