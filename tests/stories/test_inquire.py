"""Inquiries: Ottu's pace, the budget, what every end of a call leaves, and who else hears of it."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import Engine
from structlog.testing import capture_logs

from cardsync.core.inquiry_limits import A_MINUTE
from cardsync.errors import CredentialsRefused, InvalidAnswer, OttuFault, OttuRejected, OttuThrottled
from cardsync.store import inquiries
from cardsync.stories.inquire import inquire, inquire_due
from cardsync.stories.process import HintPolicy
from cardsync.stories.recover import RecoverPolicy, recover
from tests.factories import RING, SECRET
from tests.stories.no_list import HINTS, POLICY, NoListShop, signed

A = "9999000000000001"


@pytest.fixture
def shop(engine: Engine, ingest_engine: Engine, worker_engine: Engine) -> NoListShop:
    """A deployment without lists."""
    return NoListShop(engine, ingest_engine, worker_engine)


def wanted(shop: NoListShop, count: int = 1) -> list[str]:
    """Payments that hints want asked about, and half an hour later."""
    payments = [shop.ottu.pay(f"c{n}", A) for n in range(count)]
    for payment in payments:
        shop.hear(signed(payment, "standard"))
    shop.wait(31)
    return [payment["session_id"] for payment in payments]


def row(shop: NoListShop) -> Any:
    """The one payment's row."""
    return shop.execute(
        "SELECT *, extract(epoch FROM due_at - clock_timestamp())::float8 AS wait FROM cardsync.inquiries"
    )[0]


def test_no_payment_is_asked_about_within_ten_minutes(shop: NoListShop) -> None:
    payment = shop.ottu.pay("c", A)
    shop.hear(signed(payment, "standard"))
    assert shop.ask() == []
    shop.wait(9)
    assert shop.ask() == []
    shop.wait(1.1)
    assert shop.ask() == [payment["session_id"]]
    assert shop.ask() == []


def test_a_payment_is_asked_about_half_an_hour_apart_and_three_times_a_day(shop: NoListShop) -> None:
    payment = shop.ottu.pay("c", A, state="pending", result="pending")
    asked = []
    for minute in range(0, 26 * 60, 7):  # no multiple is half an hour: the clock beneath goes on by itself, too
        with shop.worker.begin() as connection:
            inquiries.wish(connection, payment["session_id"])
        if shop.ask():
            asked.append(minute)
        shop.wait(7)
    assert len([m for m in asked if m < 24 * 60]) == 3
    assert all(later - earlier > 30 for earlier, later in pairwise(asked))
    assert len(asked) > 3


def test_thirty_are_asked_in_a_minute_and_not_one_more(shop: NoListShop) -> None:
    wanted(shop, A_MINUTE + 4)
    assert len(shop.ask()) == A_MINUTE
    shop.wait(1.05)
    assert len(shop.ask()) == 4


def test_each_inquiry_is_counted_in_the_budget(shop: NoListShop) -> None:
    wanted(shop, 3)
    shop.ask()
    assert shop.execute("SELECT lane, sum(calls)::int FROM cardsync.call_minutes GROUP BY 1") == [("retry", 3)]


def test_hints_cause_half_of_the_days_calls_and_an_operator_has_the_rest(shop: NoListShop) -> None:
    sessions = wanted(shop, 3)
    tiny = replace(POLICY, daily_calls=20)
    shop.execute("INSERT INTO cardsync.call_minutes VALUES (date_trunc('minute', clock_timestamp()), 'retry', 10)")
    assert inquire_due(shop.worker, shop.ottu, tiny, jitter=0.5) == []
    assert shop.ottu.asked == []
    assert shop.execute("SELECT sum(calls)::int FROM cardsync.call_minutes") == [(10,)]
    with shop.worker.begin() as connection:
        inquiries.wish(connection, sessions[0])
    assert inquire(shop.worker, shop.ottu, sessions[0], tiny, jitter=0.5).outcome == "answered"


def test_a_429_puts_the_payment_off_pauses_inquiries_and_no_other_call(shop: NoListShop) -> None:
    wanted(shop, 2)
    shop.ottu.error = OttuThrottled("slow down", retry_after_seconds=None, status_code=429)
    assert len(shop.ask()) == 1
    shop.ottu.error = None
    assert shop.ask() == []
    assert shop.execute("SELECT paused_until, pace_per_second, breaker_reason FROM cardsync.gate") == [
        (None, None, None)
    ]
    shop.execute("UPDATE cardsync.gate SET inquiries_paused_until = clock_timestamp()")
    shop.wait(2)
    assert len(shop.ask()) == 1
    shop.wait(31)
    assert len(shop.ask()) == 1


@pytest.mark.parametrize(
    ("error", "breaker"),
    [
        (OttuRejected("403", status_code=403), None),
        (InvalidAnswer("odd"), None),
        (OttuFault("500"), "down"),
        (CredentialsRefused("401"), "credentials"),
    ],
)
def test_what_a_failed_inquiry_says_to_other_calls(shop: NoListShop, error: Exception, breaker: str | None) -> None:
    sessions = wanted(shop, 4)
    shop.ottu.error = error
    for session in sessions:
        inquire(shop.worker, shop.ottu, session, POLICY, jitter=0.5)
    assert shop.execute("SELECT breaker_reason FROM cardsync.gate") == [(breaker,)]
    assert shop.execute("SELECT count(*)::int FROM cardsync.inquiries WHERE status = 'waiting'") == [(4,)]


@pytest.mark.parametrize(("error", "reason"), [(OttuFault("500"), "down"), (CredentialsRefused("401"), "credentials")])
def test_inquiries_that_stop_all_calls_say_so_once_and_once_that_calls_go_on(
    shop: NoListShop, error: Exception, reason: str
) -> None:
    *failing, last = wanted(shop, 6)
    shop.ottu.error = error
    with capture_logs() as lines:
        for session in failing:
            inquire(shop.worker, shop.ottu, session, POLICY, jitter=0.5)
        shop.ottu.error = None
        shop.execute("UPDATE cardsync.gate SET breaker_shut_until = clock_timestamp()")
        assert inquire(shop.worker, shop.ottu, last, POLICY, jitter=0.5).outcome == "answered"
    told = [(line["event"], line["reason"]) for line in lines if line["event"].startswith("calls_")]
    assert told == [("calls_stopped", reason), ("calls_go_on", reason)]


def test_a_failed_inquiry_is_made_again_later(shop: NoListShop) -> None:
    (session,) = wanted(shop)
    shop.ottu.error = OttuFault("500")
    assert shop.ask() == [session]
    assert (row(shop).failures, row(shop).last_error) == (1, "OttuFault: 500")
    shop.ottu.error = None
    assert shop.settle() == [session]
    assert shop.cards() == {("production", "c0", A)}


def test_what_a_stopped_process_left_is_asked_about_again_and_its_late_answer_counts_for_nothing(
    shop: NoListShop,
) -> None:
    (session,) = wanted(shop)
    results = []

    class Slow:
        """Its answer comes when another process has asked again."""

        def inquire(self, session_id: str, *, before_call: Any) -> Any:
            answer = shop.ottu.inquire(session_id, before_call=before_call)
            shop.wait(31)  # its lease runs out, too
            results.append(inquire(shop.worker, shop.ottu, session_id, POLICY, jitter=0.5).outcome)
            return answer

    assert inquire(shop.worker, Slow(), session, POLICY, jitter=0.5).outcome == "superseded"
    assert results == ["answered"]


def test_two_workers_never_ask_about_one_payment_at_once(shop: NoListShop) -> None:
    sessions = wanted(shop, 8)
    workers = [threading.Thread(target=shop.ask) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    shop.ask()
    assert sorted(shop.ottu.asked) == sorted(sessions)


def test_an_answer_about_another_payment_is_not_taken(shop: NoListShop) -> None:
    (session,) = wanted(shop)
    shop.ottu.true[session] = shop.ottu.pay("attacker", "tok-fake-9")
    shop.ask()
    assert shop.cards() == set()
    assert "another payment" in row(shop).last_error


def recovered(shop: NoListShop, *sessions: str, hints: HintPolicy = HINTS) -> list[tuple[str, str]]:
    """An operator recovers payments."""
    policy = RecoverPolicy(POLICY, hints, max_wait_seconds=0.5)
    found = recover(shop.worker, shop.ottu, sessions, policy, stopping=threading.Event())
    return [(one.session_id, one.outcome) for one in found]


def test_a_payment_that_was_never_notified_is_recovered(shop: NoListShop) -> None:
    lost = shop.ottu.pay("c", A, agreement_id="X")["session_id"]
    no_card = shop.ottu.pay("c", None)["session_id"]
    assert recovered(shop, lost, no_card, "f" * 40, lost) == [
        (lost, "answered"),
        (no_card, "no_card"),
        ("f" * 40, "unknown"),
    ]
    assert (shop.cards(), shop.charged()) == ({("production", "c", A)}, {"X": A})
    assert recovered(shop, lost) == [(lost, "waiting")]  # half an hour apart
    assert len(shop.ottu.asked) == 3


def test_a_recovered_old_payment_overrules_nothing_newer(shop: NoListShop) -> None:
    lost = shop.ottu.pay("c", A, agreement_id="X", minutes=0)
    shop.hear(signed(shop.ottu.pay("c", "tok-fake-2", agreement_id="X", minutes=60)), 61)
    recovered(shop, lost["session_id"])
    assert shop.charged() == {"X": "tok-fake-2"}
    assert len(shop.cards()) == 2


def test_with_lists_a_recovered_payment_is_a_hint_like_others(shop: NoListShop) -> None:
    lost = shop.ottu.pay("c", A)["session_id"]
    assert recovered(shop, lost, hints=HintPolicy(SECRET, believed=False, ring=RING)) == [(lost, "answered")]
    assert shop.cards("unconfirmed") == {("production", "c", A)}
    assert shop.execute("SELECT lane, due_at <= clock_timestamp() AS due FROM cardsync.customers") == [("retry", True)]


def test_while_an_operator_pauses_calls_no_payment_is_asked_about(shop: NoListShop) -> None:
    sessions = wanted(shop)
    shop.execute("UPDATE cardsync.gate SET operator_paused_at = clock_timestamp(), operator_paused_by = 'Amal'")
    assert shop.ask() == []
    shop.wait(31)
    assert shop.ask() == []
    shop.execute("UPDATE cardsync.gate SET operator_paused_at = NULL, operator_paused_by = NULL")
    shop.wait(31)
    assert shop.ask() == sessions
