"""Explaining a card: all evidence about it, bounded, newest first, and never a token."""

from __future__ import annotations

import uuid

from sqlalchemy import Engine

from cardsync.store.ops import explain
from tests.factories import RING, CustomerFactory, EventFactory, fingerprint_with, make_card
from tests.store.rows import change

TOKEN = "9999000000000001"


def of_card(engine: Engine, card_id: uuid.UUID) -> explain.History | None:
    with engine.connect() as connection:
        return explain.of_card(connection, card_id, RING)


def test_a_cards_evidence_is_gathered_and_holds_no_token(engine: Engine) -> None:
    fingerprint_with(engine)
    customer = CustomerFactory(customer_id="cust-1")
    card = make_card(customer, token=TOKEN)
    named, settled = EventFactory(token=TOKEN).event_id, EventFactory(settled=True, card_id=card.card_id).event_id
    EventFactory()  # another card's
    EventFactory(token=TOKEN, customer_id="cust-2")  # another customer's
    change(
        engine,
        "INSERT INTO cardsync.observations (observation_no, customer, lane, asked_at, outcome)"
        " VALUES (1, :customer, 'hint', now(), 'changed')",
        customer=customer.id,
    )
    found = of_card(engine, card.card_id)
    assert found is not None
    assert found.card is not None
    assert found.customer is not None
    assert (found.card["status"], found.card["lives"]) == ("active", 1)
    assert [change["change"] for change in found.changes] == ["added"]
    assert {hint["event_id"] for hint in found.hints} == {named, settled}
    assert [o["observation_no"] for o in found.observations] == [1]
    assert TOKEN not in repr(found)
    assert "fingerprint" not in found.card


def test_the_newest_evidence_of_each_kind_is_shown(engine: Engine) -> None:
    card = make_card(CustomerFactory(customer_id="cust-1"))
    ids = [EventFactory(settled=True, card_id=card.card_id).event_id for _ in range(explain.NEWEST + 2)]
    found = of_card(engine, card.card_id)
    assert found is not None
    assert [hint["event_id"] for hint in found.hints] == ids[:1:-1]


def test_a_card_that_was_dropped_is_known_by_its_hints_alone(engine: Engine) -> None:
    card_id = uuid.uuid4()
    EventFactory(settled=True, card_id=card_id)
    found = of_card(engine, card_id)
    assert found is not None
    assert (found.card, found.customer, len(found.hints)) == (None, None, 1)


def test_a_card_without_any_evidence_is_unknown(engine: Engine) -> None:
    assert of_card(engine, uuid.uuid4()) is None
