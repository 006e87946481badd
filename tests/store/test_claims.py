"""Claims go by urgency and then by age, pass over what another process has, and find the head of a line by an index alone."""

from __future__ import annotations

import datetime as dt

import pytest
from sqlalchemy import Engine, text

from cardsync.core.call_budget import LANES
from cardsync.store import claims, customers
from tests.factories import RING, CustomerFactory, EventFactory
from tests.store.rows import change, one

NOW = dt.datetime.now(dt.UTC)


def ago(seconds: float) -> dt.datetime:
    return NOW - dt.timedelta(seconds=seconds)


def due(lane: str, seconds: float = 1.0) -> int:
    made: int = CustomerFactory(lane=lane, due_at=ago(seconds)).id
    return made


def test_the_most_urgent_lane_comes_first_and_in_it_the_longest_due(engine: Engine) -> None:
    swept, read, newer, older, deleting = (
        due("sweep", 1_000),
        due("read", 10),
        due("hint", 1),
        due("hint", 2),
        due("deletion"),
    )
    CustomerFactory(lane="hint", due_at=NOW + dt.timedelta(hours=1))
    with engine.begin() as connection:
        found = [look.customer for look in claims.looks(connection, LANES, limit=9)()]
        assert found == [deleting, older, newer, read, swept]
        assert [look.customer for look in claims.looks(connection, ("sweep", "audit"), limit=9)()] == [swept]


def test_what_is_asked_about_or_held_elsewhere_is_passed_over(engine: Engine) -> None:
    asked, held, free = due("hint", 3), due("hint", 2), due("hint", 1)
    with engine.begin() as connection:
        assert customers.take_ticket(connection, asked, lease_seconds=30) is not None
    with engine.begin() as holder, engine.begin() as connection:
        holder.execute(text("SELECT 1 FROM cardsync.customers WHERE id = :id FOR UPDATE"), {"id": held})
        assert [look.customer for look in claims.looks(connection, LANES, limit=9)()] == [free]


def test_a_claimed_look_is_counted_in_its_lane_in_the_same_transaction(engine: Engine) -> None:
    wanted = [due("hint"), due("hint"), due("sweep")]
    with engine.connect() as connection:
        assert len(claims.take(connection, wanted, lease_seconds=30)()) == 3
        connection.rollback()
        assert claims.take(connection, [], lease_seconds=30)() == []
        tickets = claims.take(connection, wanted, lease_seconds=30)()
        assert claims.take(connection, wanted, lease_seconds=30)() == []
        connection.commit()
        counted = connection.execute(
            text("SELECT lane, sum(calls)::int FROM cardsync.call_minutes GROUP BY 1 ORDER BY 1")
        )
        assert list(map(tuple, counted)) == [("hint", 2), ("sweep", 1)]
    assert sorted(ticket.customer for ticket in tickets) == wanted


def test_hints_are_claimed_with_their_customers_who_are_known_from_then_on(engine: Engine) -> None:
    EventFactory(customer_id="known", due_at=ago(5))
    known = CustomerFactory(customer_id="known").id
    EventFactory(customer_id="unknown", due_at=ago(5))
    EventFactory(customer_id="later", due_at=NOW + dt.timedelta(hours=1))
    EventFactory(customer_id="settled", settled=True)
    with engine.begin() as connection:
        found = claims.hints(connection, RING)()
        assert {claimed.hint.customer_id for claimed in found} == {"known", "unknown"}
        assert known in {claimed.customer for claimed in found}
    assert one(engine, "SELECT count(*) AS n FROM cardsync.customers").n == 2


def test_a_hint_whose_customer_is_held_elsewhere_waits(engine: Engine) -> None:
    EventFactory(customer_id="held", due_at=ago(5))
    EventFactory(customer_id="free", due_at=ago(4))
    held = CustomerFactory(customer_id="held").id
    with engine.begin() as holder, engine.begin() as connection:
        holder.execute(text("SELECT 1 FROM cardsync.customers WHERE id = :id FOR UPDATE"), {"id": held})
        assert [claimed.hint.customer_id for claimed in claims.hints(connection, RING)()] == ["free"]


@pytest.mark.parametrize(
    ("statement", "index"), [(claims._LOOKS, "customers_by_lane"), (claims._PICK_FRESH, "events_fresh")]
)
def test_the_head_of_a_line_is_read_from_an_index(engine: Engine, statement: object, index: str) -> None:
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        connection.execute(text("SET LOCAL enable_sort = off"))
        plan = connection.execute(text(f"EXPLAIN {statement}"), {"lanes": ["hint"], "limit": 5}).scalars()
        assert index in "\n".join(plan)


def test_customers_that_must_not_be_called_for_wait_and_say_why(engine: Engine) -> None:
    from cardsync.errors import CallsPaused

    paused = due("hint")
    with engine.begin() as connection:
        claims.put_off(connection, [paused], CallsPaused("calls are paused: Ottu is down"), wait_seconds=60)
        claims.put_off(connection, [], CallsPaused("nobody"), wait_seconds=60)
    row = one(engine, "SELECT last_error, due_at > clock_timestamp() AS later, lane, failures FROM cardsync.customers")
    assert (row.last_error, row.later, row.lane, row.failures) == (
        "CallsPaused: calls are paused: Ottu is down",
        True,
        "hint",
        0,
    )
    change(engine, "UPDATE cardsync.customers SET due_at = clock_timestamp()")
