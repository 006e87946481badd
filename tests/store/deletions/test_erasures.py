"""Erasures on rows: one open wish for a person, proof from lists asked for after it, and what goes in the end."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from sqlalchemy import Engine, text

from cardsync.core.idempotency import hashed_key
from cardsync.errors import Conflict
from cardsync.store.deletions import erasures, requests
from cardsync.store.deletions.erasures import Open, Requested
from cardsync.store.schema.registry import CustomerRow
from tests.factories import EventFactory, make_card
from tests.store.rows import beside, change, one, wait_until_blocked

PERSON = "cust-1"


def begin(engine: Engine, customer_id: str = PERSON) -> Requested:
    with engine.begin() as connection:
        erasures.lock_customers(connection, customer_id)
        return erasures.begin_or_join(connection, customer_id=customer_id, requested_by="test", reason="their words")


def opened(engine: Engine, erasure_id: uuid.UUID) -> Open:
    with engine.begin() as connection:
        found = erasures.lock(connection, erasure_id)
    assert found is not None
    return found


def ids(engine: Engine) -> list[int]:
    with engine.begin() as connection:
        return erasures.lock_customers(connection, PERSON)


def is_proved(engine: Engine, erasure: Open) -> bool:
    people = ids(engine)
    with engine.connect() as connection:
        return erasures.is_proved(connection, erasure, people)


def test_a_person_becomes_known_in_both_environments(engine: Engine) -> None:
    assert len(set(ids(engine))) == 2
    assert ids(engine) == ids(engine)
    assert one(engine, "SELECT array_agg(environment ORDER BY 1) FROM cardsync.customers")[0] == [
        "production",
        "sandbox",
    ]


def test_a_second_wish_joins_the_open_one_and_needs_newer_lists(engine: Engine) -> None:
    first = begin(engine)
    asked_no = opened(engine, first.erasure_id).asked_no
    assert begin(engine) == Requested(first.erasure_id, fresh=False)
    assert opened(engine, first.erasure_id).asked_no > asked_no


def test_two_wishes_at_once_are_one(engine: Engine) -> None:
    def wish(connection: Any) -> Requested:
        erasures.lock_customers(connection, PERSON)
        return erasures.begin_or_join(connection, customer_id=PERSON, requested_by="test", reason=None)

    with engine.begin() as connection:
        first = wish(connection)
        with beside(engine, wish) as second:
            wait_until_blocked(engine)
            connection.commit()
            assert second() == Requested(first.erasure_id, fresh=False)


def test_a_key_stands_for_one_wish(engine: Engine) -> None:
    erasure_id, one_hash, another = begin(engine).erasure_id, bytes(32), bytes(31) + b"1"
    with engine.begin() as connection:
        assert erasures.known_by_key(connection, "api:shop", "k", [one_hash]) is None
        erasures.keep_key(connection, "api:shop", "k", one_hash, erasure_id, requested_by="test")
        assert erasures.known_by_key(connection, "api:shop", "k", [one_hash]) == erasure_id
        with pytest.raises(Conflict):
            erasures.known_by_key(connection, "api:shop", "k", [another])
        with pytest.raises(Conflict):
            erasures.keep_key(connection, "api:shop", "k", another, erasure_id, requested_by="test")
        assert erasures.known_by_key(connection, "api:another", "k", [another]) is None
        kept = connection.execute(text("SELECT idempotency_key FROM cardsync.erasure_requests")).scalar_one()
    assert kept == hashed_key("api:shop", "k")


def test_lists_of_both_environments_prove_it_and_newer_evidence_takes_the_proof_away(engine: Engine) -> None:
    erasure = opened(engine, begin(engine).erasure_id)
    change(engine, "UPDATE cardsync.customers SET applied_no = :no", no=erasure.asked_no)
    assert not is_proved(engine, erasure)  # asked for before
    change(
        engine, "UPDATE cardsync.customers SET applied_no = :no WHERE environment = 'sandbox'", no=erasure.asked_no + 1
    )
    assert not is_proved(engine, erasure)  # in one of the two
    change(engine, "UPDATE cardsync.customers SET applied_no = :no", no=erasure.asked_no + 1)
    assert is_proved(engine, erasure)
    event = EventFactory(customer_id=PERSON).event_id
    assert not is_proved(engine, erasure)  # a hint is open
    change(engine, "DELETE FROM cardsync.events WHERE event_id = :id", id=event)
    change(
        engine,
        "UPDATE cardsync.customers SET dirty_since = now(), due_at = now(), lane = 'hint' WHERE environment = 'sandbox'",
    )
    assert not is_proved(engine, erasure)


def test_each_card_that_is_left_names_the_newest_deletion_that_is_waited_for(engine: Engine) -> None:
    erasure_id = begin(engine).erasure_id
    customer = one(engine, "SELECT id FROM cardsync.customers WHERE environment = 'sandbox'").id
    row = CustomerRow(id=customer)
    asked, plain, gone = (make_card(row).card_id for _ in range(3))
    change(
        engine,
        "UPDATE cardsync.cards SET status = 'removed', token = NULL, removed_at = now(), removed_because = 'absent'"
        " WHERE card_id = :id",
        id=gone,
    )
    with engine.begin() as connection:
        deletion = requests.request(connection, card_id=asked, requested_by="test").deletion_id
        erasures.wait_for(connection, erasure_id, deletion)
        erasures.wait_for(connection, erasure_id, deletion)
        left = {card.card_id: card.deletion_id for card in erasures.cards_left(connection, erasure_id, [customer])}
        assert erasures.deletion_ids(connection, erasure_id) == [deletion]
    assert left == {asked: deletion, plain: None}


def test_what_names_a_person_goes_and_what_is_open_or_anothers_stays(engine: Engine) -> None:
    erasure = opened(engine, begin(engine).erasure_id)
    people = ids(engine)
    row = CustomerRow(id=people[1])
    removed, active = make_card(row, name_on_card="N. N."), make_card(row, name_on_card="N. N.")
    change(
        engine,
        "UPDATE cardsync.cards SET status = 'removed', token = NULL, removed_at = now(), removed_because = 'absent'"
        " WHERE card_id = :id",
        id=removed.card_id,
    )
    failed = EventFactory(customer_id=PERSON, status="failed", session_id="s").event_id
    pending = EventFactory(customer_id=PERSON, session_id="s").event_id
    other = EventFactory(customer_id="cust-2", settled=True, session_id="s").event_id
    with engine.begin() as connection:
        erasures.forget(connection, erasure, people)
    card = "SELECT name_on_card, number, last4 FROM cardsync.cards WHERE card_id = :id"
    assert one(engine, card, id=removed.card_id) == (None, None, None)
    assert one(engine, card, id=active.card_id).name_on_card == "N. N."
    event = "SELECT status, token IS NOT NULL, session_id FROM cardsync.events WHERE event_id = :id"
    assert one(engine, event, id=failed) == ("done", False, None)
    assert one(engine, event, id=pending) == ("pending", True, "s")
    assert one(engine, event, id=other) == ("done", False, "s")


def test_an_erasure_that_is_done_is_neither_locked_picked_nor_changed(engine: Engine) -> None:
    erasure_id = begin(engine).erasure_id
    with engine.begin() as connection:
        erasures.finish(connection, erasure_id)
        erasures.note(connection, erasure_id, "failed", "late")
        assert erasures.lock(connection, erasure_id) is None
        assert erasures.pick_due(connection, limit=9) == []
        shown = erasures.show(connection, erasure_id)
    assert shown is not None
    assert (shown.status, shown.error) == ("done", None)
    assert begin(engine).fresh


def test_open_erasures_are_picked_once_in_a_while_and_a_long_error_is_cut(engine: Engine) -> None:
    first, second = begin(engine).erasure_id, begin(engine, "cust-2").erasure_id
    with engine.begin() as connection:
        assert erasures.pick_due(connection, limit=1) == [(first, PERSON)]
        assert erasures.pick_due(connection, limit=9) == [(second, "cust-2")]
        assert erasures.pick_due(connection, limit=9) == []
        erasures.note(connection, first, "failed", "x" * 5_000)
        shown = erasures.show(connection, first)
    assert shown is not None
    assert len(shown.error or "") == erasures.ERROR_MAX
