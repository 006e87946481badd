"""What needs a person is counted up to a bound, and what plots show is read in a bounded number of rows."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import text

from cardsync.store.console import overview
from tests.factories import CustomerFactory, EventFactory


def test_counts_stop_at_their_bound(engine):
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO cardsync.events"
                " (evidence_no, body_hash, status, kind, environment, customer_id, scheme, key_id, token, facts)"
                " SELECT nextval('cardsync.observation_no'), sha256(n::text::bytea), 'failed', 'payment', 'sandbox', 'c',"
                " 'standard', 'k', 'x', '{}' FROM generate_series(1, 1100) AS n"
            )
        )
    with engine.connect() as connection:
        assert overview.needs(connection).failed_events == overview.COUNTED_MAX


def test_hours_are_whole_and_the_newest_is_this_one(engine):
    now = dt.datetime.now(dt.UTC)
    EventFactory(received_at=now - dt.timedelta(hours=30))
    EventFactory(received_at=now)
    with engine.connect() as connection:
        hours = overview.hours(connection)
    assert len(hours) == overview.HOURS
    began = now.replace(minute=0, second=0, microsecond=0)
    assert {hour.began: hour.hints for hour in hours if hour.hints} == {began: 1}
    assert hours[-1].began in (began, began + dt.timedelta(hours=1))  # the hour may have turned
    assert hours[0].hints == 0


def test_ages_of_a_small_table_are_exact(engine):
    now = dt.datetime.now(dt.UTC)
    for ago in (dt.timedelta(minutes=1), dt.timedelta(hours=2), dt.timedelta(days=60), None):
        CustomerFactory(reconciled_at=None if ago is None else now - ago)
    with engine.connect() as connection:
        ages = overview.ages(connection)
    assert (ages.sampled, ages.never) == (4, 1)
    assert ages.groups == (1, 1, 0, 0, 0, 0, 1)


def test_an_empty_registry_needs_no_person(engine):
    with engine.connect() as connection:
        needs = overview.needs(connection)
    assert needs.failed_events == needs.held_deletions == needs.odd_customers == 0
    assert needs.oldest_hint is None
