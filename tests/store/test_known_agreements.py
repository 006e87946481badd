"""Known agreements: the newest notification wins, what is kept is bounded, and they go with their customer."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from cardsync.core.agreements import CHARGES_KEPT, Terms
from cardsync.store import known_agreements
from cardsync.store.known_agreements import Heard, Known
from tests.factories import CustomerFactory
from tests.store.rows import change, one

NOON = dt.datetime(2027, 3, 1, 12, tzinfo=dt.UTC)


@pytest.fixture
def customer() -> int:
    found: int = CustomerFactory().id
    return found


def hear(engine: Engine, customer: int, *heard: tuple[int, dict[str, Any]]) -> None:
    """Notifications of agreement A, each with its evidence number, that many hours after noon."""
    with engine.begin() as connection:
        known_agreements.hear(
            connection,
            [
                Heard(customer, "sandbox", "A", number, NOON + dt.timedelta(hours=number), Terms(**said))
                for number, said in heard
            ],
        )


def known(engine: Engine, customer: int) -> Known:
    with engine.connect() as connection:
        (found,) = known_agreements.of_customers(connection, [customer])()[customer]
    return found


def test_an_older_notification_that_is_processed_later_fills_gaps_and_overrules_nothing(
    engine: Engine, customer: int
) -> None:
    hear(engine, customer, (5, {"frequency": "weekly"}))
    hear(engine, customer, (4, {"frequency": "monthly", "type": "recurring"}))
    found = known(engine, customer)
    assert found.agreement.terms == Terms(frequency="weekly", type="recurring")
    assert found.heard_no == 5


def test_several_in_one_batch_are_one_row(engine: Engine, customer: int) -> None:
    hear(engine, customer, (2, {"frequency": "weekly", "total_cycles": 3}), (1, {"frequency": "monthly"}))
    assert known(engine, customer).agreement.terms == Terms(frequency="weekly", total_cycles=3)


def test_the_newest_charges_are_kept_once_each(engine: Engine, customer: int) -> None:
    for number in (3, 1, 9, 4, 4, 7, 8, 2):
        hear(engine, customer, (number, {}))
    kept = known(engine, customer).agreement.charges
    assert list(kept) == [NOON + dt.timedelta(hours=n) for n in (9, 8, 7, 4, 3)]
    assert len(kept) == CHARGES_KEPT


def test_a_customer_that_is_forgotten_takes_its_agreements_along(engine: Engine, customer: int) -> None:
    hear(engine, customer, (1, {}))
    change(engine, "DELETE FROM cardsync.customers WHERE id = :id", id=customer)
    assert one(engine, "SELECT count(*) AS n FROM cardsync.known_agreements").n == 0


@pytest.mark.parametrize("wrong", ["cycle_interval_days = 0", "cycle_months = 0, cycle_days = 0", "lane = 'read'"])
def test_the_database_refuses_what_is_no_agreement(engine: Engine, customer: int, wrong: str) -> None:
    hear(engine, customer, (1, {}))
    with pytest.raises(IntegrityError):
        change(engine, f"UPDATE cardsync.known_agreements SET {wrong}")
