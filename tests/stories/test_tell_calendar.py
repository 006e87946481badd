"""Telling of expiries: a tick does a bounded part, and two ticks at once tell of no card twice."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text

from cardsync.stories import tell_calendar as story
from cardsync.stories.tell_calendar import tell_calendar
from tests.factories import CardFactory, CustomerFactory


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "CARDS_AT_ONCE", 4)
    monkeypatch.setattr(story, "TRANSACTIONS_A_TICK", 2)


def make_cards(count: int) -> None:
    customer = CustomerFactory().id
    for _ in range(count):
        CardFactory(customer=customer, expires_on=dt.date(2020, 1, 31))


def test_a_tick_tells_of_a_bounded_number_and_the_next_ones_of_the_rest(engine: Engine, worker_engine: Engine) -> None:
    make_cards(10)
    assert [tell_calendar(worker_engine) for _ in range(3)] == [8, 2, 0]


def test_ticks_at_once_tell_of_each_card_once_and_the_feed_has_no_gap(engine: Engine, worker_engine: Engine) -> None:
    for _ in range(5):
        make_cards(3)
    with ThreadPoolExecutor(3) as pool:
        while sum(pool.map(lambda _: tell_calendar(worker_engine), range(3))):
            pass
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT seq, card_id, change FROM registry.card_changes ORDER BY seq")).all()
    assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
    assert set(Counter(row.card_id for row in rows if row.change == "expired").values()) == {1}
    assert sum(row.change == "expired" for row in rows) == 15
