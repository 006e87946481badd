"""Payments to be asked about: one row a session, one ticket at a time, and bounds on what a signature may cause."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from cardsync.core.inquiry_limits import A_DAY, PAYMENTS_A_SIGNATURE
from cardsync.store import inquiries
from cardsync.store.inquiries import CARDS_AN_INQUIRY, LAST_ERROR_MAX, Ticket
from tests.factories import EventFactory
from tests.store.rows import beside, change, one, wait_until_blocked

SIGNATURE = bytes(31) + b"1"
LONG_AGO = dt.timedelta(hours=1)


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def want(engine: Engine, session_id: str, **given: Any) -> bool:
    facts: dict[str, Any] = {
        "heard_at": now() - LONG_AGO,
        "signature_hash": None,
        "vouched": False,
        "card_id": None,
        **given,
    }
    with engine.begin() as connection:
        return inquiries.want(connection, session_id, **facts)


def take(connection: Connection, session_id: str | None = None, *, lease_seconds: float = 30) -> Ticket | None:
    return inquiries.take(connection, session_id=session_id, lease_seconds=lease_seconds)


def taken(engine: Engine, session_id: str | None = None, *, lease_seconds: float = 30) -> Ticket:
    with engine.begin() as connection:
        ticket = take(connection, session_id, lease_seconds=lease_seconds)
    assert ticket is not None
    return ticket


def row(engine: Engine, session_id: str = "s") -> Any:
    return one(engine, "SELECT * FROM cardsync.inquiries WHERE session_id = :s", s=session_id)


def test_a_hint_names_a_payment_once_and_adds_its_cards_within_a_bound(engine: Engine) -> None:
    heard_at = now()
    cards = [uuid.uuid4() for _ in range(CARDS_AN_INQUIRY + 2)]
    for card in (*cards, cards[0]):
        assert want(engine, "s", heard_at=heard_at, card_id=card)
    found = row(engine)
    assert found.card_ids == cards[:CARDS_AN_INQUIRY]
    assert found.heard_at == heard_at
    assert want(engine, "s", heard_at=heard_at + LONG_AGO)
    assert row(engine).heard_at == heard_at  # when it was first named


def test_a_signature_names_few_payments_and_those_again(engine: Engine) -> None:
    names = [f"s{n}" for n in range(PAYMENTS_A_SIGNATURE)]
    assert all(want(engine, name, signature_hash=SIGNATURE) for name in names)
    assert want(engine, "one too many", signature_hash=SIGNATURE) is False
    assert want(engine, names[0], signature_hash=SIGNATURE)
    assert want(engine, "of another", signature_hash=bytes(31) + b"2")


def test_a_payment_is_as_old_as_the_first_vouched_arrival_of_its_signature(engine: Engine) -> None:
    first = now() - dt.timedelta(days=90)
    EventFactory(signature_hash=SIGNATURE, vouched=False, received_at=first - LONG_AGO)
    EventFactory(signature_hash=SIGNATURE, vouched=True, received_at=first)
    EventFactory(signature_hash=SIGNATURE, vouched=True, received_at=now())
    want(engine, "s", signature_hash=SIGNATURE, vouched=True)
    want(engine, "not vouched", signature_hash=SIGNATURE)
    assert (row(engine).signed_at, row(engine, "not vouched").signed_at) == (first, None)


def test_the_one_that_is_due_longest_is_taken_and_none_before_its_time(engine: Engine) -> None:
    want(engine, "later", heard_at=now())
    want(engine, "second", heard_at=now() - LONG_AGO)
    want(engine, "first", heard_at=now() - 2 * LONG_AGO)
    assert [taken(engine).session_id for _ in range(2)] == ["first", "second"]
    with engine.begin() as connection:
        assert take(connection) is None
        assert take(connection, "later") is None


def test_an_operators_wish_is_due_at_once_also_for_one_that_was_settled(engine: Engine) -> None:
    want(engine, "s")
    with engine.begin() as connection:
        inquiries.settle(connection, taken(engine), status="answered")
        inquiries.wish(connection, "s")
        inquiries.wish(connection, "never heard of")
    assert taken(engine, "s").asked_for == "operator"
    fresh = taken(engine, "never heard of")
    assert (fresh.asked_for, fresh.heard_at, fresh.asked_at) == ("operator", None, ())


def test_two_workers_at_once_take_two_payments_and_never_one_twice(engine: Engine) -> None:
    for name in ("a", "b"):
        want(engine, name)
    with engine.begin() as connection:
        mine = take(connection)
        with beside(engine, take) as other:
            theirs = other()
        with beside(engine, take) as third:
            assert third() is None
    assert mine is not None
    assert {mine.session_id, theirs.session_id} == {"a", "b"}


def test_two_hints_that_name_a_payment_at_once_leave_one_row_with_both_cards(engine: Engine) -> None:
    cards = [uuid.uuid4(), uuid.uuid4()]
    facts: dict[str, Any] = {"heard_at": now(), "signature_hash": None, "vouched": False}
    with engine.begin() as connection:
        inquiries.want(connection, "s", card_id=cards[0], **facts)
        with beside(engine, lambda other: inquiries.want(other, "s", card_id=cards[1], **facts)) as second:
            wait_until_blocked(engine)
            connection.commit()
            assert second() is True
    assert row(engine).card_ids == cards


def test_a_lease_that_ran_out_is_taken_over_and_the_late_answer_changes_nothing(engine: Engine) -> None:
    want(engine, "s")
    late = taken(engine, lease_seconds=0)
    fresh = taken(engine)
    assert fresh.number > late.number
    with engine.begin() as connection:
        inquiries.note_asked(connection, late)
        inquiries.put_off(connection, late, wait_seconds=9_999, error="late", counted=True)
        assert inquiries.settle(connection, late, status="unknown") is False
    untouched = row(engine)
    assert (untouched.status, untouched.failures, untouched.asked_at, untouched.last_error) == ("waiting", 0, [], None)
    with engine.begin() as connection:
        assert inquiries.settle(connection, fresh, status="answered") is True
        assert inquiries.settle(connection, fresh, status="unknown") is False  # once
    settled = row(engine)
    assert (settled.status, settled.due_at, settled.ticket_no, settled.card_ids) == ("answered", None, None, [])


def test_the_last_inquiries_of_a_day_are_remembered_and_no_more(engine: Engine) -> None:
    want(engine, "s")
    ticket = taken(engine)
    for _ in range(A_DAY + 2):
        with engine.begin() as connection:
            inquiries.note_asked(connection, ticket)
    found = row(engine)
    asked_at = found.asked_at
    assert len(asked_at) == A_DAY
    assert asked_at == sorted(asked_at)
    assert asked_at[-2] < found.last_asked_at  # by the same statement as the newest one


@pytest.mark.parametrize(("counted", "failures"), [(True, 1), (False, 0)])
def test_one_that_is_put_off_is_due_later_with_a_bounded_reason(engine: Engine, counted: bool, failures: int) -> None:
    want(engine, "s")
    with engine.begin() as connection:
        inquiries.put_off(connection, taken(engine), wait_seconds=600, error="e" * 1_000, counted=counted)
        found = inquiries.waiting(connection, "s")
        assert take(connection) is None
    assert found is not None
    assert found.seconds is not None
    assert 500 < found.seconds <= 600
    assert (row(engine).failures, len(row(engine).last_error)) == (failures, LAST_ERROR_MAX)


def test_the_pace_counts_the_last_minute_and_a_pause_is_never_made_shorter(engine: Engine) -> None:
    for name in ("a", "b"):
        want(engine, name)
        with engine.begin() as connection:
            inquiries.note_asked(connection, taken(engine, name))
    change(
        engine, "UPDATE cardsync.inquiries SET last_asked_at = last_asked_at - interval '61 s' WHERE session_id = 'a'"
    )
    with engine.begin() as connection:
        assert inquiries.recent(connection, seconds=60) == inquiries.Recent(1, 0.0)
        inquiries.pause_all(connection, seconds=300)
        inquiries.pause_all(connection, seconds=10)
        assert 250 < inquiries.recent(connection, seconds=60).paused_seconds <= 300


def test_how_a_payment_stands_is_told_and_nothing_of_one_that_is_not_wanted(engine: Engine) -> None:
    want(engine, "s")
    with engine.begin() as connection:
        assert inquiries.waiting(connection, "another") is None
        assert inquiries.waiting(connection, "s") == inquiries.Waiting("waiting", 0.0, None)
        ticket = take(connection)
        assert ticket is not None
        inquiries.settle(connection, ticket, status="unknown")
        assert inquiries.waiting(connection, "s") == inquiries.Waiting("unknown", None, None)
