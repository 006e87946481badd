"""Whose trouble it is, over a day: what one customer that Ottu refuses costs, and that its trouble is no other customer's.

On a real PostgreSQL, over the stand-in's world; time passes by shifting what is stored.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import structlog
import structlog.testing
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from cardsync.core.circuit_breaker import ODD_CUSTOMERS_IN_A_ROW
from cardsync.core.deletion import GIVE_UP_SECONDS
from cardsync.core.trouble import PATIENT_FAILURES
from cardsync.errors import CredentialsRefused, InvalidAnswer, OttuRejected, OttuUnavailable, UnreadableAnswer
from cardsync.store import inbox
from cardsync.store.calls import failures
from cardsync.stories import apply_queue, erase, process, reconcile
from cardsync.stories import delete as deleting
from cardsync.stories.erase import Wish
from tests.stories.fake_ottu import DeletingShop, Fault
from tests.stories.shop import POLICY
from tests.stories.test_gate import OTHERS, due, state

pytestmark = pytest.mark.usefixtures("still_clock")  # a busy machine may need longer than waits of two seconds

T1 = "9999000000000001"
HOUR = 3_600.0
DAY = 24 * HOUR
# The back-off doubles from 2 s to six hours: thirteen tries to come there, and then four to eight a day.
MOST_LISTS_A_DAY = 25


@pytest.fixture
def shop(engine: Engine, ingest_engine: Engine, web_engine: Engine, worker_engine: Engine) -> DeletingShop:
    return DeletingShop(engine, ingest_engine, web_engine, worker_engine)


def refused() -> CredentialsRefused:
    return CredentialsRefused("Ottu refuses our credentials: 403", status_code=403)


def another_works(shop: DeletingShop) -> None:
    """A list of another customer's is believed now."""
    shop.stock("9999000000000009", customer_id="well")


@contextmanager
def logged(level: str) -> Iterator[list[str]]:
    """The events that are logged at a level meanwhile."""
    found: list[str] = []
    with structlog.testing.capture_logs() as lines:
        yield found
    found += [line["event"] for line in lines if line["log_level"] == level]


# One customer.


@pytest.mark.parametrize(
    "error",
    [refused, lambda: InvalidAnswer("another customer's card"), lambda: OttuRejected("422", status_code=422)],
    ids=["403", "odd", "422"],
)
def test_a_customer_that_ottu_refuses_alone_costs_some_calls_a_day_and_leaves_the_urgent_lanes(
    shop: DeletingShop, error: Callable[[], Exception]
) -> None:
    another_works(shop)
    due(shop, "cust-1")
    shop.desk.always["list"] = error
    before = shop.desk.lists
    with logged("warning") as warnings:
        shop.work_for(DAY, step=600)
    assert 10 < shop.desk.lists - before <= MOST_LISTS_A_DAY
    row = shop.customer()
    assert (row.lane, row.dirty_since is not None) == ("sweep", True)
    assert row.last_error.startswith(type(error()).__name__)
    assert state(shop.engine).reason is None
    assert warnings.count("customer_in_trouble") == 1
    shop.desk.always.clear()
    with logged("warning") as warnings:
        shop.work_for(7 * HOUR, step=HOUR)
    assert (shop.customer().failures, shop.customer().due_at) == (0, None)
    assert warnings.count("customer_answers_again") == 1


def test_a_customer_that_was_refused_alone_is_no_witness_of_our_credentials(shop: DeletingShop) -> None:
    another_works(shop)
    (customer,) = due(shop, "cust-1")
    shop.desk.always["list"] = refused
    assert shop.look(customer).outcome == "failed"
    shop.later(HOUR)  # no list has worked for long
    assert shop.look(customer).outcome == "failed"
    assert state(shop.engine).reason is None
    (other,) = due(shop, "cust-2")
    assert shop.look(other).outcome == "failed"
    assert state(shop.engine).reason == "credentials"


def test_a_fresh_hint_during_the_failing_call_is_not_held_up_for_hours(shop: DeletingShop) -> None:
    (customer,) = due(shop, "cust-1")
    shop.execute("UPDATE cardsync.customers SET failures = 20")
    shop.desk.faults["list"].append(Fault(InvalidAnswer("odd")))
    shop.desk.before["list"] = lambda: shop.hint("cust-1", "9999000000000003", session_id="f" * 40) and None
    assert shop.look(customer).outcome == "failed"
    shop.later(31)
    assert shop.look(customer).outcome == "unchanged"


def test_a_deletion_of_a_customer_whose_lists_and_deletions_are_refused_ends_after_24_hours_of_tries(
    shop: DeletingShop,
) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    shop.desk.always["list"] = refused
    shop.desk.faults["delete"].extend([403] * 1_000)
    before = shop.desk.lists
    shop.work_for(GIVE_UP_SECONDS + HOUR, step=300)
    shown = shop.show(deletion)
    assert (shown.status, shop.card(T1).status) == ("failed", "active")  # Ottu certainly did nothing
    assert 50 < shown.attempts == len(shop.desk.statuses) <= 150
    assert shop.desk.lists - before <= 250
    calls = (len(shop.desk.statuses), shop.desk.lists)
    shop.work_for(DAY, step=HOUR)
    assert len(shop.desk.statuses) == calls[0]
    assert shop.desk.lists - calls[1] <= 8
    assert shop.customer().lane == "sweep"


def test_a_deletion_that_was_refused_with_its_list_is_no_locked_card_once_both_work(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    shop.desk.always["list"] = refused
    shop.desk.faults["delete"].append(403)
    shop.work()
    assert shop.show(deletion).status == "pending"
    assert shop.steps(deletion) == ["asked", "called", "answered", "unlisted"]
    shop.desk.always.clear()
    shop.work_for(60)
    assert shop.show(deletion).status == "done"


def test_an_erasure_whose_lists_are_never_believable_names_its_error_and_costs_some_calls_a_day(
    shop: DeletingShop,
) -> None:
    begun = erase.begin(shop.web, Wish("cust-1", "support"))
    shop.desk.always["list"] = lambda: InvalidAnswer("the answer is not a list of cards")
    shop.work_for(DAY, step=600)
    assert shop.desk.lists <= 2 * MOST_LISTS_A_DAY  # in both environments
    advance(shop)
    status, error = shop.execute("SELECT status, error FROM cardsync.erasures")[0]
    assert status == "pending"
    assert "no list in sandbox: InvalidAnswer: the answer is not a list of cards" in error
    shop.execute("UPDATE cardsync.erasures SET requested_at = requested_at - interval '25 hours'")
    advance(shop)
    assert shop.execute("SELECT status FROM cardsync.erasures") == [("failed",)]
    shop.desk.always.clear()
    shop.work_for(7 * HOUR, step=HOUR)
    advance(shop)
    assert shop.execute("SELECT erasure_id, status, error FROM cardsync.erasures") == [(begun.erasure_id, "done", None)]


def advance(shop: DeletingShop) -> list[uuid.UUID]:
    shop.execute("UPDATE cardsync.erasures SET due_at = clock_timestamp() WHERE due_at IS NOT NULL")
    return erase.advance(shop.worker, 10)


# Everybody.


def fail_in_a_row(shop: DeletingShop, number: int, error: Callable[[], Exception], *, name: str = "row") -> None:
    shop.desk.always["list"] = error
    for customer in due(shop, *(f"{name}-{n}" for n in range(number))):
        shop.look(customer)
    shop.desk.always.clear()


def test_odd_lists_of_some_customers_in_a_row_stop_no_other(shop: DeletingShop) -> None:
    fail_in_a_row(shop, ODD_CUSTOMERS_IN_A_ROW - 1, lambda: InvalidAnswer("another customer's card"))
    assert state(shop.engine).reason is None
    (good,) = due(shop, "good")
    assert shop.look(good).outcome == "unchanged"
    fail_in_a_row(shop, ODD_CUSTOMERS_IN_A_ROW - 1, lambda: InvalidAnswer("another customer's card"), name="next")
    assert state(shop.engine).reason is None


def test_an_ottu_whose_lists_are_odd_for_everybody_is_down_and_all_are_back_soon_after(shop: DeletingShop) -> None:
    with logged("error") as errors:
        fail_in_a_row(shop, ODD_CUSTOMERS_IN_A_ROW + 5, lambda: InvalidAnswer("the answer is not a list of cards"))
    assert errors == ["calls_stopped"]
    assert state(shop.engine).reason == "down"
    with logged("warning") as warnings:
        shop.work_for(60, step=5)
    assert warnings.count("calls_go_on") == 1
    assert state(shop.engine).reason is None


@pytest.mark.parametrize("error", [lambda: UnreadableAnswer("HTML"), lambda: OttuUnavailable("no answer")])
def test_what_is_no_whole_answer_in_json_is_ottus_own_trouble(
    shop: DeletingShop, error: Callable[[], Exception]
) -> None:
    fail_in_a_row(shop, 3, error)
    assert state(shop.engine).reason == "down"


# Bells.


def test_no_more_is_claimed_than_each_lane_has_left(shop: DeletingShop) -> None:
    due(shop, *(f"hint-{n}" for n in range(12)))
    shop.execute("""
        INSERT INTO cardsync.customers (environment, customer_id, due_at, lane)
        SELECT 'sandbox', lane || n, clock_timestamp(), lane
        FROM generate_series(1, 12) AS n, unnest(ARRAY['deletion', 'sweep']) AS lane
    """)
    # Of 100 calls 10 are no routine look's, and 2 are the reserve of deletions.
    spend(shop, 93)
    few = replace(shop.policy, daily_calls=100)
    assert Counter(one.ticket.lane for one in shop.claim("sweep", "hint", policy=few)) == {"hint": 5}
    assert Counter(one.ticket.lane for one in shop.claim("deletion", policy=few)) == {"deletion": 2}
    assert shop.claim(policy=few) == []


def spend(shop: DeletingShop, calls: int) -> None:
    shop.execute(
        """INSERT INTO cardsync.call_minutes AS m VALUES (date_trunc('minute', clock_timestamp()), 'hint', :calls)
           ON CONFLICT (minute, lane) DO UPDATE SET calls = m.calls + :calls""",
        calls=calls,
    )


def test_customers_that_the_budget_sent_away_come_back_spread_out(shop: DeletingShop) -> None:
    spend(shop, 1_000)
    customers = due(shop, *OTHERS)
    for number, customer in enumerate(customers):
        jitter = number / len(customers)
        assert reconcile.reconcile(shop.worker, shop.desk, customer, POLICY, jitter=jitter).outcome == "paused"
    (spread,) = shop.execute(
        "SELECT extract(epoch FROM max(due_at) - min(due_at))::float8 AS s FROM cardsync.customers"
    )
    assert spread.s > 60


# What nobody foresaw.


class Unforeseen(Exception):
    """Of a library's, say; its text may hold a secret."""


def test_an_unforeseen_error_of_a_list_backs_off_and_is_noted_by_its_class(shop: DeletingShop) -> None:
    another_works(shop)
    (customer,) = due(shop, "cust-1")
    shop.desk.always["list"] = lambda: Unforeseen(T1)
    with logged("error") as errors:
        shop.work_for(DAY, step=600)
    assert shop.customer().last_error == "Unforeseen"
    assert PATIENT_FAILURES < shop.customer().failures <= MOST_LISTS_A_DAY
    assert set(errors) == {"unforeseen_after_a_call"}
    assert shop.execute("SELECT DISTINCT outcome FROM cardsync.observations WHERE customer = :c", c=customer) == [
        ("Unforeseen",)
    ]
    assert state(shop.engine).reason is None


def test_an_answer_that_cannot_be_applied_backs_off_too(shop: DeletingShop, monkeypatch: pytest.MonkeyPatch) -> None:
    (customer,) = due(shop, "cust-1")
    before = shop.desk.lists

    def apply_list(*_: object, **__: object) -> None:
        raise OperationalError(T1, {}, Exception(T1))

    monkeypatch.setattr(apply_queue, "apply_list", apply_list)
    monkeypatch.setattr(apply_queue, "apply_together", apply_list)
    shop.work_for(120)
    assert shop.desk.lists - before <= 8
    row = shop.customer()
    assert (row.last_error, row.ticket_no, row.failures) == ("OperationalError", None, shop.desk.lists - before)
    monkeypatch.undo()
    shop.work_for(130, step=10)
    assert (shop.customer().failures, customer) == (0, shop.customer().id)


@pytest.mark.parametrize("after", [True, False])
def test_an_unforeseen_error_of_a_deletions_call_is_settled_by_a_list(shop: DeletingShop, after: bool) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    shop.desk.faults["delete"].append(Fault(Unforeseen(T1), after=after))
    assert shop.delete(deletion).outcome == "no_answer"
    assert shop.show(deletion).error == "Unforeseen"
    shop.work_for(60)
    assert shop.show(deletion).status == "done"
    assert shop.desk.deleted == 1


def test_an_answer_to_a_deletion_that_cannot_be_written_down_is_one_that_never_came(
    shop: DeletingShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    record, failures = deleting._record, [Unforeseen(T1)]

    def fail_once(*arguments: object, **named: object) -> None:
        if failures:
            raise failures.pop()
        record(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(deleting, "_record", fail_once)
    assert shop.delete(deletion).outcome == "no_answer"
    assert (shop.show(deletion).status, shop.show(deletion).error) == ("in_progress", "Unforeseen")
    shop.work_for(60)
    assert (shop.show(deletion).status, shop.desk.statuses) == ("done", [204])


def test_a_failed_event_that_is_reopened_while_others_are_settled_is_left_to_its_own_bell(
    shop: DeletingShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two connections: one settles, the other reopens between its two statements."""
    one, other = shop.receive("cust-1"), shop.receive("cust-2", session_id="2" * 40)
    shop.execute("UPDATE cardsync.events SET status = 'failed', attempts = 10 WHERE event_id = :id", id=other.event_id)
    claim = inbox.claim

    def reopen_and_claim(*arguments: object) -> list[inbox.PendingHint]:
        shop.execute(
            "UPDATE cardsync.events SET status = 'pending', attempts = 0 WHERE event_id = :id", id=other.event_id
        )
        return claim(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(inbox, "claim", reopen_and_claim)
    with logged("warning") as warnings:
        due_now = process.process(shop.worker, [one.event_id, other.event_id], shop.hints, jitter=0.5)
    assert due_now == [shop.customer("cust-1").id]
    assert warnings == []
    assert shop.execute("SELECT status FROM cardsync.events ORDER BY customer_id") == [("done",), ("pending",)]
    monkeypatch.undo()
    assert len(shop.process(other)) == 1


def test_the_gate_is_told_by_one_way_alone(shop: DeletingShop) -> None:
    with shop.engine.begin() as connection:
        ended = failures.told(connection, UnreadableAnswer("HTML"), call="list", who=1)
    assert (ended.trouble.scope, ended.turn) == ("everybody", None)


def test_a_key_that_is_revoked_stops_calls_at_the_third_customer_though_lists_worked_a_moment_ago(
    shop: DeletingShop,
) -> None:
    another_works(shop)
    shop.later(1)
    customers, before = due(shop, *OTHERS), shop.desk.lists
    shop.desk.always["list"] = refused
    with structlog.testing.capture_logs() as lines:
        for customer in customers:
            shop.look(customer)
    assert state(shop.engine).reason == "credentials"
    assert shop.desk.lists - before == 3
    told = [line for line in lines if line["log_level"] in ("warning", "error")]
    assert [line["event"] for line in told] == ["calls_stopped"]


def test_two_refused_customers_and_a_list_that_works_between_them_stop_nothing(shop: DeletingShop) -> None:
    for customer_id in OTHERS:
        another_works(shop)
        (customer,) = due(shop, customer_id)
        shop.desk.faults["list"].append(Fault(refused()))
        assert shop.look(customer).outcome == "failed"
    assert state(shop.engine).reason is None
