"""Repeats in the inbox: which hints are repeats, how many strangers one signature may name, and what a repeat makes due."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from sqlalchemy import Engine

from cardsync.core.repeats import STRANGERS_A_SIGNATURE, STRANGERS_SECONDS
from cardsync.store import repeats
from tests.factories import CustomerFactory, EventFactory
from tests.store.rows import beside, change, one, wait_until_blocked

ONE, OTHER = bytes(31) + b"1", bytes(31) + b"2"


def admit(engine: Engine, signature_hash: bytes = ONE) -> bool:
    with engine.begin() as connection:
        return repeats.admit_stranger(connection, signature_hash)


def mark(engine: Engine, customer: int, evidence_no: int = 5) -> bool:
    with engine.begin() as connection:
        return repeats.mark_dirty(connection, customer, evidence_no=evidence_no, apart_seconds=60)


def test_repeats_are_found_among_pending_events_in_the_order_of_their_signatures(engine: Engine) -> None:
    CustomerFactory(customer_id="known")
    first = EventFactory(signature_hash=OTHER).event_id
    stranger = EventFactory(signature_hash=OTHER, customer_id="stranger", repeated=True).event_id
    known = EventFactory(signature_hash=ONE, customer_id="known", repeated=True).event_id
    done = EventFactory(signature_hash=ONE, settled=True, repeated=True).event_id
    with engine.connect() as connection:
        found = repeats.among(connection, [done, stranger, known, first])
    assert [(r.event_id, r.stranger) for r in found] == [(known, False), (stranger, True)]


def test_one_signature_makes_a_bounded_number_of_strangers_known_in_an_hour(engine: Engine) -> None:
    assert [admit(engine) for _ in range(STRANGERS_A_SIGNATURE + 2)] == [True] * STRANGERS_A_SIGNATURE + [False] * 2
    assert admit(engine, OTHER)
    change(
        engine,
        "UPDATE cardsync.repeated_signatures SET counted_since = counted_since - make_interval(secs => :s)",
        s=STRANGERS_SECONDS,
    )
    assert admit(engine)
    row = one(engine, "SELECT strangers FROM cardsync.repeated_signatures WHERE signature_hash = :hash", hash=ONE)
    assert row.strangers == 1


def test_two_who_count_at_the_bound_at_once_admit_one_stranger(engine: Engine) -> None:
    for _ in range(STRANGERS_A_SIGNATURE - 1):
        admit(engine)
    with engine.begin() as connection:
        assert repeats.admit_stranger(connection, ONE)
        with beside(engine, lambda other: repeats.admit_stranger(other, ONE)) as second:
            wait_until_blocked(engine)
            connection.commit()
            assert second() is False


def test_only_a_pending_repeat_is_given_up_and_says_nothing_any_more(engine: Engine) -> None:
    pending = EventFactory(repeated=True).event_id
    done = EventFactory(settled=True, repeated=True).event_id
    fresh = EventFactory().event_id
    with engine.begin() as connection:
        assert repeats.give_up(connection, [pending, done, fresh]) == 1
    row = one(engine, "SELECT * FROM cardsync.events WHERE event_id = :id", id=pending)
    assert (row.status, row.ignored_because) == ("ignored", "given_up")
    assert (row.token, row.facts, row.customer_id, row.session_id) == (None,) * 4


@pytest.mark.parametrize(
    ("given", "due", "lane"),
    [
        ({}, True, "repeat"),
        ({"reconciled_at": -120}, True, "repeat"),
        ({"reconciled_at": -10}, False, "repeat"),
        ({"due_at": -1, "lane": "sweep"}, True, "sweep"),
        ({"due_at": 3_600, "lane": "retry"}, False, "retry"),
    ],
    ids=["never looked at", "looked at long ago", "looked at just now", "due anyway", "waits after a failure"],
)
def test_a_repeat_is_looked_at_a_minute_after_the_last_look_and_hurries_no_look_that_is_due(
    engine: Engine, given: dict[str, Any], due: bool, lane: str
) -> None:
    now = dt.datetime.now(dt.UTC)
    moments = {k: now + dt.timedelta(seconds=v) if isinstance(v, int) else v for k, v in given.items()}
    customer = CustomerFactory(**moments).id
    before = one(engine, "SELECT due_at FROM cardsync.customers").due_at
    assert mark(engine, customer) is due
    row = one(engine, "SELECT lane, due_at, repeat_no, dirty_since IS NOT NULL, dirty_no FROM cardsync.customers")
    assert (row.lane, row[2:]) == (lane, (5, True, 0))
    if before is not None:
        assert row.due_at == before


def test_an_older_repeat_never_makes_the_newest_older(engine: Engine) -> None:
    customer = CustomerFactory().id
    mark(engine, customer, 9)
    mark(engine, customer, 4)
    assert one(engine, "SELECT repeat_no FROM cardsync.customers").repeat_no == 9
