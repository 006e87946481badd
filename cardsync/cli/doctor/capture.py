"""What ``cardsync doctor`` says of change data capture: what each publication gives away, and whether the log can be decoded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Engine

from cardsync.cli import console
from cardsync.cli.doctor.check import Check
from cardsync.store.access import change_capture
from cardsync.store.access.change_capture import Publication
from cardsync.store.ops import server

DECODED: Final = "logical"


def publications(engine: Engine) -> Iterator[Check]:
    """One line for each publication that holds a table of ours; nothing where there is none."""
    with engine.connect() as connection:
        found = change_capture.publications(connection)
        level = server.wal_level(connection)
    yield from (_of(one) for one in found)
    if found and level != DECODED:
        said = f"there is a publication, and wal_level is {level}: no change can be decoded from the log"
        yield Check("wal level", "warning", said, "set wal_level to logical, and restart the server")


def _of(one: Publication) -> Check:
    name = console.printable(one.name)
    if one.beyond:
        found = f"{name} publishes {len(one.beyond)} columns that cardsync keeps back, among them {_worst(one.beyond)}"
        advice = "drop it, and let readers of changes name the one of `cardsync db publication`"
        return Check("publication", "warning", found, advice)
    if one.lacks:
        found = (
            f"{name} publishes no column that cardsync keeps back, and lacks {len(one.lacks)} others, as {one.lacks[0]}"
        )
        return Check("publication", "ok", found, f"cardsync db publication --name {name} adds them")
    return Check("publication", "ok", f"{name} publishes no column that cardsync keeps back")


def _worst(columns: tuple[str, ...]) -> str:
    """A token, where one is among them."""
    return next((column for column in columns if column.endswith(".token")), columns[0])
