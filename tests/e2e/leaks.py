"""The search for what nobody may read: in logs, on /metrics, in answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

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
