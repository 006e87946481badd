"""Customers whose last list was odd: counted by kind, with an example, and bounded."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from cardsync.store.ops import odd_lists
from cardsync.store.ops.odd_lists import OddLists
from tests.factories import CustomerFactory, make_card


def summary(engine: Engine) -> OddLists:
    with engine.connect() as connection:
        return odd_lists.summary(connection)


def test_without_an_odd_list_there_is_nothing_to_tell(engine: Engine) -> None:
    make_card(CustomerFactory())
    assert summary(engine) == OddLists(0, {}, None)


def test_customers_are_counted_once_and_in_each_kind_the_commonest_first(engine: Engine) -> None:
    make_card(CustomerFactory())
    CustomerFactory(list_oddities=["listed_twice", "owner_case"])
    odd = CustomerFactory(list_oddities=["owner_case"])
    card = make_card(odd)
    found = summary(engine)
    assert (found.customers, list(found.by_oddity.items())) == (2, [("owner_case", 2), ("listed_twice", 1)])
    assert found.example == card.card_id


def test_customers_without_cards_give_no_example(engine: Engine) -> None:
    CustomerFactory(list_oddities=["not_a_card"])
    assert summary(engine) == OddLists(1, {"not_a_card": 1}, None)


def test_a_kind_that_a_newer_version_noted_is_counted_by_its_name(engine: Engine) -> None:
    CustomerFactory(list_oddities=["of_tomorrow"])
    assert summary(engine).by_oddity == {"of_tomorrow": 1}


def test_beyond_the_bound_it_counts_no_further(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(odd_lists, "COUNTED_MAX", 3)
    for _ in range(5):
        CustomerFactory(list_oddities=["long_token"])
    found = summary(engine)
    assert (found.customers, found.by_oddity) == (3, {"long_token": 3})


def test_what_another_transaction_notes_is_counted_after_its_commit(engine: Engine) -> None:
    customer = CustomerFactory().id
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE cardsync.customers SET list_oddities = '{incomplete}'")
        assert summary(engine).customers == 0
    assert summary(engine).customers == 1
    assert customer
