"""A server that went back gets the hints of the last minutes again, those that had waited in the spool too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from cardsync.core.kept_bodies import KeptBody
from cardsync.spool import Spool
from cardsync.spool.ring import Ring
from cardsync.stories.begin_epoch import begin_epoch
from cardsync.stories.bring_in import BringIn
from cardsync.stories.drain import Drained, drain
from tests.factories import RING
from tests.stories.shop import Shop
from tests.stories.test_drain import go_on, hint, set_all_down, waiting_row

ROWS = text("SELECT event_id, received_at FROM cardsync.events ORDER BY event_id")


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", max_files=1_000, max_bytes=2**30)


@pytest.fixture
def hints(tmp_path: Path) -> Ring:
    return Ring(tmp_path / "kept", keep_minutes=5, max_bytes=2**30)


@pytest.fixture
def drained(shop: Shop, spool: Spool, hints: Ring) -> Callable[[], Drained]:
    return lambda: drain(shop.ingest, spool, keys=RING, kept=hints, ring=lambda: None, rest=go_on)


def rows(shop: Shop) -> list[tuple[object, ...]]:
    with shop.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(ROWS)]


def go_back(shop: Shop, hints: Ring) -> None:
    """The server is as before it took any hint."""
    mark = hints.mark()
    assert mark is not None
    with shop.engine.begin() as connection:
        connection.execute(text("DELETE FROM cardsync.events"))
    hints.note(replace(mark, evidence_no=mark.evidence_no + 100))


def test_what_was_drained_lately_comes_back_with_the_time_of_its_arrival(
    shop: Shop, spool: Spool, hints: Ring, drained: Callable[[], Drained]
) -> None:
    bring_in = BringIn(shop.ingest, hints, spool)
    set_all_down(spool, [hint(1), hint(2)])
    spool.put([waiting_row(3, kept=KeptBody("application/json", "encrypted"))])
    assert drained().fresh == 3
    before = rows(shop)
    assert bring_in.look(drained) is None

    go_back(shop, hints)
    assert bring_in.look(drained) == 3
    assert rows(shop) == before

    # The server goes back once more, to before that.
    go_back(shop, hints)
    assert bring_in.look(drained) == 3
    assert rows(shop) == before


def test_what_is_there_already_is_not_kept_once_more(
    shop: Shop, spool: Spool, hints: Ring, drained: Callable[[], Drained]
) -> None:
    set_all_down(spool, [hint(1)])
    assert drained().fresh == 1
    size_bytes = hints.size_bytes()
    assert size_bytes > 0
    set_all_down(spool, [hint(1)])
    assert drained() == Drained(drained=1)
    assert hints.size_bytes() == size_bytes


def test_an_operators_word_that_a_backup_was_restored_brings_them_in(
    shop: Shop, spool: Spool, hints: Ring, drained: Callable[[], Drained]
) -> None:
    bring_in = BringIn(shop.ingest, hints, spool)
    set_all_down(spool, [hint(1), hint(2)])
    assert drained().fresh == 2
    assert bring_in.look(drained) is None
    before = rows(shop)
    with shop.engine.begin() as connection:
        connection.execute(text("DELETE FROM cardsync.events"))
    begin_epoch(shop.engine, restored_to=None, by="operator")  # the evidence numbers rise, on the same server
    assert bring_in.look(drained) == 2
    assert rows(shop) == before
    assert bring_in.look(drained) is None
