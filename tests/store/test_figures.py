"""Figures of the stock."""

from __future__ import annotations

import datetime as dt

from cardsync.store import figures
from tests.factories import CustomerFactory


def test_ages_are_counted_in_cumulative_buckets_from_a_minute_to_weeks(engine):
    now = dt.datetime.now(dt.UTC)
    ages = (5, 400, 4_000, 90_000, 700_000, 9_000_000)
    for age in ages:
        CustomerFactory(reconciled_at=now - dt.timedelta(seconds=age))
    CustomerFactory(dirty=True)
    with engine.connect() as connection:
        stock = figures.stock(connection)
    assert {60, 300, 3_600, 86_400} < set(stock.reconciled_within)
    assert stock.reconciled_within == {s: sum(age <= s for age in ages) for s in figures.WITHIN_SECONDS}
    assert (stock.customers, stock.never_reconciled, stock.dirty_customers) == (7, 1, 1)
    assert 9_000_000 <= stock.oldest_reconciliation_seconds < 9_000_060


def test_an_empty_registry_has_figures_too(engine):
    with engine.connect() as connection:
        stock = figures.stock(connection)
    assert (stock.customers, stock.oldest_reconciliation_seconds) == (0, 0)
    assert set(stock.reconciled_within.values()) == {0}
