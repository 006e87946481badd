"""The search for what nobody may read: in logs, on /metrics, in answers, in what `ps` shows, in files."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import psutil

from cardsync.spool import FOLDER, ring

CONTEXT_CHARACTERS: Final = 300
MANY: Final = 200
WORD: Final = re.compile(r"\w+", re.ASCII)


def assert_hidden(kind: str, hidden: Collection[str], written: Mapping[str, str]) -> None:
    """Fail if one of the hidden texts stands in what was written anywhere; say where, without it."""
    few, many = _by_length(hidden)
    for place, text in written.items():
        found = next((one for one in few if one in text), None) or _found_of_many(text, many)
        assert found is None, f"{kind} stands in {place}: {_around(text, found)}"


def _by_length(hidden: Collection[str]) -> tuple[list[str], dict[int, frozenset[str]]]:
    """Those that are looked for one by one, and the many words of equal length (a long run's tokens), which are not."""
    groups: dict[int, set[str]] = {}
    for one in hidden:
        groups.setdefault(len(one) if WORD.fullmatch(one) else 0, set()).add(one)
    many = {length: frozenset(group) for length, group in groups.items() if length and len(group) > MANY}
    return [one for length, group in groups.items() if length not in many for one in group], many


def _found_of_many(text: str, many: Mapping[int, frozenset[str]]) -> str | None:
    """One of them, if the text holds any: each stands within a run of the characters that words are made of."""
    if not many:
        return None
    shortest = min(many)
    for run in WORD.finditer(text):
        word = run[0]
        if len(word) < shortest:
            continue
        for length, group in many.items():
            for begin in range(len(word) - length + 1):
                if word[begin : begin + length] in group:
                    return word[begin : begin + length]
    return None


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
    """All that lies in a data folder, but for the spool and the ring."""
    return {name: text for name, text in _files(folder).items() if not _is_of_spool(name)}


def spool_files(folder: Path) -> dict[str, str]:
    """What lies in the spool and the ring. Hints name their customers, and hold no token and no person in the clear."""
    return {name: text for name, text in _files(folder).items() if _is_of_spool(name)}


def _files(folder: Path) -> dict[str, str]:
    found = {}
    for parent, _, names in os.walk(folder):  # which passes over a folder that goes meanwhile
        for path in (Path(parent, name) for name in names):
            with contextlib.suppress(FileNotFoundError):  # processes at work here replace files, and drain the spool
                found[str(path.relative_to(folder))] = path.read_text(encoding="utf-8", errors="replace")
    return found


def _is_of_spool(name: str) -> bool:
    return not {FOLDER, ring.FOLDER}.isdisjoint(Path(name).parts)
