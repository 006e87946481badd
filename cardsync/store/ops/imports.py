"""Imports under way: how far each file has been read, written in the same transaction as the customers that were read.

A file is identified by the SHA-256 of all its bytes. The row is deleted at the end of the file. Importing the same file again
then begins at its first line, which changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import Connection, text

from cardsync.errors import Superseded

FORGET_DAYS: Final = 90  # an import that stood still for this long is abandoned


@dataclass(frozen=True, slots=True)
class ImportState:
    """How far a file has been read: ``offset_bytes`` and ``line`` are those of the last line whose customer is stored.

    ``lines`` counts the lines that should name a customer; ``bad_lines`` holds the first of the bad ones.
    """

    offset_bytes: int = 0
    line: int = 0
    lines: int = 0
    customers: int = 0
    new: int = 0
    bad: int = 0
    bad_lines: Sequence[Mapping[str, object]] = ()


_BEGIN = text("""
    INSERT INTO cardsync.imports AS i (content_hash) VALUES (:content_hash)
    ON CONFLICT (content_hash) DO UPDATE SET advanced_at = i.advanced_at
    RETURNING offset_bytes, line, lines, customers, new, bad, bad_lines
""")
_FORGET = text("DELETE FROM cardsync.imports WHERE content_hash = :content_hash")
_FORGET_OLD = text("""
    DELETE FROM cardsync.imports WHERE advanced_at < clock_timestamp() - make_interval(days => :days)
""")


def begin(connection: Connection, content_hash: bytes, *, restart: bool) -> ImportState:
    """Return how far this file was read before; with ``restart`` begin at the first line again."""
    connection.execute(_FORGET_OLD, {"days": FORGET_DAYS})
    if restart:
        forget(connection, content_hash)
    return ImportState(*connection.execute(_BEGIN, {"content_hash": content_hash}).one())


def forget(connection: Connection, content_hash: bytes) -> None:
    """Delete a file's progress: its end is reached, or it is to be read again from the first line."""
    connection.execute(_FORGET, {"content_hash": content_hash})


_ADVANCE = text("""
    UPDATE cardsync.imports
    SET offset_bytes = :offset_bytes, line = :line, lines = :lines, customers = :customers, new = :new, bad = :bad,
        bad_lines = cast(:bad_lines AS jsonb), advanced_at = clock_timestamp()
    WHERE content_hash = :content_hash AND offset_bytes = :before
""")


def advance(connection: Connection, content_hash: bytes, before: ImportState, after: ImportState) -> None:
    """Note how far the file is read. Raises ``Superseded`` if another process is reading it too."""
    parameters: dict[str, Any] = asdict(after)
    parameters["bad_lines"] = json.dumps(parameters["bad_lines"])
    parameters |= {"content_hash": content_hash, "before": before.offset_bytes}
    if connection.execute(_ADVANCE, parameters).rowcount == 0:
        raise Superseded("another process imports this file")
