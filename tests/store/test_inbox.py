"""The inbox: an event is claimed by one process, and settled or put off only while it is pending."""

from __future__ import annotations

import secrets
import uuid
from typing import Any

from sqlalchemy import Engine, text

from cardsync.core.cards import CardFacts
from cardsync.store import inbox
from tests.factories import RING, SECRET, CustomerFactory, EventFactory, make_card
from tests.store.rows import one


def status(engine: Engine, one_id: uuid.UUID) -> str:
    found: str = one(engine, "SELECT status FROM cardsync.events WHERE event_id = :id", id=one_id).status
    return found


# Claiming and settling.


def test_an_event_that_another_process_holds_is_passed_over(engine: Engine) -> None:
    held, free = EventFactory().event_id, EventFactory().event_id
    with engine.begin() as first, engine.begin() as second:
        assert [h.event_id for h in inbox.claim(first, [held], RING)] == [held]
        assert [h.event_id for h in inbox.claim(second, [held, free], RING)] == [free]


def test_events_are_claimed_by_customer_and_then_in_the_order_of_evidence(engine: Engine) -> None:
    late = EventFactory(customer_id="b").event_id
    first, second = EventFactory(customer_id="a").event_id, EventFactory(customer_id="a").event_id
    done = EventFactory(settled=True).event_id
    with engine.begin() as connection:
        claimed = inbox.claim(connection, [late, second, first, done], RING)
        assert inbox.whose(connection, [late, second, first, done]) == [("sandbox", "a"), ("sandbox", "b")]
    assert [hint.event_id for hint in claimed] == [first, second, late]


def test_one_transaction_claims_a_bounded_number_of_events(engine: Engine) -> None:
    ids = [EventFactory().event_id for _ in range(inbox.SETTLE_AT_ONCE + 1)]
    with engine.begin() as connection:
        assert len(inbox.claim(connection, ids, RING)) == inbox.SETTLE_AT_ONCE


def test_settling_erases_the_hint_and_happens_once(engine: Engine) -> None:
    event = EventFactory().event_id
    with engine.begin() as connection:
        assert inbox.settle(connection, event, None) is True
        assert inbox.settle(connection, event, None) is False
    row = one(engine, "SELECT status, token, facts, settled_at IS NOT NULL FROM cardsync.events")
    assert row == ("done", None, None, True)


def test_facts_that_another_version_wrote_are_passed_over() -> None:
    stored = {"brand": "VISA", "agreements": ["a"], "colour": "gold"}
    assert inbox.facts_from_json(stored) == CardFacts(brand="VISA", agreements=("a",))


def test_a_removal_takes_the_open_hints_that_name_its_card_and_no_other(engine: Engine) -> None:
    customer = CustomerFactory(customer_id="cust-1")
    card, other = make_card(customer), make_card(customer)
    named = EventFactory(token=card.token).event_id
    failed = EventFactory(token=card.token, status="failed").event_id
    elsewhere = EventFactory(token=card.token, customer_id="cust-2").event_id
    untouched = EventFactory(token=other.token).event_id
    with engine.begin() as connection:
        opened = inbox.open_hints(connection, "sandbox", "cust-1", fingerprint_key=SECRET, ring=RING)
        taken = inbox.take_hints(connection, opened, {card.fingerprint: card.card_id})
    assert {hint.card_id for hint in taken} == {card.card_id}
    assert [status(engine, e) for e in (named, failed, elsewhere, untouched)] == ["done", "done", "pending", "pending"]


# Trying again.


def test_the_last_counted_attempt_makes_an_event_fail_and_others_do_not_count(engine: Engine) -> None:
    event = EventFactory(attempts=inbox.MAX_ATTEMPTS - 1).event_id

    def postpone(counted: bool) -> Any:
        with engine.begin() as connection:
            return inbox.postpone(connection, event, error="DataError", wait_seconds=60, counted=counted)

    assert [postpone(False), postpone(True), postpone(True)] == ["pending", "failed", None]
    assert one(engine, "SELECT attempts FROM cardsync.events").attempts == inbox.MAX_ATTEMPTS


def test_only_an_open_event_can_be_replayed(engine: Engine) -> None:
    failed = EventFactory(status="failed", attempts=10, last_error="x").event_id
    done = EventFactory(settled=True).event_id
    with engine.begin() as connection:
        assert [inbox.replay(connection, e) for e in (failed, done, uuid.uuid4())] == [True, False, False]
    assert status(engine, failed) == "pending"


def test_an_operators_list_is_bounded_newest_first_and_holds_no_token(engine: Engine) -> None:
    for _ in range(3):
        newest = EventFactory().event_id
    EventFactory(settled=True)
    with engine.connect() as connection:
        listed = inbox.listing(connection, inbox.Wanted(status="pending"), limit=2)
        assert inbox.show(connection, uuid.uuid4()) is None
    assert (len(listed), listed[0]["event_id"]) == (2, newest)
    assert {"token", "facts", "body_hash"}.isdisjoint(listed[0])


def test_reading_waits_for_no_writer(engine: Engine) -> None:
    event = EventFactory().event_id
    with engine.begin() as holder, engine.connect() as reader:
        holder.execute(text("SELECT 1 FROM cardsync.events FOR UPDATE"))
        assert inbox.show(reader, event) is not None


def test_an_error_of_any_length_can_be_written_down(engine: Engine) -> None:
    """Failed notifications are indexed by their error, and an index takes no row of more than some 2,700 bytes."""
    event = EventFactory().event_id
    with engine.begin() as connection:
        for _ in range(inbox.MAX_ATTEMPTS):
            inbox.postpone(connection, event, error=secrets.token_hex(4_000), wait_seconds=0.0, counted=True)
    assert status(engine, event) == "failed"
