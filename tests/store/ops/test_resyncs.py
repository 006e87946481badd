"""Full resyncs: one is open at a time, pages are bounded and in order, and a customer is done by any list asked for since."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from cardsync.errors import Superseded
from cardsync.store.ops import resyncs
from cardsync.store.ops.resyncs import Page, Resync
from tests.factories import CustomerFactory
from tests.store.rows import beside, change, one, wait_until_blocked


def begin(engine: Engine, *, restart: bool = False) -> tuple[Resync, bool]:
    with engine.begin() as connection:
        return resyncs.begin(connection, by="test", restart=restart)


def page(engine: Engine, resync: Resync, after: int = 0) -> Page | None:
    with engine.connect() as connection:
        return resyncs.page(connection, resync, after=after)


def look_at(engine: Engine, customer: int) -> None:
    change(engine, "UPDATE cardsync.customers SET reconciled_at = clock_timestamp() WHERE id = :id", id=customer)


def test_one_that_is_open_goes_on_and_a_restart_begins_another(engine: Engine) -> None:
    CustomerFactory()
    first, began_before = begin(engine)
    assert (first.expected, began_before) == (1, False)
    assert begin(engine) == (first, True)
    second, began_before = begin(engine, restart=True)
    assert (second.walk_id > first.walk_id, began_before) == (True, False)


def test_two_that_begin_at_once_get_one(engine: Engine) -> None:
    with engine.begin() as connection:
        first, _ = resyncs.begin(connection, by="test", restart=False)
        with beside(engine, lambda other: resyncs.begin(other, by="test", restart=False)) as second:
            wait_until_blocked(engine)
            connection.commit()
            assert second() == (first, True)


def test_pages_come_in_order_and_are_bounded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [CustomerFactory().id for _ in range(3)]
    resync, _ = begin(engine)
    CustomerFactory()  # became known later
    monkeypatch.setattr(resyncs, "PAGE", 2)
    assert page(engine, resync) == Page((ids[0], ids[1]), 0, ids[1])
    assert page(engine, resync, ids[1]) == Page((ids[2],), 0, ids[2])
    assert page(engine, resync, ids[2]) is None


def test_a_customer_is_done_by_any_list_asked_for_since(engine: Engine) -> None:
    before, done, waiting = (CustomerFactory().id for _ in range(3))
    look_at(engine, before)
    resync, _ = begin(engine)
    look_at(engine, done)
    assert page(engine, resync) == Page((before, waiting), 1, waiting)
    with engine.begin() as connection:
        assert resyncs.make_due(connection, resync, done) is False
        assert resyncs.make_due(connection, resync, waiting) is True
        assert resyncs.tally(connection, resync) == (1, 0)
    row = one(engine, "SELECT lane, due_at <= clock_timestamp() FROM cardsync.customers WHERE id = :id", id=waiting)
    assert row == ("sweep", True)


def test_a_resync_that_ended_or_was_replaced_is_noticed_at_the_next_page(engine: Engine) -> None:
    CustomerFactory()
    first, _ = begin(engine)
    with engine.begin() as connection:
        resyncs.end(connection, first)
    assert page(engine, first) is None
    begin(engine)
    with pytest.raises(Superseded):
        page(engine, first)


def test_ending_one_that_was_replaced_leaves_the_new_one_open(engine: Engine) -> None:
    old, _ = begin(engine)
    new, _ = begin(engine, restart=True)
    with engine.begin() as connection:
        resyncs.end(connection, old)
    assert begin(engine) == (new, True)
