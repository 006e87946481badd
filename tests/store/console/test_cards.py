"""A card for the console: its evidence in three statements, without what is secret."""

from __future__ import annotations

import uuid

from sqlalchemy import event

from cardsync.store.console import cards
from cardsync.store.deletions import requests
from tests.factories import CustomerFactory, EventFactory, make_card


def test_a_card_has_its_deletions_and_history_without_a_secret(engine):
    customer = CustomerFactory()
    card = make_card(customer, name_on_card="A PAYER")
    EventFactory(customer_id=customer.customer_id, card_id=card.card_id, settled=True)
    with engine.begin() as connection:
        requests.request(connection, card_id=card.card_id, requested_by="test")
    asked = []
    event.listen(engine, "before_cursor_execute", lambda _c, _k, statement, *_: asked.append(statement))
    with engine.connect() as connection:
        found = cards.show(connection, card.card_id, personal=False)
    assert found is not None
    assert len(asked) == 3
    assert [one["status"] for one in found.deletions] == ["pending"]
    assert {one["source"] for one in found.history} == {"change", "notification"}
    assert (found.facts["number"], found.facts["name_on_card"]) == (None, None)
    assert not {"token", "fingerprint"} & set(found.facts)


def test_a_card_that_is_not_there_is_none(engine):
    with engine.connect() as connection:
        assert cards.show(connection, uuid.uuid4(), personal=True) is None
