"""Hint to truth: ticket, call, believe once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import text

from cardsync import db
from cardsync.errors import (
    CredentialsRefused,
    InvalidAnswer,
    OttuFault,
    OttuRejected,
    OttuThrottled,
    OttuUnavailable,
)
from cardsync.ottu import CardList
from cardsync.store import locks
from cardsync.store.deletions import requests
from cardsync.stories.process import process
from cardsync.stories.reconcile import reconcile
from cardsync.stories.sweep import SweepPolicy, sweep
from tests.factories import CustomerFactory, make_card
from tests.stories.shop import Shop, listed
from tests.waiting import WAIT_SECONDS

T1, T2 = "9999000000000001", "9999000000000002"


def test_a_hint_makes_an_unconfirmed_card_and_the_list_makes_it_active(shop: Shop) -> None:
    (customer,) = shop.hint()
    assert shop.cards() == {T1: "unconfirmed"}
    shop.ottu.cards = listed(T1)
    assert shop.reconcile(customer).outcome == "changed"
    assert shop.cards() == {T1: "active"}
    assert shop.feed() == ["added"]
    assert shop.customer().dirty_since is None


def test_any_number_of_hints_collapse_into_one_call(shop: Shop) -> None:
    receipts = [shop.receive(session_id=f"{n:040x}") for n in range(25)]
    (customer,) = shop.process(*receipts)
    shop.ottu.cards = listed(T1)
    shop.reconcile(customer)
    assert shop.reconcile(customer).outcome == "not_due"
    assert shop.ottu.calls == 1


def test_a_hint_during_a_call_causes_exactly_one_more(shop: Shop) -> None:
    (customer,) = shop.hint()
    shop.ottu.cards = listed(T1)

    def two_more_hints() -> None:
        assert shop.hint(token=T2) == [customer]
        assert shop.hint(token=T2, session_id="f" * 40) == [customer]
        assert shop.reconcile(customer).outcome == "not_due"

    shop.ottu.meanwhile = two_more_hints
    assert shop.reconcile(customer).again
    shop.ottu.cards = listed(T1, T2)
    assert not shop.reconcile(customer).again
    assert shop.reconcile(customer).outcome == "not_due"
    assert shop.ottu.calls == 2
    assert shop.cards() == {T1: "active", T2: "active"}


def test_a_hint_that_a_later_list_has_answered_already_costs_no_call(shop: Shop) -> None:
    (customer,) = shop.hint()
    late = shop.receive(session_id="a" * 40)
    shop.ottu.cards = listed(T1)
    shop.reconcile(customer)
    assert shop.process(late) == []
    assert shop.customer().due_at is None


def test_a_task_delivered_twice_is_done_once(shop: Shop) -> None:
    receipt = shop.receive()
    assert shop.process(receipt) != []
    assert shop.process(receipt) == []
    assert shop.execute("SELECT status, token, facts FROM cardsync.events") == [("done", None, None)]


def test_two_processes_never_ask_about_one_customer_at_once(shop: Shop) -> None:
    (customer,) = shop.hint()
    inside, leave = threading.Event(), threading.Event()

    def wait_inside() -> None:
        inside.set()
        assert leave.wait(WAIT_SECONDS)

    shop.ottu.meanwhile = wait_inside
    first = threading.Thread(target=shop.reconcile, args=(customer,))
    first.start()
    assert inside.wait(WAIT_SECONDS)
    assert shop.reconcile(customer).outcome == "not_due"
    leave.set()
    first.join(WAIT_SECONDS)
    assert shop.ottu.calls == 1


def test_a_stalled_process_is_superseded_when_it_comes_back(shop: Shop) -> None:
    (customer,) = shop.hint()

    def another_takes_over() -> None:
        shop.execute("UPDATE cardsync.customers SET lease_until = clock_timestamp() - interval '1 second'")
        shop.ottu.cards = listed(T1)
        assert shop.reconcile(customer).outcome == "changed"

    shop.ottu.cards = ()
    shop.ottu.meanwhile = another_takes_over
    assert shop.reconcile(customer).outcome == "superseded"
    assert shop.cards() == {T1: "active"}


def test_a_lease_that_ran_out_is_superseded_even_if_nobody_took_over(shop: Shop) -> None:
    (customer,) = shop.hint()
    shop.ottu.meanwhile = lambda: (
        shop.execute(  # type: ignore[assignment,func-returns-value]
            "UPDATE cardsync.customers SET lease_until = clock_timestamp() - interval '1 second'"
        )
        and None
    )
    shop.ottu.cards = listed(T1)
    assert shop.reconcile(customer).outcome == "superseded"
    assert shop.cards() == {T1: "unconfirmed"}
    assert shop.reconcile(customer).outcome == "changed"


ERRORS = [
    OttuUnavailable("no answer"),
    OttuFault("503"),
    OttuThrottled("429"),
    InvalidAnswer("another customer's card"),
    CredentialsRefused("401"),
    OttuRejected("400", status_code=400),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_a_failed_call_changes_nothing_but_the_next_attempt(shop: Shop, error: Exception) -> None:
    customer = CustomerFactory(customer_id="cust-1", dirty=True).id
    make_card(CustomerFactory(), token=T2)
    shop.execute(
        "INSERT INTO cardsync.cards (customer, fingerprint, token, status, cause) "
        "VALUES (:c, decode(repeat('00', 32), 'hex'), 'tok-fake', 'active', 'hint')",
        c=customer,
    )
    before = shop.feed()
    shop.ottu.error = error
    assert shop.reconcile(customer).outcome == "failed"
    row = shop.customer()
    assert (row.failures, row.ticket_no, row.lane) == (1, None, "retry")
    assert row.last_error.startswith(type(error).__name__)
    assert row.dirty_since is not None
    assert row.due_at > row.first_seen_at
    assert shop.feed() == before
    assert shop.cards() == {"tok-fake": "active"}
    shop.open_gate()
    shop.ottu.error, shop.ottu.cards = None, listed("tok-fake")
    shop.reconcile(customer, lane="retry")
    assert shop.customer().failures == 0


@pytest.mark.parametrize(
    ("lane", "waits", "then", "shortest", "longest"),
    [
        ("retry", False, "sweep", "3 hours", "6 hours"),
        ("deletion", False, "sweep", "3 hours", "6 hours"),
        ("deletion", True, "deletion", "7 min", "15 min"),
    ],
)
def test_a_customer_that_goes_on_failing_is_backed_off_far_unless_a_deletion_waits(
    shop: Shop, lane: str, waits: bool, then: str, shortest: str, longest: str
) -> None:
    row = CustomerFactory(customer_id="cust-1", dirty=True)
    customer = row.id
    if waits:
        card_id = make_card(row, token=T2).card_id
        with shop.web.begin() as connection:
            requests.request(connection, card_id=card_id, requested_by="support")
        shop.execute("UPDATE cardsync.deletions SET phase = 'calling', called_at = clock_timestamp(), due_at = NULL")
    shop.execute("UPDATE cardsync.customers SET failures = 40, lane = :lane", lane=lane)
    shop.ottu.error = OttuRejected("400", status_code=400)
    shop.reconcile(customer, lane=lane)
    assert shop.customer().lane == then
    within = "SELECT due_at - clock_timestamp() BETWEEN cast(:a AS interval) AND cast(:b AS interval) FROM cardsync.customers"
    assert shop.execute(within, a=shortest, b=longest) == [(True,)]


def test_a_429_holds_everybody_back_for_as_long_as_ottu_asked(shop: Shop) -> None:
    (one,), (other,) = shop.hint("cust-1"), shop.hint("cust-2")
    shop.ottu.error = OttuThrottled("429", retry_after_seconds=60)
    shop.reconcile(one)
    shop.ottu.error = None
    result = shop.reconcile(other)
    assert result.outcome == "paused"
    assert shop.ottu.calls == 1
    row = shop.customer("cust-2")
    assert (row.failures, row.lane) == (0, "hint")
    assert shop.execute(
        "SELECT due_at > clock_timestamp() + interval '50 seconds' FROM cardsync.customers WHERE id = :id", id=other
    ) == [(True,)]


def test_no_call_is_made_over_the_budget(shop: Shop) -> None:
    shop.policy = replace(shop.policy, daily_calls=2)
    outcomes = [shop.reconcile(shop.hint(f"cust-{n}")[0]).outcome for n in range(4)]
    assert outcomes == ["unchanged", "unchanged", "paused", "paused"]
    assert shop.ottu.calls == 2


def test_a_card_that_the_list_no_longer_shows_is_removed_and_its_token_erased(shop: Shop) -> None:
    (customer,) = shop.hint()
    shop.ottu.cards = listed(T1)
    shop.reconcile(customer)
    shop.ottu.cards = ()
    shop.reconcile(customer, lane="sweep")
    assert shop.cards() == {"(erased)": "removed"}
    assert shop.feed() == ["added", "removed"]
    assert shop.execute("SELECT removed_because FROM registry.cards") == [("absent",)]


def test_a_card_that_comes_back_is_the_same_card_in_a_new_life(shop: Shop) -> None:
    (customer,) = shop.hint()
    for cards in (listed(T1), (), listed(T1)):
        shop.ottu.cards = cards
        shop.reconcile(customer, lane="sweep")
    assert shop.execute("SELECT life, status, token, removed_at FROM cardsync.cards") == [(2, "active", T1, None)]
    assert shop.feed() == ["added", "removed", "returned"]


@pytest.mark.usefixtures("still_clock")
def test_a_hinted_card_that_shows_late_is_asked_for_until_it_does(shop: Shop) -> None:
    (customer,) = shop.hint()
    assert shop.reconcile(customer).outcome == "unchanged"
    assert shop.customer().due_at is not None
    assert shop.reconcile(customer).outcome == "not_due"
    shop.age_hints(20)
    shop.ottu.cards = listed(T1)
    assert shop.reconcile(customer).outcome == "changed"
    assert shop.cards() == {T1: "active"}


def test_a_hint_that_the_list_contradicts_for_two_minutes_is_dropped_and_never_was_a_card(shop: Shop) -> None:
    (customer,) = shop.hint()
    for _ in range(6):
        shop.reconcile(customer)
        assert shop.cards() == {T1: "unconfirmed"}
        shop.age_hints(15)
    shop.age_hints(31)
    shop.reconcile(customer)
    assert shop.cards() == {}
    assert shop.feed() == []
    assert shop.customer().due_at is None
    assert shop.execute("SELECT sum(suspicious)::int FROM cardsync.observations") == [(1,)]


def test_a_hint_of_another_customers_card_never_creates_one(shop: Shop) -> None:
    (owner,) = shop.hint("owner")
    shop.ottu.cards = listed(T1)
    shop.reconcile(owner)
    (thief,) = shop.hint("thief")
    shop.ottu.cards = ()
    shop.age_hints(500)
    shop.reconcile(thief)
    assert shop.cards("thief") == {}
    assert shop.cards("owner") == {T1: "active"}


def test_only_real_differences_write(shop: Shop) -> None:
    (customer,) = shop.hint()
    shop.ottu.cards = listed(T1)
    shop.reconcile(customer)
    before = shop.execute("SELECT xmin::text FROM cardsync.cards")
    shop.reconcile(customer, lane="sweep")
    assert shop.execute("SELECT xmin::text FROM cardsync.cards") == before
    shop.ottu.cards = listed(T1, name_on_card="A. Shopper")
    shop.reconcile(customer, lane="sweep")
    assert shop.execute("SELECT fields FROM registry.card_changes ORDER BY seq DESC LIMIT 1") == [(["name_on_card"],)]


def test_an_agreement_follows_the_card_that_newly_claims_it(shop: Shop) -> None:
    (customer,) = shop.hint()
    steps = [
        (listed(T1, agreements=("A",)), T1),
        (listed(T1, agreements=("A",)) + listed(T2, agreements=("A",)), T2),
        (listed(T1, agreements=("A",)) + listed(T2), T1),
        (listed(T1) + listed(T2), None),
        (listed(T2, agreements=("A",)), T2),
        ((), None),
    ]
    for cards, owner in steps:
        shop.ottu.cards = cards
        shop.reconcile(customer, lane="sweep")
        linked = shop.execute("SELECT token FROM registry.agreement_cards JOIN registry.card_tokens USING (card_id)")
        assert linked == ([] if owner is None else [(owner,)])


def test_a_sweep_looks_at_the_stalest_first_and_keeps_its_pace(shop: Shop) -> None:
    # A call in 33 s: so a test that stands still for some seconds makes no second one due.
    policy = SweepPolicy(daily_calls=2_880, look_again_seconds=300, lists=True)
    fresh = CustomerFactory(reconciled_at="now").id
    old = CustomerFactory(reconciled_at="2026-01-02").id
    never = CustomerFactory().id
    assert sweep(shop.worker, policy, fraction=0.999) == ()
    shop.execute("UPDATE cardsync.gate SET swept_at = clock_timestamp() - interval '36 seconds'")
    assert sweep(shop.worker, policy, fraction=0.0) == (old,)
    shop.execute("UPDATE cardsync.gate SET swept_at = clock_timestamp() - interval '1 hour'")
    assert sweep(shop.worker, policy, fraction=0.0) == (never,)
    assert fresh


def test_two_sweeps_at_once_do_the_work_once(shop: Shop) -> None:
    customer = CustomerFactory().id
    shop.execute("UPDATE cardsync.gate SET swept_at = clock_timestamp() - interval '1.3 seconds'")
    policy = SweepPolicy(daily_calls=90_000, look_again_seconds=300, lists=True)
    with shop.engine.begin() as connection:
        assert locks.try_lock(connection, "sweep")
        assert sweep(shop.worker, policy, fraction=0.0) == ()
    assert sweep(shop.worker, policy, fraction=0.0) == (customer,)


def test_a_list_of_many_pages_renews_its_ticket_before_each_call(shop: Shop) -> None:
    (customer,) = shop.hint()
    leases = []

    class Paged:
        def list_cards(self, *_: object, deadline_seconds: float, before_call: Callable[[], None]) -> CardList:
            for _page in range(3):
                before_call()
                leases.append(shop.customer().lease_until)
            return CardList(listed(T1), calls=3)

    result = reconcile(shop.worker, Paged(), customer, shop.policy, jitter=0.5)
    assert result.outcome == "changed"
    assert leases == sorted(set(leases))


def test_a_list_whose_lease_ran_out_between_pages_asks_for_no_more(shop: Shop) -> None:
    (customer,) = shop.hint()

    class Slow:
        def list_cards(self, *_: object, deadline_seconds: float, before_call: Callable[[], None]) -> CardList:
            before_call()
            shop.execute("UPDATE cardsync.customers SET lease_until = clock_timestamp() - interval '1 second'")
            before_call()
            raise AssertionError("a second call was allowed")

    assert reconcile(shop.worker, Slow(), customer, shop.policy, jitter=0.5).outcome == "superseded"


@pytest.mark.usefixtures("still_clock")
def test_refused_credentials_hold_everybody_back_for_a_while(shop: Shop) -> None:
    (one,), (other,) = shop.hint("cust-1"), shop.hint("cust-2")
    shop.ottu.error = CredentialsRefused("401")
    shop.reconcile(one)
    assert shop.reconcile(other).outcome == "paused"
    assert shop.ottu.calls == 1


def test_a_refusal_while_other_lists_work_is_that_customers_own(shop: Shop) -> None:
    (one,), (other,), (third,) = shop.hint("cust-1"), shop.hint("cust-2"), shop.hint("cust-3")
    shop.reconcile(one)
    shop.ottu.error = CredentialsRefused("403")
    assert shop.reconcile(other).outcome == "failed"
    shop.ottu.error = None
    assert shop.reconcile(third).outcome == "unchanged"


def test_a_sweep_that_failed_stays_a_sweep_and_so_under_the_brake(shop: Shop) -> None:
    (customer,) = shop.hint()
    shop.ottu.error = OttuFault("502")
    shop.reconcile(customer, lane="sweep")
    assert shop.customer().lane == "sweep"


def test_digits_of_other_scripts_are_no_last_four_and_stop_nothing(shop: Shop) -> None:
    (customer,) = shop.hint()
    shop.ottu.cards = listed(T1, number="**** \u0661\u0662\u0663\u0664")
    assert shop.reconcile(customer).outcome == "changed"
    assert shop.execute("SELECT last4, status FROM registry.cards") == [(None, "active")]


def test_what_the_database_will_not_hold_is_a_failed_call_whose_error_quotes_no_row(shop: Shop) -> None:
    (customer,) = shop.hint()
    shop.execute("ALTER TABLE cardsync.cards ADD CONSTRAINT no_visa CHECK (brand <> 'MASTERCARD')")
    shop.ottu.cards = listed(T1, brand="MASTERCARD")
    result = shop.reconcile(customer)
    assert (result.outcome, shop.customer().failures) == ("failed", 1)
    assert shop.customer().last_error == "InvalidAnswer: the database refuses what was listed (23514)"
    assert T1 not in str(result)


def test_trouble_of_the_database_uses_up_no_attempts_of_a_hint(shop: Shop) -> None:
    receipt = shop.receive()
    address = shop.worker.url.render_as_string(hide_password=False)
    impatient = db.make_engine(address, session={"lock_timeout": "500"})
    with shop.engine.begin() as connection:
        connection.execute(text("LOCK TABLE cardsync.cards IN EXCLUSIVE MODE"))
        assert process(impatient, [receipt.event_id], shop.hints, jitter=0.5) == []
    impatient.dispose()
    assert shop.execute("SELECT status, attempts, last_error FROM cardsync.events") == [
        ("pending", 0, "OperationalError")
    ]
    assert shop.process(receipt) != []


def test_a_hint_that_cannot_be_settled_holds_up_no_other_and_still_makes_its_customer_dirty(shop: Shop) -> None:
    bad, good = shop.receive("cust-1"), shop.receive("cust-2", T2)
    shop.execute(
        "UPDATE cardsync.events SET facts = '{\"agreements\": 7}', attempts = 9 WHERE event_id = :id", id=bad.event_id
    )
    due = shop.process(bad, good)
    assert len(due) == 2
    assert shop.cards("cust-2") == {T2: "unconfirmed"}
    assert shop.execute("SELECT status, last_error FROM cardsync.events WHERE event_id = :id", id=bad.event_id) == [
        ("failed", "TypeError")
    ]
    assert shop.customer("cust-1").dirty_since is not None


def test_what_a_newer_version_noted_of_a_hint_is_passed_over(shop: Shop) -> None:
    receipt = shop.receive()
    shop.execute('UPDATE cardsync.events SET facts = facts || \'{"colour": "blue"}\'')
    assert shop.process(receipt) != []
    assert shop.cards() == {T1: "unconfirmed"}


def test_a_fresh_hint_shortens_a_long_wait_and_does_not_end_it(shop: Shop) -> None:
    shop.hint()
    shop.execute("UPDATE cardsync.customers SET failures = 9, due_at = clock_timestamp() + interval '15 minutes'")
    shop.hint(session_id="c" * 40)
    (waits,) = shop.execute(
        "SELECT extract(epoch FROM due_at - clock_timestamp())::float8 AS s FROM cardsync.customers"
    )
    assert 0 < waits.s <= 30


def test_a_list_of_pages_that_lacks_a_known_card_is_asked_for_twice(shop: Shop) -> None:
    (customer,) = shop.hint()
    shop.ottu.cards = listed(T1, T2)
    shop.reconcile(customer)
    answers = [CardList(listed(T1), calls=2), CardList(listed(T2), calls=2)]

    class Paged:
        def list_cards(self, *_: object, deadline_seconds: float, before_call: Callable[[], None]) -> CardList:
            before_call()
            return answers.pop(0)

    shop.execute("UPDATE cardsync.customers SET due_at = clock_timestamp(), lane = 'sweep'")
    assert reconcile(shop.worker, Paged(), customer, shop.policy, jitter=0.5).outcome == "unchanged"
    assert answers == []
    assert shop.cards() == {T1: "active", T2: "active"}


def test_a_hint_that_is_taken_late_has_its_own_time_while_an_earlier_one_holds_the_card(shop: Shop) -> None:
    (customer,) = shop.hint()
    shop.ottu.cards = listed(T1)
    shop.reconcile(customer)
    shop.ottu.cards = ()  # deleted in Ottu's checkout; an earlier payment is notified only now
    shop.hint(session_id="a" * 40)
    shop.reconcile(customer)
    shop.age_hints(100)
    late = shop.receive(session_id="b" * 40)  # saved again, and the list lags
    assert shop.reconcile(customer).outcome == "unchanged"
    shop.process(late)
    shop.age_hints(25)
    shop.reconcile(customer)
    assert shop.cards() == {T1: "active"}  # 125 s after the first hint, 25 s after the second


def test_a_hint_that_is_taken_late_has_its_own_time_while_the_brake_holds_the_card(shop: Shop) -> None:
    shop.policy = replace(shop.policy, brake_floor=0)
    (customer,) = shop.hint()
    shop.ottu.cards = listed(T1)
    shop.reconcile(customer)
    shop.ottu.cards = ()
    late = shop.receive(session_id="b" * 40)
    shop.reconcile(customer, lane="sweep")
    shop.process(late)
    shop.execute("UPDATE cardsync.gate SET brake_engaged_at = NULL")
    shop.reconcile(customer, lane="hint")
    assert shop.cards() == {T1: "active"}
