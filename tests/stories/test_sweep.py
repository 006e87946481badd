"""What a believed list adds to the schedule, and which customers a sweep then chooses."""

from __future__ import annotations

import datetime as dt

from cardsync.core.change_rate import MONTH_ENDS_AFTER, NEWCOMERS
from cardsync.stories.sweep import LEAST_WAITING, SweepPolicy, sweep
from tests.factories import CustomerFactory
from tests.stories.shop import Shop, listed

T1, T2 = "9999000000000001", "9999000000000002"
# One routine call in some 27 s: a machine that stands still between the clock's shift and the tick makes no second one due.
POLICY = SweepPolicy(daily_calls=3_600, look_again_seconds=300, lists=True)
TICK_SECONDS = 30.0


def known(shop: Shop) -> int:
    """A customer with two cards that a hint named and a list has shown, a month ago."""
    shop.ottu.cards = listed(T1, T2)
    (customer,) = shop.hint(token=T1)
    shop.reconcile(customer)
    shop.execute("UPDATE cardsync.customers SET reconciled_at = reconciled_at - interval '30 days'")
    return customer


def tick(shop: Shop) -> tuple[int, ...]:
    shop.execute("UPDATE cardsync.gate SET swept_at = clock_timestamp() - make_interval(secs => :s)", s=TICK_SECONDS)
    return sweep(shop.worker, POLICY, fraction=0.0)


def work_off(shop: Shop) -> None:
    """What ticks made due is asked about."""
    shop.execute(
        "UPDATE cardsync.customers SET due_at = NULL, lane = NULL, reconciled_at = clock_timestamp()"
        " WHERE due_at IS NOT NULL"
    )


def test_a_card_that_vanished_in_silence_makes_its_customer_looked_at_more_often(shop: Shop) -> None:
    customer = known(shop)
    before = shop.customer()
    shop.ottu.cards = listed(T1)
    shop.reconcile(customer, lane="sweep")
    after = shop.customer()
    assert (before.silent_changes, after.silent_changes >= 1) == (0, True)
    assert after.cadence > before.cadence
    assert 25 < after.watched_days < 30  # a month, faded a little


def test_a_quiet_look_makes_the_next_one_less_urgent(shop: Shop) -> None:
    customer = known(shop)
    shop.execute("UPDATE cardsync.customers SET reconciled_at = reconciled_at - interval '2 years'")
    shop.reconcile(customer, lane="sweep")
    assert shop.customer().silent_changes == 0
    assert shop.customer().cadence < NEWCOMERS


def test_a_card_that_a_hint_named_is_no_silent_change(shop: Shop) -> None:
    customer = known(shop)
    new = "9999000000000003"
    shop.ottu.cards = listed(T1, T2, new)
    shop.hint(token=new, session_id="b" * 40)
    shop.reconcile(customer)
    assert shop.cards()[new] == "active"
    assert shop.customer().silent_changes == 0


def test_a_first_list_shows_what_there_is_and_not_what_changed(shop: Shop) -> None:
    customer = CustomerFactory(customer_id="cust-1").id
    shop.ottu.cards = listed(T1, T2)
    shop.reconcile(customer, lane="sweep")
    assert (shop.customer().silent_changes, shop.customer().watched_days) == (0, 0)


def test_an_expiring_card_is_looked_at_when_its_month_is_over(shop: Shop) -> None:
    customer = known(shop)
    shop.ottu.cards = listed(T1, expiry_month="12", expiry_year="48")
    shop.reconcile(customer, lane="sweep")
    assert shop.customer().look_by == dt.datetime(2048, 12, 31, tzinfo=dt.UTC) + MONTH_ENDS_AFTER


def test_a_customer_is_looked_at_before_an_agreement_is_charged_again(shop: Shop) -> None:
    shop.ottu.cards = listed(T1, agreements=("rent",))
    (customer,) = shop.hint(payment_type="auto_debit", agreement={"id": "rent"})
    shop.reconcile(customer)
    (charged,) = shop.execute("SELECT received_at FROM cardsync.events")
    assert dt.timedelta(days=27) < shop.customer().look_by - charged.received_at < dt.timedelta(days=31)
    shop.execute("UPDATE cardsync.customers SET look_by = clock_timestamp() - interval '1 second'")
    assert tick(shop) == (customer,)  # although the last look was a moment ago
    assert shop.customer().lane == "sweep"


def test_turns_go_round_from_tick_to_tick(shop: Shop) -> None:
    long_ago = "2026-01-02"
    line = [CustomerFactory(cadence=0, reconciled_at=long_ago).id for _ in range(8)]
    restless = [CustomerFactory(cadence=11, reconciled_at="2026-02-02").id for _ in range(8)]
    newcomers = [CustomerFactory().id for _ in range(8)]
    chosen = []
    for _ in range(8):
        chosen += tick(shop)
        work_off(shop)
    assert len(chosen) == 8
    assert [c in line for c in chosen] == [True, False] * 4
    assert [c for c in chosen if c in newcomers] == newcomers[:1]
    assert len([c for c in chosen if c in restless]) == 3  # its two turns, and that of nobody who is dated
    assert shop.execute("SELECT dealt FROM cardsync.schedule") == [(8,)]


def test_a_tick_without_a_call_of_its_own_deals_no_turn(shop: Shop) -> None:
    CustomerFactory(reconciled_at="2026-01-02")
    shop.execute("UPDATE cardsync.gate SET swept_at = clock_timestamp()")
    assert sweep(shop.worker, POLICY, fraction=0.0) == ()
    assert shop.execute("SELECT dealt FROM cardsync.schedule") == [(0,)]


def test_no_more_looks_are_made_due_than_are_worked_off(shop: Shop) -> None:
    for _ in range(40):
        CustomerFactory(reconciled_at="2026-01-02")
    made = [len(tick(shop)) for _ in range(12)]
    assert sum(made) == LEAST_WAITING
    assert made[LEAST_WAITING:] == [0] * (12 - LEAST_WAITING)
    work_off(shop)
    assert len(tick(shop)) == 1
