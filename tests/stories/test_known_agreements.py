"""Agreements as notifications and lists make them known: their calendar, and the looks before their charges."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from cardsync import db
from cardsync.core.change_rate import BEFORE_A_CHARGE
from cardsync.store import agreement_asks
from cardsync.stories.note_charge import note_charge
from tests import payloads
from tests.stories.shop import KEYS, Shop, listed, receive

TOKEN = "9999000000000001"


def first_payment(
    shop: Shop, agreement_id: str = "A", *, n: int = 1, outcome: dict[str, Any] | None = None, **said: Any
) -> list[int]:
    """The customer-present payment of an agreement is notified and processed; ``outcome``: its result and state."""
    agreement = {"id": agreement_id, **said}
    more = {"order_no": f"order-{n}", "session_id": f"{n:040x}", **(outcome or {})}
    return shop.process(receive(shop.ingest, payloads.signed(payloads.auto_debit(agreement=agreement, **more)), KEYS))


def shown(shop: Shop, agreement_id: str = "A") -> Any:
    (row,) = shop.execute("SELECT * FROM registry.agreements WHERE agreement_id = :id", id=agreement_id)
    return row


def test_what_the_first_payment_says_of_an_agreement_is_shown_with_its_card(shop: Shop) -> None:
    shop.ottu.cards = listed(TOKEN, agreements=("A",))
    today = dt.datetime.now(dt.UTC).date()
    (customer,) = first_payment(
        shop,
        type="recurring",
        frequency="weekly",
        cycle_interval_days=10,
        total_cycles=12,
        start_date=f"{today:%d/%m/%Y}",
        expiry_date="31/12/2098",
    )
    assert shown(shop).card_id is None
    shop.reconcile(customer)
    row = shown(shop)
    (card,) = shop.execute("SELECT card_id FROM registry.active_cards")
    assert (row.card_id, row.type, row.frequency, row.cycle_interval_days) == (card.card_id, "recurring", "weekly", 10)
    assert (row.total_cycles, row.starts_on, row.expires_on) == (12, today, dt.date(2098, 12, 31))
    (event,) = shop.execute("SELECT received_at FROM cardsync.events")
    assert row.next_charge_at == event.received_at + dt.timedelta(days=10)
    assert shop.customer().look_by == row.next_charge_at - BEFORE_A_CHARGE


def test_the_look_before_a_charge_that_is_not_told_leads_to_the_look_before_the_next_one(shop: Shop) -> None:
    shop.ottu.cards = listed(TOKEN, agreements=("A",))
    (customer,) = first_payment(shop, cycle_interval_days=10)
    shop.reconcile(customer)
    (before,) = shop.execute("SELECT charges[1] AS charged_at FROM cardsync.known_agreements")
    back = dt.timedelta(days=9, hours=13)  # the charge is eleven hours away now, and the look before it is due
    shop.execute(
        "UPDATE cardsync.known_agreements SET charges = ARRAY[charges[1] - cast(:back AS interval)]", back=back
    )
    shop.execute("UPDATE cardsync.customers SET look_by = look_by - cast(:back AS interval)", back=back)
    shop.reconcile(customer, lane="sweep")
    assert shop.customer().look_by == before.charged_at - back + dt.timedelta(days=20) - BEFORE_A_CHARGE
    assert shown(shop).next_charge_at == before.charged_at - back + dt.timedelta(days=10)


def test_a_charge_that_was_expected_is_shown_at_the_next_cycle_also_without_a_look(shop: Shop) -> None:
    shop.ottu.cards = listed(TOKEN, agreements=("A",))
    (customer,) = first_payment(shop, cycle_interval_days=10)
    shop.reconcile(customer)
    before = shown(shop).next_charge_at
    shop.execute("UPDATE cardsync.known_agreements SET expected_at = expected_at - interval '35 days'")
    assert shown(shop).next_charge_at == before - dt.timedelta(days=35) + dt.timedelta(days=30)
    shop.execute("UPDATE cardsync.known_agreements SET expires_on = current_date - 1")
    assert shown(shop).next_charge_at is None


def test_a_cycle_that_changes_before_a_charge_that_was_told_counts_from_that_charge(shop: Shop) -> None:
    shop.ottu.cards = listed(TOKEN, agreements=("A",))
    first_payment(shop, n=1, cycle_interval_days=1)
    told = shop.execute("SELECT clock_timestamp() + interval '9 days' AS at")[0].at
    with shop.web.begin() as connection:
        note_charge(
            connection, "sandbox", "A", charged_at=None, next_charge_at=told, lists=True, now=db.moment(connection)
        )
    first_payment(shop, n=2, cycle_interval_days=7)
    assert shown(shop).next_charge_at == told
    shop.execute("UPDATE cardsync.known_agreements SET expected_at = expected_at - interval '10 days'")  # it is over
    assert shown(shop).next_charge_at == told - dt.timedelta(days=10) + dt.timedelta(days=7)


def test_of_two_notifications_the_newer_says_what_it_says_and_the_older_the_rest(shop: Shop) -> None:
    first_payment(shop, n=1, type="recurring", frequency="monthly")
    first_payment(shop, n=2, frequency="yearly", total_cycles=3)
    row = shown(shop)
    assert (row.type, row.frequency, row.total_cycles) == ("recurring", "yearly", 3)


def test_an_agreement_that_no_list_shows_is_at_risk_after_a_while(shop: Shop) -> None:
    shop.ottu.cards = listed(TOKEN)
    (customer,) = first_payment(shop)
    shop.reconcile(customer)
    risks = "SELECT agreement_id, reason FROM registry.agreements_at_risk"
    assert shop.execute(risks) == []
    shop.execute(
        "UPDATE cardsync.known_agreements SET without_card_since = without_card_since - interval '121 seconds'"
    )
    assert [tuple(row) for row in shop.execute(risks)] == [("A", "no_card")]


FAILED: list[dict[str, Any]] = [
    {"result": "failed", "state": "failed"},
    {"result": "canceled", "state": "canceled"},
    {"result": "error", "state": "attempted"},
    {"result": "pending", "state": "pending"},
    {"result": ..., "state": "expired"},
]
OPEN: list[dict[str, Any]] = [{"result": ..., "state": ...}, {"result": "verified", "state": "of tomorrow"}]


def age(shop: Shop) -> None:
    """Let the time be over in which a list may lack what a notification named."""
    shop.execute(
        "UPDATE cardsync.known_agreements SET without_card_since = without_card_since - interval '121 seconds'"
    )


@pytest.mark.parametrize("outcome", FAILED, ids=str)
def test_a_first_payment_that_did_not_succeed_makes_no_agreement(shop: Shop, outcome: dict[str, Any]) -> None:
    shop.ottu.cards = listed(TOKEN)
    (customer,) = first_payment(shop, outcome=outcome, frequency="weekly")  # its card is looked at all the same
    shop.reconcile(customer)
    age(shop)
    for table in ("registry.agreements", "registry.agreements_at_risk", "cardsync.known_agreements"):
        assert shop.execute(f"SELECT agreement_id FROM {table}") == []


@pytest.mark.parametrize("outcome", FAILED, ids=str)
def test_a_payment_that_did_not_succeed_changes_nothing_of_an_agreement(shop: Shop, outcome: dict[str, Any]) -> None:
    shop.ottu.cards = listed(TOKEN, agreements=("A",))
    (customer,) = first_payment(shop, cycle_interval_days=10, total_cycles=12)
    shop.reconcile(customer)
    kept = "SELECT charges, heard_no, due_at, without_card_since, expected_at FROM cardsync.known_agreements"
    before = (tuple(shown(shop)), shop.execute(kept))
    first_payment(shop, n=2, outcome=outcome, cycle_interval_days=1, total_cycles=2)
    shop.reconcile(customer)
    assert (tuple(shown(shop)), shop.execute(kept)) == before


def test_a_failed_first_payment_that_is_paid_later_makes_the_agreement(shop: Shop) -> None:
    shop.ottu.cards = listed(TOKEN, agreements=("A",))
    first_payment(shop, outcome={"result": "failed", "state": "failed"}, cycle_interval_days=10)
    (customer,) = first_payment(shop, cycle_interval_days=10)  # the same payment: an inquiry found that it was paid
    shop.reconcile(customer)
    assert (shown(shop).cycle_interval_days, shown(shop).card_id is None) == (10, False)


@pytest.mark.parametrize("outcome", OPEN, ids=str)
def test_an_agreement_whose_payment_ended_in_no_known_words_is_known_and_at_risk_only_once_it_had_a_card(
    shop: Shop, outcome: dict[str, Any]
) -> None:
    shop.ottu.cards = listed(TOKEN)
    (customer,) = first_payment(shop, outcome=outcome, cycle_interval_days=10)
    shop.reconcile(customer)
    age(shop)
    risks = "SELECT agreement_id, reason FROM registry.agreements_at_risk"
    assert (shown(shop).cycle_interval_days, shop.execute(risks)) == (10, [])
    shop.ottu.cards = listed(TOKEN, agreements=("A",))  # Ottu's word: it exists
    shop.reconcile(customer, lane="sweep")
    shop.ottu.cards = listed(TOKEN)
    shop.reconcile(customer, lane="sweep")
    assert [tuple(row) for row in shop.execute(risks)] == [("A", "no_card")]


@pytest.mark.parametrize("first", ["reader", "open"])
def test_an_agreement_that_a_successful_payment_names_is_at_risk_without_a_card_whatever_named_it_before(
    shop: Shop, first: str
) -> None:
    shop.ottu.cards = listed(TOKEN)
    (customer,) = shop.hint(session_id="f" * 40)
    if first == "reader":
        with shop.web.begin() as connection:
            agreement_asks.meet(connection, "sandbox", "A", customer)
    else:
        first_payment(shop, n=1, outcome=OPEN[0])
    first_payment(shop, n=2)
    first_payment(shop, n=3, outcome=OPEN[0])
    shop.reconcile(customer)
    age(shop)
    assert [tuple(r) for r in shop.execute("SELECT agreement_id, reason FROM registry.agreements_at_risk")] == [
        ("A", "no_card")
    ]


def test_a_repeat_says_nothing_of_agreements(shop: Shop) -> None:
    body = payloads.auto_debit(agreement={"id": "A"})
    receive(shop.ingest, payloads.signed(body), KEYS)
    shop.process(receive(shop.ingest, payloads.signed({**body, "agreement": {"id": "B"}}), KEYS))
    assert shop.execute("SELECT agreement_id FROM cardsync.known_agreements WHERE agreement_id = 'B'") == []


@pytest.mark.parametrize(
    "agreement", [{"id": "A", "frequency": ["x"], "start_date": 5}, {"id": "A"}, {"id": 5}, "A", None]
)
def test_what_cannot_be_read_of_an_agreement_costs_the_hint_nothing(shop: Shop, agreement: object) -> None:
    body = payloads.auto_debit(agreement=agreement)
    assert len(shop.process(receive(shop.ingest, payloads.signed(body), KEYS))) == 1
