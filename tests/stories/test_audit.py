"""An audit judges what was served until then, and repairs it; it is paced, and asks nobody twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cardsync.errors import OttuFault
from cardsync.store import audits
from cardsync.stories.audit import AuditPolicy, audit
from tests.factories import CustomerFactory
from tests.stories.shop import Shop, listed

T1, T2 = "9999000000000001", "9999000000000002"
POLICY = AuditPolicy(daily_calls=90_000, lists=True)


def draw(shop: Shop, policy: AuditPolicy = POLICY) -> tuple[int, ...]:
    """Ticks until somebody is drawn, a day later: in a table of one page most probes miss."""
    shop.execute("UPDATE cardsync.customers SET first_seen_at = first_seen_at - interval '1 day'")
    for _ in range(1_000):
        drawn = audit(shop.engine, policy)
        if shop.execute("SELECT 1 FROM cardsync.audits WHERE verdict IS NULL"):
            return drawn
    raise AssertionError("nobody was drawn in a thousand ticks")


def verdicts(shop: Shop) -> list[tuple[str | None, list[str]]]:
    return [(r.verdict, r.causes) for r in shop.execute("SELECT * FROM cardsync.audits ORDER BY audit_no")]


@pytest.fixture
def settled(shop: Shop) -> int:
    """A customer with one card, after a list that was believed."""
    (customer,) = shop.hint()
    shop.ottu.cards = listed(T1)
    shop.reconcile(customer)
    return customer


def test_a_customer_who_is_right_is_judged_right(shop: Shop, settled: int) -> None:
    assert draw(shop) == (settled,)
    assert shop.reconcile(settled).outcome == "unchanged"
    assert verdicts(shop) == [("right", [])]
    assert shop.execute("SELECT lane, calls FROM cardsync.call_minutes WHERE lane = 'audit'") == [("audit", 1)]
    (row,) = shop.execute(
        "SELECT a.observation_no = o.observation_no AS same, o.lane FROM cardsync.audits AS a JOIN "
        "cardsync.observations AS o USING (observation_no)"
    )
    assert (row.same, row.lane) == (True, "audit")


def test_what_an_audit_finds_is_counted_by_cause_and_repaired(shop: Shop, settled: int) -> None:
    draw(shop)
    shop.ottu.cards = listed(T2)
    assert shop.reconcile(settled).outcome == "changed"
    assert verdicts(shop) == [("wrong", ["lost_hint", "silent_deletion"])]
    assert shop.cards() == {"(erased)": "removed", T2: "active"}
    assert shop.feed() == ["added", "added", "removed"]
    with shop.engine.connect() as connection:
        found = audits.summary(connection)
    assert (found.right, found.sample, found.waiting) == (0, 1, 0)
    assert {c: n for c, n in found.differences.items() if n} == {"lost_hint": 1, "silent_deletion": 1}


def test_facts_that_changed_without_a_word_are_told_apart(shop: Shop, settled: int) -> None:
    draw(shop)
    shop.ottu.cards = listed(T1, brand="MADA")
    shop.reconcile(settled)
    assert verdicts(shop) == [("wrong", ["changed_elsewhere"])]


def test_a_hint_that_is_in_the_inbox_is_not_lost(shop: Shop, settled: int) -> None:
    draw(shop)
    shop.receive(token=T2, session_id="b" * 40)
    shop.ottu.cards = listed(T1, T2)
    shop.reconcile(settled)
    assert verdicts(shop) == [("wrong", ["under_way"])]


def test_whoever_is_due_already_is_judged_by_that_list_and_costs_no_call_more(shop: Shop) -> None:
    (customer,) = shop.hint()
    assert draw(shop) == ()
    shop.ottu.cards = listed(T1)
    shop.reconcile(customer)
    assert shop.ottu.calls == 1
    assert verdicts(shop) == [("wrong", ["under_way"])]
    assert shop.execute("SELECT lane FROM cardsync.call_minutes") == [("hint",)]


def test_a_customer_under_ticket_is_judged_by_the_list_that_is_asked_for(shop: Shop) -> None:
    (customer,) = shop.hint()
    shop.ottu.cards = listed(T1)
    shop.ottu.meanwhile = lambda: draw(shop) and None
    shop.reconcile(customer)
    assert (shop.ottu.calls, len(verdicts(shop))) == (1, 1)
    assert shop.reconcile(customer).outcome == "not_due"


def test_the_first_list_of_an_imported_customer_is_no_lost_hint(shop: Shop) -> None:
    customer = CustomerFactory(customer_id="cust-1").id
    draw(shop)
    shop.ottu.cards = listed(T1)
    shop.reconcile(customer)
    assert verdicts(shop) == [("wrong", ["never_looked"])]


def test_a_failed_audit_waits_for_the_list_that_is_believed_in_the_end(shop: Shop, settled: int) -> None:
    draw(shop)
    shop.ottu.error = OttuFault("503")
    assert shop.reconcile(settled).outcome == "failed"
    assert shop.customer().lane == "audit"  # its next attempt, too, is no more urgent than a sweep
    assert verdicts(shop) == [(None, [])]
    shop.ottu.error = None
    shop.reconcile(settled, lane="audit")
    assert verdicts(shop) == [("right", [])]


def test_the_brake_takes_an_audits_removals_for_a_sweeps(shop: Shop, settled: int) -> None:
    shop.policy = replace(shop.policy, brake_floor=0)
    draw(shop)
    shop.ottu.cards = ()
    shop.reconcile(settled)
    assert shop.cards() == {T1: "active"}
    assert verdicts(shop) == [("wrong", ["held"])]
    assert shop.execute("SELECT brake_engaged_at IS NOT NULL AS on FROM cardsync.gate") == [(True,)]


def test_draws_are_spread_over_the_day(shop: Shop, settled: int) -> None:
    assert all(audit(shop.engine, POLICY) == () for _ in range(50))
    draw(shop)
    shop.reconcile(settled)
    assert all(audit(shop.engine, POLICY) == () for _ in range(50))
    shop.execute("UPDATE cardsync.audits SET drawn_at = drawn_at - interval '300 seconds'")
    assert all(audit(shop.engine, POLICY) == () for _ in range(50))
    shop.execute("UPDATE cardsync.audits SET drawn_at = drawn_at - interval '133 seconds'")
    assert draw(shop) == (settled,)


def test_a_small_allowance_is_audited_with_a_hundredth_of_it() -> None:
    assert AuditPolicy(daily_calls=90_000, lists=True).every_seconds == 432
    assert AuditPolicy(daily_calls=1_000, lists=True).every_seconds == 8_640


def test_where_ottu_offers_no_list_nobody_is_drawn(shop: Shop, settled: int) -> None:
    nowhere = AuditPolicy(daily_calls=90_000, lists=False)
    assert all(audit(shop.engine, nowhere) == () for _ in range(50))
    assert verdicts(shop) == []


def test_nobody_who_was_not_drawn_is_judged(shop: Shop, settled: int) -> None:
    shop.reconcile(settled, lane="sweep")
    assert verdicts(shop) == []
