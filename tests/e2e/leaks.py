"""The search for what nobody may read: in logs, on /metrics, in answers, in what `ps` shows, in files."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import psutil

CONTEXT_CHARACTERS: Final = 300


def assert_hidden(kind: str, hidden: Collection[str], written: Mapping[str, str]) -> None:
    """Fail if one of the hidden texts stands in what was written anywhere; say where, without it."""
    for place, text in written.items():
        for one in hidden:
            assert one not in text, f"{kind} stands in {place}: {_around(text, one)}"


def _around(text: str, found: str) -> str:
    place = text.index(found)
    around = text[max(0, place - CONTEXT_CHARACTERS) : place + len(found) + CONTEXT_CHARACTERS]
    return around.replace(found, "<here>")


def command_lines() -> dict[str, str]:
    """What `ps` shows of every process that this run started, servers among them: arguments, and the environment if readable."""
    shown = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            said = process.cmdline()
            with contextlib.suppress(psutil.AccessDenied):  # of another user's: `ps` shows no more either
                said += [f"{name}={value}" for name, value in process.environ().items()]
            shown[f"ps {process.pid} ({process.name()})"] = "\n".join(said)
    return shown


def files(folder: Path) -> dict[str, str]:
    """All that lies in a data folder, but for the spool: its files are hints that wait, for their owner alone."""
    return {
        str(path.relative_to(folder)): path.read_text(encoding="utf-8", errors="replace")
        for path in folder.rglob("*")
        if path.is_file() and "spool" not in path.relative_to(folder).parts
    }
