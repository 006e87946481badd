"""Gauges: what waits and what is stored, also where there is none of it."""

from __future__ import annotations

import datetime as dt

from cardsync.core.cards import CARD_STATUSES
from cardsync.store.deletions import requests
from cardsync.store.ops import gauges
from tests.factories import CustomerFactory, EventFactory, make_card


def test_ages_are_counted_in_cumulative_buckets_from_a_minute_to_weeks(engine):
    now = dt.datetime.now(dt.UTC)
    ages = (5, 400, 4_000, 90_000, 700_000, 9_000_000)
    for age in ages:
        CustomerFactory(reconciled_at=now - dt.timedelta(seconds=age))
    CustomerFactory(dirty=True)
    with engine.connect() as connection:
        stock = gauges.stock(connection)
    assert {60, 300, 3_600, 86_400} < set(stock.reconciled_within)
    assert stock.reconciled_within == {s: sum(age <= s for age in ages) for s in gauges.WITHIN_SECONDS}
    assert (stock.customers, stock.never_reconciled, stock.dirty_customers) == (7, 1, 1)
    assert 9_000_000 <= stock.oldest_reconciliation_seconds < 9_000_060


def test_an_empty_registry_has_figures_too(engine):
    with engine.connect() as connection:
        stock = gauges.stock(connection)
    assert (stock.customers, stock.oldest_reconciliation_seconds) == (0, 0)
    assert set(stock.reconciled_within.values()) == {0}


def test_what_waits_is_counted_with_the_age_of_its_oldest(engine):
    now = dt.datetime.now(dt.UTC)
    EventFactory(received_at=now - dt.timedelta(seconds=90))
    EventFactory()
    EventFactory(status="failed")
    EventFactory(settled=True)
    CustomerFactory(dirty=True, due_at=now - dt.timedelta(seconds=30))
    CustomerFactory(dirty=True, due_at=now + dt.timedelta(hours=1))
    with engine.begin() as connection:
        requests.request(connection, card_id=make_card(CustomerFactory()).card_id, requested_by="test")
    with engine.connect() as connection:
        queues = gauges.queues(connection)
    assert (queues.pending_events, queues.failed_events, queues.due_customers, queues.open_deletions) == (2, 1, 1, 1)
    assert 90 <= queues.oldest_pending_seconds < 150
    assert 30 <= queues.oldest_due_seconds < 90
    assert (queues.calls_paused_because, queues.calls_per_second, queues.removal_brake_engaged) == (None, None, False)
    assert queues.feed_head == 2  # a card was added, and is being deleted


def test_every_status_has_a_figure_also_where_there_is_none(engine):
    with engine.connect() as connection:
        stock = gauges.stock(connection)
    assert set(stock.cards_by_status) == set(CARD_STATUSES)
    assert set(stock.deletions_by_status) == set(requests.STATUSES)
    assert set(stock.open_erasures_by_status) == {"pending", "blocked", "failed"}
