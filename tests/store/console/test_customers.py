"""A customer for the console: by our number, with names and numbers only where they may be seen."""

from __future__ import annotations

from cardsync.store.console import customers
from tests.factories import CustomerFactory, make_card


def test_names_and_numbers_do_not_leave_the_store_unless_they_may_be_seen(engine):
    customer = CustomerFactory()
    card = make_card(customer, name_on_card="A PAYER", number="**** 4471")
    with engine.connect() as connection:
        for personal, number in ((True, "**** 4471"), (False, None)):
            found = customers.show(connection, customer.id, personal=personal)
            assert found is not None
            assert [one["number"] for one in found.cards] == [number]
            assert "token" not in found.cards[0]
        assert customers.identity_of_card(connection, card.card_id) == ("sandbox", customer.customer_id)
        assert customers.customer_id_of(connection, customer.id) == customer.customer_id


def test_a_customer_that_is_not_there_is_none(engine):
    with engine.connect() as connection:
        assert customers.show(connection, 12_345, personal=True) is None


def test_cards_beyond_the_bound_are_said_to_be_there(engine, monkeypatch):
    monkeypatch.setattr(customers, "CARDS_MAX", 2)
    customer = CustomerFactory()
    for _ in range(3):
        make_card(customer)
    with engine.connect() as connection:
        found = customers.show(connection, customer.id, personal=True)
    assert found is not None
    assert (len(found.cards), found.more_cards) == (2, True)
