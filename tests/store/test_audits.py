"""Drawing a customer: everybody with the same chance, whatever holes the ids have and whatever the table looks like."""

from __future__ import annotations

from collections import Counter

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError

from cardsync.store import audits, customers
from tests.factories import CustomerFactory

DRAWS_EACH = 25


def test_each_customer_has_the_same_chance(engine: Engine) -> None:
    drawn: Counter[int | None] = Counter()
    ids = _uneven(engine)
    with engine.begin() as connection:
        connection.execute(text("SELECT setseed(0.25)"))
        while drawn.total() - drawn[None] < DRAWS_EACH * len(ids):
            drawn[audits.draw(connection)] += 1
    del drawn[None]
    assert set(drawn) == set(ids)
    chi_square = sum((drawn[i] - DRAWS_EACH) ** 2 / DRAWS_EACH for i in ids)
    assert chi_square < len(ids) + 5 * (2 * len(ids)) ** 0.5  # five standard deviations


def test_a_draw_reads_a_bounded_number_of_pages_by_their_address(engine: Engine) -> None:
    with engine.begin() as connection:
        _many(connection, 20_000)
        (explained,) = connection.execute(
            text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {audits._DRAW.text}"), {"tries": audits.TRIES}
        ).scalar_one()
    scans = _nodes(explained["Plan"])
    assert [n["Node Type"] for n in scans if n.get("Relation Name") == "customers"] == ["Tid Scan"]
    (scan,) = [n for n in scans if n["Node Type"] == "Tid Scan"]
    assert scan["Shared Hit Blocks"] + scan["Shared Read Blocks"] <= 2 * audits.TRIES


def test_of_nobody_nobody_is_drawn(engine: Engine) -> None:
    with engine.begin() as connection:
        assert audits.draw(connection) is None


def test_one_draw_runs_at_a_time(engine: Engine) -> None:
    with engine.begin() as first, engine.begin() as second:
        assert audits.seconds_since_draw(first) is None  # there is nobody
        assert audits.seconds_since_draw(second) == 0


def test_whoever_is_drawn_twice_waits_for_one_verdict(engine: Engine) -> None:
    customer = CustomerFactory().id
    with engine.begin() as connection:
        assert audits.begin(connection, customer)
        assert not audits.begin(connection, customer)
        assert audits.summary(connection).waiting == 1


def test_whoever_is_due_already_keeps_its_lane(engine: Engine) -> None:
    customer = CustomerFactory(dirty=True).id
    with engine.begin() as connection:
        assert not audits.begin(connection, customer)
        ticket = customers.take_ticket(connection, customer, lease_seconds=5)
        assert ticket is not None
        assert ticket.lane == "hint"
        assert audits.summary(connection).waiting == 1


@pytest.mark.parametrize(
    "judged",
    ["1, now(), 'wrong', '{}'", "1, now(), 'right', '{held}'", "NULL, now(), 'right', '{}'"],
    ids=["wrong without a cause", "right with one", "without a list"],
)
def test_a_verdict_is_whole_and_says_why(engine: Engine, judged: str) -> None:
    customer = CustomerFactory().id
    columns = "customer, observation_no, judged_at, verdict, causes"
    with pytest.raises(IntegrityError, match="audits_"), engine.begin() as connection:
        connection.execute(text(f"INSERT INTO cardsync.audits ({columns}) VALUES ({customer}, {judged})"))


def _uneven(engine: Engine) -> list[int]:
    """Customers on full pages and on nearly empty ones, their ids with holes of a thousand between them."""
    with engine.begin() as connection:
        _many(connection, 400)
        connection.execute(text("DELETE FROM cardsync.customers WHERE id > 20 AND id % 20 > 0"))
        for _ in range(3):
            connection.execute(text("UPDATE cardsync.customers SET dirty_no = dirty_no + 1 WHERE id % 3 = 0"))
        connection.execute(text("ALTER TABLE cardsync.customers ALTER id RESTART WITH 1000000"))
        _many(connection, 3)
        return list(connection.execute(text("SELECT id FROM cardsync.customers")).scalars())


def _many(connection: Connection, count: int) -> None:
    connection.execute(
        text("""
            INSERT INTO cardsync.customers (environment, customer_id)
            SELECT 'sandbox', gen_random_uuid() FROM generate_series(1, :count)
        """),
        {"count": count},
    )


def _nodes(plan: dict) -> list[dict]:  # type: ignore[type-arg]
    return [plan, *(n for child in plan.get("Plans", []) for n in _nodes(child))]
