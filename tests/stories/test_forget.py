"""What is past its time goes, what is work or proof stays, and nobody who takes hints in waits for it."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, text

from cardsync.forget import ForgetPolicy, forget
from cardsync.receive import receive
from cardsync.settings import Settings
from cardsync.store import deletions, receipts, retention
from cardsync.store.retention import STATEMENTS, WHATS, What
from tests import payloads
from tests.e2e.processes import until
from tests.factories import CustomerFactory, EventFactory, make_card
from tests.stories.worlds import KEYS, Shop, listed

T1 = "9999000000000001"
POLICY = ForgetPolicy.of(Settings())
CONTENT_DAYS, ROW_DAYS = 30, 90
NOTHING = dict.fromkeys(WHATS, 0)
# What may be told of a notification that has shed its content; everything else must be empty.
KEPT = {
    *("event_id", "evidence_no", "body_hash", "received_at", "status", "kind", "ignored_because", "environment"),
    *("scheme", "key_id", "signature_hash", "attempts", "due_at", "settled_at", "shed_at"),
}


def age(shop: Shop, days: float) -> None:
    """Let time pass for all that has come in and was asked for."""
    for column in ("events.received_at", "observations.asked_at", "audits.drawn_at"):
        table, name = column.split(".")
        shop.execute(f"UPDATE cardsync.{table} SET {name} = {name} - make_interval(days => :days)", days=days)


def events(shop: Shop) -> list[Any]:
    return shop.execute("SELECT * FROM cardsync.events ORDER BY evidence_no")


def test_nothing_goes_before_its_time(shop: Shop) -> None:
    shop.hint()
    age(shop, CONTENT_DAYS - 1)
    before = events(shop)
    assert forget(shop.engine, POLICY) == NOTHING
    assert events(shop) == before


def test_after_thirty_days_a_notification_says_nothing_of_a_person_or_a_payment(shop: Shop) -> None:
    shop.hint(agreement={"id": "agreement-1"})
    shop.receive(token=None, session_id="c" * 40)  # ignored, yet it says of whom
    age(shop, CONTENT_DAYS + 1)
    assert forget(shop.engine, POLICY) == {**NOTHING, "content": 2}
    for row in events(shop):
        told = {name for name, value in row._mapping.items() if value is not None}
        assert told <= KEPT
    assert forget(shop.engine, POLICY) == NOTHING


def test_a_late_duplicate_is_recognised_until_the_row_goes(shop: Shop) -> None:
    body = payloads.signed(payloads.payment())
    first = receive(shop.ingest, body, KEYS)
    shop.process(first)
    age(shop, CONTENT_DAYS + 1)
    forget(shop.engine, POLICY)
    again = receive(shop.ingest, body, KEYS)
    assert (again.status, again.event_id) == ("duplicate", first.event_id)
    age(shop, ROW_DAYS - CONTENT_DAYS)
    assert forget(shop.engine, POLICY)["hint"] == 1
    assert receive(shop.ingest, body, KEYS).status == "accepted"


@pytest.mark.parametrize("days", [CONTENT_DAYS + 1, 10 * ROW_DAYS])
def test_a_hint_that_is_work_to_do_never_goes(shop: Shop, days: int) -> None:
    receipt = shop.receive()
    age(shop, days)
    assert forget(shop.engine, POLICY) == NOTHING
    shop.process(receipt)
    assert forget(shop.engine, POLICY)["content"] == 1


def test_a_failed_hint_waits_for_an_operator_but_holds_no_token_for_ever(shop: Shop) -> None:
    EventFactory(status="failed", attempts=10, last_error="DataError", session_id="d" * 40)
    age(shop, CONTENT_DAYS - 1)
    assert forget(shop.engine, POLICY) == NOTHING
    assert events(shop)[0].token is not None
    age(shop, 2)
    assert forget(shop.engine, POLICY) == {**NOTHING, "given_up": 1}
    (row,) = events(shop)
    assert (row.status, row.ignored_because, row.token, row.facts) == ("ignored", "given_up", None, None)
    assert {name for name, value in row._mapping.items() if value is not None} <= KEPT


def test_lists_that_removed_nothing_go_with_the_rows_and_the_feed_stays(shop: Shop) -> None:
    (customer,) = shop.hint()
    for cards in (listed(T1), listed(T1), ()):
        shop.ottu.cards = cards
        shop.reconcile(customer, lane="sweep")
    feed = shop.feed()
    age(shop, ROW_DAYS + 1)
    assert forget(shop.engine, POLICY) == {**NOTHING, "content": 1, "hint": 1, "observation": 2}
    assert shop.execute("SELECT removed FROM cardsync.observations") == [(1,)]
    assert shop.feed() == feed == ["added", "removed"]


def test_what_proved_a_deletion_stays_and_its_receipt_verifies(shop: Shop) -> None:
    card_id = make_card(CustomerFactory(customer_id="cust-1"), token=T1).card_id
    with shop.engine.begin() as connection:
        asked = deletions.request(connection, card_id=card_id, requested_by="a test", idempotency_key="key-1")
    customer = shop.customer().id
    shop.execute("UPDATE cardsync.deletions SET phase = 'proving', due_at = NULL, called_at = now()")
    shop.reconcile(customer, lane="deletion")
    age(shop, 10 * ROW_DAYS)
    forget(shop.engine, POLICY)
    with shop.engine.begin() as connection:
        assert receipts.verify(connection).broken_at is None
        again = deletions.request(connection, card_id=card_id, requested_by="a test", idempotency_key="key-1")
    assert again.deletion_id == asked.deletion_id  # a key is remembered as long as its deletion
    assert shop.execute(
        "SELECT phase FROM cardsync.deletions JOIN cardsync.observations ON proof_no = observation_no"
    ) == [("done",)]


def test_audits_go_after_a_year(shop: Shop) -> None:
    customer = CustomerFactory().id
    shop.execute("INSERT INTO cardsync.audits (customer) VALUES (:customer)", customer=customer)
    age(shop, 400)
    assert forget(shop.engine, POLICY)["audit"] == 1


def test_what_a_signature_made_known_is_counted_no_longer_than_its_notifications_are_kept(shop: Shop) -> None:
    insert = (
        "INSERT INTO cardsync.repeated_signatures (signature_hash, counted_since, strangers)"
        " VALUES (sha256(:name), clock_timestamp() - make_interval(days => :days), 1)"
    )
    shop.execute(insert, name=b"old", days=ROW_DAYS + 1)
    shop.execute(insert, name=b"young", days=ROW_DAYS - 1)
    assert forget(shop.engine, POLICY)["signature"] == 1
    assert shop.execute("SELECT count(*) FROM cardsync.repeated_signatures") == [(1,)]


def test_more_than_one_batch_goes_in_one_run(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cardsync.store.retention.ROWS_AT_ONCE", 2)
    _fill(shop.engine, 7, older_days=ROW_DAYS + 1)
    monkeypatch.setattr("cardsync.forget.RUN_SECONDS", 60.0)
    forgotten = forget(shop.engine, POLICY)
    assert (forgotten["hint"], events(shop)) == (7, [])


@pytest.mark.parametrize("what", ["content", "hint"])
def test_taking_hints_in_waits_for_no_batch_that_is_held_open(shop: Shop, what: What) -> None:
    known = payloads.signed(payloads.payment())
    first = receive(shop.ingest, known, KEYS)
    shop.process(first)
    age(shop, ROW_DAYS + 1)
    young = payloads.signed(payloads.payment(session_id="e" * 40))
    receive(shop.ingest, young, KEYS)
    with shop.engine.begin() as held:
        assert retention.forget(held, what, older_days=CONTENT_DAYS) == 1
        # All of it on other connections, while the batch holds its rows.
        fresh = receive(shop.ingest, payloads.signed(payloads.payment("cust-2", session_id="f" * 40)), KEYS)
        assert fresh.status == "accepted"
        assert receive(shop.ingest, young, KEYS).status == "duplicate"
        shop.ottu.cards = listed(T1)
        assert shop.reconcile(shop.process(fresh)[0]).outcome == "changed"


@pytest.mark.parametrize(("what", "status"), [("content", "duplicate"), ("hint", "accepted")])
def test_a_duplicate_of_a_row_in_the_batch_waits_for_that_batch_alone(shop: Shop, what: What, status: str) -> None:
    known = payloads.signed(payloads.payment())
    shop.process(receive(shop.ingest, known, KEYS))
    age(shop, ROW_DAYS + 1)
    with ThreadPoolExecutor(1) as sender:
        with shop.engine.begin() as held:
            assert retention.forget(held, what, older_days=CONTENT_DAYS) == 1
            late = sender.submit(receive, shop.ingest, known, KEYS)
            until(lambda: _somebody_waits(shop) or late.done(), "it waits, or has been answered")
            assert not late.done()
        assert late.result(10).status == status


def _somebody_waits(shop: Shop) -> bool:
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(shop.execute(waiting))


def test_two_runs_at_once_take_different_rows(engine: Engine) -> None:
    _fill(engine, 5, older_days=ROW_DAYS + 1)
    with engine.begin() as one, engine.begin() as other:
        assert retention.forget(one, "hint", older_days=ROW_DAYS, limit=3) == 3
        assert retention.forget(other, "hint", older_days=ROW_DAYS, limit=3) == 2


@pytest.mark.parametrize("what", WHATS)
def test_a_batch_is_found_by_an_index(engine: Engine, what: What) -> None:
    _fill(engine, 20_000, older_days=ROW_DAYS, over_days=ROW_DAYS)
    customer = CustomerFactory().id
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO cardsync.observations (observation_no, customer, lane, asked_at, outcome, removed)
                SELECT n, :customer, 'sweep', now() - n * interval '6 minutes', 'unchanged', (n % 10 = 0)::int
                FROM generate_series(1, 22000) AS n
            """),
            {"customer": customer},
        )
        connection.execute(
            text("""
                INSERT INTO cardsync.audits (customer, drawn_at, observation_no, judged_at, verdict)
                SELECT :customer, now() - n * interval '7 minutes', n, now(), 'right' FROM generate_series(1, 82000) AS n
            """),
            {"customer": customer},
        )
        connection.execute(
            text("""
                INSERT INTO cardsync.repeated_signatures (signature_hash, counted_since, strangers)
                SELECT sha256(convert_to(n::text, 'UTF8')), now() - n * interval '7 minutes', 1
                FROM generate_series(1, 22000) AS n
            """)
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(
            text("ANALYZE cardsync.events, cardsync.observations, cardsync.audits, cardsync.repeated_signatures")
        )
        explain = text(f"EXPLAIN (FORMAT JSON) {STATEMENTS[what].text}")
        plan = connection.execute(explain, {"days": POLICY.days[what], "limit": 500}).scalar_one()
    assert "Seq Scan" not in str(plan)
    assert "Index Scan" in str(plan)


def _fill(engine: Engine, count: int, *, older_days: int, over_days: int = 0) -> None:
    """Settled hints, the youngest so many days old, spread over so many days towards now."""
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO cardsync.events (
                    body_hash, received_at, status, kind, environment, customer_id, session_id, scheme, key_id, settled_at
                )
                SELECT sha256(convert_to(:seed || n, 'UTF8')),
                       now() - make_interval(days => :older, secs => 1) + n * make_interval(days => :over) / :count,
                       'done', 'payment', 'sandbox', 'cust-' || n, repeat('a', 40), 'standard', 'key', now()
                FROM generate_series(1, :count) AS n
            """),
            {"seed": str(uuid.uuid4()), "older": older_days, "over": over_days, "count": count},
        )
