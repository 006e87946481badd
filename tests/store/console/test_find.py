"""Finding is exact, and by indexes: what almost matches is not found."""

from __future__ import annotations

import uuid

import pytest

from cardsync.store.console import find
from tests.factories import CustomerFactory, EventFactory, make_card


@pytest.mark.parametrize("said", ["CUST-1", "cust-1 ", "cust", "%", "cust-10"])
def test_what_almost_matches_is_not_found(engine, said):
    CustomerFactory(customer_id="cust-1")
    with engine.connect() as connection:
        assert [f.kind for f in find.find(connection, "cust-1")] == ["customer"]
        assert find.find(connection, said) == []


def test_a_session_of_many_notifications_shows_the_newest(engine):
    events = [EventFactory(session_id="session-1", settled=True) for _ in range(find.FOUND_MAX + 5)]
    with engine.connect() as connection:
        found = find.find(connection, "session-1")
    assert {f.ref for f in found} == {str(e.event_id) for e in events[5:]}


def test_an_id_of_ours_is_found_in_any_spelling(engine):
    card = make_card(CustomerFactory())
    with engine.connect() as connection:
        for said in (str(card.card_id), str(card.card_id).upper(), card.card_id.hex):
            assert [(f.kind, f.ref) for f in find.find(connection, said)] == [("card", str(card.card_id))]
        assert find.find(connection, str(uuid.uuid4())) == []
