"""A deletion's steps on rows: each has a guard, takes the customer's ticket, and leaves a receipt."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from sqlalchemy import Engine

from cardsync.core.deletion import GIVE_UP_SECONDS
from cardsync.errors import Superseded
from cardsync.store import customers
from cardsync.store.deletions import receipts, requests, transitions
from cardsync.store.deletions.transitions import Job
from tests.factories import RING, CustomerFactory, make_card
from tests.store.rows import beside, change, one, wait_until_blocked

TOKEN = "9999000000000001"


@pytest.fixture
def deletion_id(engine: Engine) -> uuid.UUID:
    """A deletion that was asked for."""
    return ask(engine, make_card(CustomerFactory(), token=TOKEN).card_id)


def ask(engine: Engine, card_id: uuid.UUID) -> uuid.UUID:
    with engine.begin() as connection:
        return requests.request(connection, card_id=card_id, requested_by="test").deletion_id


def begin(engine: Engine, deletion_id: uuid.UUID) -> Job | None:
    with engine.begin() as connection:
        return transitions.begin(connection, deletion_id, ring=RING, lease_seconds=15)


def begun(engine: Engine, deletion_id: uuid.UUID) -> Job:
    job = begin(engine, deletion_id)
    assert job is not None
    return job


def move(engine: Engine, deletion_id: uuid.UUID, phase: Any, event: Any, **given: Any) -> str:
    with engine.begin() as connection:
        return transitions.move(connection, deletion_id, phase, event, **given)


def row(engine: Engine) -> Any:
    return one(engine, "SELECT * FROM cardsync.deletions")


def steps(engine: Engine, deletion_id: uuid.UUID) -> list[str]:
    with engine.connect() as connection:
        return [step.step for step in receipts.steps(connection, deletion_id)]


def test_a_call_takes_the_customers_ticket_and_writes_before_it_is_made(engine: Engine, deletion_id: uuid.UUID) -> None:
    job = begun(engine, deletion_id)
    assert (job.token.reveal(), job.failures, job.ticket.lane) == (TOKEN, 1, "deletion")
    customer = one(engine, "SELECT ticket_no, dirty_no, lane, dirty_since IS NOT NULL FROM cardsync.customers")
    assert customer == (job.ticket.number, job.ticket.number, "deletion", True)
    assert (row(engine).phase, row(engine).attempts, row(engine).since_no) == ("calling", 1, job.ticket.number)
    assert steps(engine, deletion_id) == ["asked", "called"]


def test_a_deletion_whose_customer_is_being_asked_about_waits(engine: Engine, deletion_id: uuid.UUID) -> None:
    change(engine, "UPDATE cardsync.customers SET due_at = clock_timestamp(), lane = 'hint'")
    customer = one(engine, "SELECT id FROM cardsync.customers").id
    with engine.begin() as connection:
        assert customers.take_ticket(connection, customer, lease_seconds=30) is not None
    assert begin(engine, deletion_id) is None
    assert row(engine).phase == "asked"


@pytest.mark.parametrize(
    "unready",
    [
        "UPDATE cardsync.deletions SET due_at = clock_timestamp() + interval '1 min'",
        "UPDATE cardsync.cards SET status = 'active'",
        "UPDATE cardsync.deletions SET phase = 'calling', due_at = NULL, called_at = clock_timestamp()",
    ],
    ids=["due later", "its card is active again", "called already"],
)
def test_a_deletion_that_is_not_ready_is_not_called(engine: Engine, deletion_id: uuid.UUID, unready: str) -> None:
    change(engine, unready)
    assert begin(engine, deletion_id) is None
    assert one(engine, "SELECT ticket_no FROM cardsync.customers").ticket_no is None


def test_of_two_workers_at_once_one_calls(engine: Engine, deletion_id: uuid.UUID) -> None:
    with engine.begin() as connection:
        assert transitions.begin(connection, deletion_id, ring=RING, lease_seconds=15) is not None
        with beside(engine, lambda other: transitions.begin(other, deletion_id, ring=RING, lease_seconds=15)) as second:
            wait_until_blocked(engine)
            connection.commit()
            assert second() is None
    assert row(engine).attempts == 1


def test_a_deletion_moves_only_from_the_phase_that_it_is_in(engine: Engine, deletion_id: uuid.UUID) -> None:
    with pytest.raises(Superseded):
        move(engine, deletion_id, "calling", "said_gone")
    assert row(engine).phase == "asked"


def test_an_event_that_the_phase_does_not_know_writes_nothing(engine: Engine, deletion_id: uuid.UUID) -> None:
    with pytest.raises(ValueError, match="knows no event"):
        move(engine, deletion_id, "asked", "said_gone")


def test_an_end_without_success_makes_the_card_active_again_and_says_so(engine: Engine, deletion_id: uuid.UUID) -> None:
    begun(engine, deletion_id)
    assert move(engine, deletion_id, "calling", "gave_up", error="x" * 1_000) == "failed"
    assert (row(engine).due_at, len(row(engine).error)) == (None, transitions.ERROR_MAX)
    assert one(engine, "SELECT status FROM cardsync.cards").status == "active"
    assert steps(engine, deletion_id)[-1] == "failed"


def test_an_attempt_is_given_back_where_nothing_was_asked_of_ottu(engine: Engine, deletion_id: uuid.UUID) -> None:
    begun(engine, deletion_id)
    move(engine, deletion_id, "calling", "not_done", wait_seconds=60, refund=True)
    assert (row(engine).phase, row(engine).attempts, row(engine).failures) == ("asked", 0, 0)


def test_the_last_attempt_falls_on_the_24th_hour(engine: Engine, deletion_id: uuid.UUID) -> None:
    begun(engine, deletion_id)
    change(
        engine,
        "UPDATE cardsync.deletions SET tried_since = clock_timestamp() - make_interval(secs => :seconds)",
        seconds=GIVE_UP_SECONDS - 60,
    )
    move(engine, deletion_id, "calling", "not_done", wait_seconds=3_600)
    wait = one(engine, "SELECT extract(epoch FROM due_at - clock_timestamp())::float8 FROM cardsync.deletions")[0]
    assert 0 < wait <= 60


def test_a_ticket_is_handed_back_by_its_holder_alone(engine: Engine, deletion_id: uuid.UUID) -> None:
    job = begun(engine, deletion_id)
    stranger = customers.Ticket(
        job.ticket.customer, "sandbox", "x", job.ticket.number + 1, job.ticket.asked_at, "hint", 0
    )
    with engine.begin() as connection:
        transitions.hand_back(connection, stranger, answered=True)
    assert one(engine, "SELECT ticket_no FROM cardsync.customers").ticket_no == job.ticket.number
    with engine.begin() as connection:
        transitions.hand_back(connection, job.ticket, answered=True)
    assert one(engine, "SELECT ticket_no, due_at <= clock_timestamp() FROM cardsync.customers") == (None, True)


def test_a_deletion_that_is_put_off_uses_up_no_attempt(engine: Engine, deletion_id: uuid.UUID) -> None:
    with engine.begin() as connection:
        transitions.put_off(connection, deletion_id, error="CallsPaused: x", wait_seconds=60)
    assert (row(engine).attempts, row(engine).error) == (0, "CallsPaused: x")
    assert begin(engine, deletion_id) is None


def test_only_a_deletion_that_waits_for_its_call_asks_for_a_list_or_is_given_up(
    engine: Engine, deletion_id: uuid.UUID
) -> None:
    with engine.begin() as connection:
        assert transitions.ask_for_a_list(connection, deletion_id) is not None
        assert transitions.ask_for_a_list(connection, uuid.uuid4()) is None
    begun(engine, deletion_id)
    with engine.begin() as connection:
        assert transitions.ask_for_a_list(connection, deletion_id) is None
        assert transitions.give_up(connection, deletion_id, error="x") is False


def test_due_deletions_are_claimed_once_the_longest_overdue_first(engine: Engine) -> None:
    customer = CustomerFactory()
    first, second = (ask(engine, make_card(customer).card_id) for _ in range(2))
    change(engine, "UPDATE cardsync.deletions SET rung_at = NULL, due_at = clock_timestamp() - interval '1 min'")
    change(
        engine,
        "UPDATE cardsync.deletions SET due_at = due_at - interval '1 min' WHERE deletion_id = :second",
        second=second,
    )
    with engine.begin() as connection:
        assert transitions.claim(connection, limit=1) == [second]
    with engine.begin() as connection:
        assert transitions.claim(connection, limit=9) == [first]
        assert transitions.free_of_customer(connection, customer.id)
        assert set(transitions.claim(connection, limit=9)) == {first, second}
