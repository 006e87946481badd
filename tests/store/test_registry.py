"""Reads through the registry's views: bounded, in order, and without a token."""

from __future__ import annotations

import datetime as dt
import uuid

import pytest
from sqlalchemy import Engine

from cardsync.store import registry
from tests.factories import CustomerFactory, make_card
from tests.store.rows import change

EVERY = ("unconfirmed", "active", "deleting", "removed")


def read(
    engine: Engine, customer_id: str, *, statuses: tuple[str, ...] = ("active",), **given: object
) -> list[uuid.UUID]:
    options = {"pg_code": None, **given}
    with engine.connect() as connection:
        found = registry.cards_of_customer(connection, "sandbox", customer_id, statuses=statuses, **options)  # type: ignore[arg-type]
    return [card.card_id for card in found]


def test_preferred_cards_come_first_and_then_the_newest(engine: Engine) -> None:
    customer = CustomerFactory()
    day = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    old, new, preferred = (make_card(customer, first_seen_at=day + dt.timedelta(days=n)).card_id for n in (1, 2, 0))
    change(engine, "UPDATE cardsync.cards SET is_preferred = true WHERE card_id = :id", id=preferred)
    assert read(engine, customer.customer_id) == [preferred, new, old]


def test_cards_are_those_of_the_customer_the_states_and_the_gateway_that_are_asked_for(engine: Engine) -> None:
    customer, other = CustomerFactory(), CustomerFactory()
    active = make_card(customer, pg_code="one").card_id
    deleting = make_card(customer, pg_code="two", status="deleting").card_id
    make_card(other)
    assert read(engine, customer.customer_id) == [active]
    assert set(read(engine, customer.customer_id, statuses=EVERY)) == {active, deleting}
    assert read(engine, customer.customer_id, statuses=EVERY, pg_code="two") == [deleting]
    assert read(engine, "unknown", statuses=EVERY) == []


def test_an_answer_is_bounded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    customer = CustomerFactory()
    for _ in range(3):
        make_card(customer)
    monkeypatch.setattr(registry, "CARDS_MAX", 2)
    assert len(read(engine, customer.customer_id)) == 2


def test_the_card_of_an_agreement_is_an_active_one(engine: Engine) -> None:
    made = make_card(CustomerFactory())
    change(engine, "INSERT INTO cardsync.agreements VALUES ('sandbox', 'a', :id, 1)", id=made.card_id)

    def found(environment: str = "sandbox") -> object:
        with engine.connect() as connection:
            card = registry.card_of_agreement(connection, environment, "a")  # type: ignore[arg-type]
        return card and card.card_id

    assert found() == made.card_id
    assert found("production") is None
    change(engine, "UPDATE cardsync.cards SET status = 'deleting'")
    assert found() is None


def test_an_unknown_card_or_customer_is_none(engine: Engine) -> None:
    with engine.connect() as connection:
        assert registry.card(connection, uuid.uuid4()) is None
        assert registry.reconciled_at(connection, "sandbox", "unknown") is None


def test_a_card_past_its_date_is_served_as_expired(engine: Engine) -> None:
    made = make_card(CustomerFactory(), expires_on=dt.date(2020, 1, 31), is_expired=False)
    with engine.connect() as connection:
        found = registry.card(connection, made.card_id)
    assert found is not None
    assert found.is_expired
