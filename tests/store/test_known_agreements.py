"""Known agreements: the newest notification wins, what is kept is bounded, and they go with their customer."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError

from cardsync.core.agreements import CHARGES_KEPT, FREQUENCIES, Agreement, Terms, cycle, is_over, next_charge
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


# Days before or after today, mostly few, so that terms, charges and today meet; the terms' own bounds too.
DAYS = st.integers(-70, 70)
CYCLES = st.none() | st.integers(1, 12) | st.just(100_000)
INTERVAL = st.none() | st.sampled_from([1, 7, 10, 30]) | st.just(3_660)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.sampled_from([*FREQUENCIES, None]),
    INTERVAL,
    CYCLES,
    st.none() | DAYS | st.just(2_000_000),
    st.none() | DAYS,
    st.lists(st.integers(1, 70), max_size=3, unique=True),
    st.none() | DAYS,
    st.integers(0, 40),
)
@example(None, 7, 2, -16, None, [9], None, 8)  # the second week ended a day and more ago
@example(None, 7, 2, -15, None, [8], None, 8)
@example(None, 7, 2, -15, None, [8], 3, 0)  # billing told of a later charge all the same
@example(None, 7, None, -15, -1, [8], 3, 0)
@example(None, 7, 1, -20, None, [6], None, 0)  # it was over when it was heard of
@example(None, 3_660, 100_000, 2_000_000, None, [1], None, 0)
@example("yearly", None, 100_000, 2_000_000, None, [1], None, 0)
def test_the_views_expect_the_charges_that_core_expects_and_show_no_agreement_at_risk_that_is_over(
    engine: Engine,
    frequency: str | None,
    interval: int | None,
    cycles: int | None,
    starts: int | None,
    ends: int | None,
    charged: list[int],
    told: int | None,
    written: int,
) -> None:
    with engine.connect() as connection:
        now: dt.datetime = connection.execute(text("SELECT now()")).scalar_one()
        today = now.date()

        def day(number: int | None) -> dt.date | None:
            last = dt.date(9999, 12, 28) - today
            return None if number is None else today + min(dt.timedelta(days=number), last)

        terms = Terms(
            frequency=frequency,
            cycle_interval_days=interval,
            total_cycles=cycles,
            starts_on=day(starts),
            expires_on=day(ends),
        )
        moments = sorted((now - dt.timedelta(days=n, minutes=5) for n in charged), reverse=True)
        told_at = None if told is None else now + dt.timedelta(days=told, hours=1)
        agreement = Agreement(terms, tuple(moments), told_at)
        _assume_that_the_row_tells_all(agreement, today)
        # What is heard is written at once, so that no charge is newer than that.
        _write(connection, agreement, written_at=now - dt.timedelta(days=min([written, *charged])))
        shown = connection.execute(text("SELECT next_charge_at FROM registry.agreements")).scalar_one()
        at_risk = connection.execute(text("SELECT count(*) FROM registry.agreements_at_risk")).scalar_one() == 1
    assert shown == next_charge(agreement, after=now - dt.timedelta(microseconds=1))
    is_told = told_at is not None and told_at > now
    assert at_risk is (is_told or not is_over(terms, cycle(agreement), now))


def _assume_that_the_row_tells_all(agreement: Agreement, today: dt.date) -> None:
    """A row has one moment to count from until a look writes it again; and the merchant's last day is over at another hour."""
    start = agreement.terms.starts_on
    told, step = agreement.told_next_at, cycle(agreement)
    assume(told is None or start is None or start <= told.date())
    from_ = [moment.day for moment in (*agreement.charges, told) if moment is not None] + [start.day if start else 1]
    assume(step is None or step.months == 0 or max(from_) <= 28)
    ends = agreement.terms.expires_on
    assume(ends is None or abs((ends - today).days) > 1 or (told is not None and told.date() > today))


def _write(connection: Connection, agreement: Agreement, *, written_at: dt.datetime) -> None:
    terms = agreement.terms
    connection.execute(
        text("""
            WITH owner AS (
                INSERT INTO cardsync.customers (environment, customer_id) VALUES ('sandbox', 'of a calendar') RETURNING id
            )
            INSERT INTO cardsync.known_agreements (environment, agreement_id, customer, frequency, cycle_interval_days,
                total_cycles, starts_on, expires_on, charges, told_next_at, without_card_since)
            SELECT 'sandbox', 'A', id, :frequency, :days, :cycles, :starts, :ends, :charges, :told, now() FROM owner
        """),
        {
            "frequency": terms.frequency,
            "days": terms.cycle_interval_days,
            "cycles": terms.total_cycles,
            "starts": terms.starts_on,
            "ends": terms.expires_on,
            "charges": list(agreement.charges),
            "told": agreement.told_next_at,
        },
    )
    row = Known("sandbox", "A", agreement, None, None, has_card=False, heard_no=0, answered_no=0)
    known_agreements.expect(connection, [row], now=written_at)
