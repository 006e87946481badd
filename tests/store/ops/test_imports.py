"""Imports: a file's progress moves forward under a guard, and is forgotten at its end or after a season."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from cardsync.errors import Superseded
from cardsync.store.ops import imports
from cardsync.store.ops.imports import ImportState
from tests.store.rows import beside, change, one, wait_until_blocked

FILE, OTHER = bytes(32), bytes(31) + b"1"
HALF = ImportState(
    offset_bytes=100, line=9, lines=8, customers=7, new=6, bad=1, bad_lines=[{"line": 3, "problem": "x"}]
)


def begin(engine: Engine, content_hash: bytes = FILE, *, restart: bool = False) -> ImportState:
    with engine.begin() as connection:
        return imports.begin(connection, content_hash, restart=restart)


def advance(engine: Engine, before: ImportState, after: ImportState) -> None:
    with engine.begin() as connection:
        imports.advance(connection, FILE, before, after)


def test_a_file_goes_on_where_it_was_and_begins_again_when_told_to(engine: Engine) -> None:
    assert begin(engine) == ImportState(bad_lines=[])
    advance(engine, ImportState(), HALF)
    assert begin(engine) == HALF
    assert begin(engine, OTHER) == ImportState(bad_lines=[])
    assert begin(engine, restart=True) == ImportState(bad_lines=[])


def test_a_process_that_lost_its_place_is_superseded(engine: Engine) -> None:
    begin(engine)
    advance(engine, ImportState(), HALF)
    with pytest.raises(Superseded):
        advance(engine, ImportState(), ImportState(offset_bytes=50))
    assert begin(engine) == HALF


def test_of_two_who_read_the_same_batch_at_once_one_is_superseded(engine: Engine) -> None:
    begin(engine)
    with engine.begin() as connection:
        imports.advance(connection, FILE, ImportState(), HALF)
        with beside(engine, lambda other: imports.advance(other, FILE, ImportState(), HALF)) as second:
            wait_until_blocked(engine)
            connection.commit()
            with pytest.raises(Superseded):
                second()


def test_an_import_that_stood_still_for_a_season_is_forgotten(engine: Engine) -> None:
    begin(engine)
    change(
        engine,
        "UPDATE cardsync.imports SET advanced_at = now() - make_interval(days => :days)",
        days=imports.FORGET_DAYS + 1,
    )
    begin(engine, OTHER)
    assert one(engine, "SELECT content_hash FROM cardsync.imports").content_hash == OTHER
