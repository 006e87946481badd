"""What is past its time goes, what is work or proof stays, and nobody who takes hints in waits for it."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from psycopg.errors import ReadOnlySqlTransaction
from sqlalchemy import Engine, text
from sqlalchemy.exc import InternalError
from structlog.testing import capture_logs

from cardsync.core.spool_format import write_record
from cardsync.episodes import Episode
from cardsync.settings import Settings
from cardsync.spool import Record, Spool
from cardsync.store import retention
from cardsync.store.deletions import receipts, requests
from cardsync.store.retention import STATEMENTS, WHATS, What
from cardsync.stories.forget import ForgetPolicy, forget, forget_set_aside
from tests import payloads
from tests.factories import CustomerFactory, EventFactory, make_card
from tests.stories.shop import KEYS, Shop, listed, receive
from tests.test_spool import row as waiting_row

T1 = "9999000000000001"
POLICY = ForgetPolicy.of(Settings())
CONTENT_DAYS, ROW_DAYS = 30, 90
NOTHING = dict.fromkeys(POLICY.days, 0)
# What may be told of a notification that has shed its content; everything else must be empty.
KEPT = {
    *("event_id", "evidence_no", "body_hash", "received_at", "status", "kind", "ignored_because", "environment"),
    *("scheme", "key_id", "signature_hash", "repeated", "vouched", "attempts", "due_at", "settled_at", "shed_at"),
}


@pytest.fixture(autouse=True)
def time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run goes to its end: what it leaves for the next tick when its second is over depends on the machine."""
    monkeypatch.setattr("cardsync.stories.forget.RUN_SECONDS", 60.0)
    monkeypatch.setattr(retention, "_IN_TIME", text("SET LOCAL statement_timeout = 60000"))


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
    shop.receive(token=None, session_id="c" * 40)  # ignored, yet it names its customer
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
    later = receive(shop.ingest, body, KEYS)
    assert (later.status, later.repeated, later.to_ring) == ("accepted", True, False)


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
        asked = requests.request(connection, card_id=card_id, requested_by="a test", idempotency_key="key-1")
    customer = shop.customer().id
    shop.execute("UPDATE cardsync.deletions SET phase = 'proving', due_at = NULL, called_at = now()")
    shop.reconcile(customer, lane="deletion")
    age(shop, 10 * ROW_DAYS)
    forget(shop.engine, POLICY)
    with shop.engine.begin() as connection:
        assert receipts.verify(connection).broken_at is None
        again = requests.request(connection, card_id=card_id, requested_by="a test", idempotency_key="key-1")
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
    assert forget(shop.engine, POLICY)["strangers"] == 1
    assert shop.execute("SELECT count(*) FROM cardsync.repeated_signatures") == [(1,)]


def test_more_than_one_batch_goes_in_one_run(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cardsync.store.retention.ROWS_AT_ONCE", 2)
    _fill(shop.engine, 7, older_days=ROW_DAYS + 1)
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


@pytest.mark.parametrize("what", ["content", "hint"])
def test_a_duplicate_of_a_row_in_the_batch_waits_for_nothing_and_is_told_as_one(shop: Shop, what: What) -> None:
    known = payloads.signed(payloads.payment())
    shop.process(receive(shop.ingest, known, KEYS))
    age(shop, ROW_DAYS + 1)
    with shop.engine.begin() as held:
        assert retention.forget(held, what, older_days=CONTENT_DAYS) == 1
        assert receive(shop.ingest, known, KEYS).status == "duplicate"  # it was, when it came


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
        connection.execute(
            text("""
                INSERT INTO cardsync.gateway_asks (customer, pg_code, wanted_at)
                SELECT :customer, n::text, now() - n * interval '2 minutes' FROM generate_series(1, 22000) AS n
            """),
            {"customer": customer},
        )
        connection.execute(
            text("""
                INSERT INTO cardsync.signatures (signature_hash, first_seen, named_card)
                SELECT sha256(convert_to(n::text, 'UTF8')), current_date - n / 10, true
                FROM generate_series(1, 22000) AS n
            """)
        )
        connection.execute(
            text("""
                INSERT INTO cardsync.inquiries (session_id, asked_for, status, made_at)
                SELECT lpad(n::text, 40, '0'), 'hint', 'answered', now() - n * interval '2 minutes'
                FROM generate_series(1, 22000) AS n
            """)
        )
        connection.execute(
            text("""
                WITH made AS (
                    INSERT INTO cardsync.kept_bodies (event_id, received_at, kept_since, body)
                    SELECT gen_random_uuid(), at, at, CASE WHEN n < 800 THEN 'x' END
                    FROM (SELECT n, now() - n * interval '6 minutes' AS at FROM generate_series(1, 22000) AS n) AS all_of_them
                    RETURNING event_id, received_at
                )
                INSERT INTO cardsync.deliveries (endpoint_id, event_id, status, finished_at)
                SELECT gen_random_uuid(), event_id, 'done', received_at FROM made
            """)
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(
            text(
                "ANALYZE cardsync.events, cardsync.observations, cardsync.audits, "
                "cardsync.repeated_signatures, cardsync.signatures, cardsync.inquiries, "
                "cardsync.kept_bodies, cardsync.deliveries, cardsync.gateway_asks"
            )
        )
        statement = STATEMENTS[what].text
        functions = {
            "customer": "forget_customers",
            "unlisted_customer": "forget_unlisted_customers",
            "probation": "forget_probation",
        }
        if what in functions:  # of small tables: is there an index for each of the questions?
            connection.execute(text("SET enable_seqscan = off"))
            body = connection.execute(
                text("SELECT prosrc FROM pg_proc WHERE proname = :name"), {"name": functions[what]}
            ).scalar_one()
            statement = body.replace("p_days", "90").replace("p_limit", "500")
        explain = text(f"EXPLAIN (FORMAT JSON) {statement}")
        plan = connection.execute(explain, {"days": POLICY.days.get(what, ROW_DAYS), "limit": 500}).scalar_one()
    assert "Seq Scan" not in str(plan)
    assert "Index Scan" in str(plan)


def _fill(engine: Engine, count: int, *, older_days: int, over_days: int = 0) -> None:
    """Settled hints, spread over a number of days, the youngest of a given age."""
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


# What the spool set aside, on the web's disk.


NOW = dt.datetime.now(dt.UTC)


def set_aside(spool: Spool, customer_id: str, days: float, *, content: bytes | None = None) -> str:
    """A record of this customer that was written some days ago, or other content in its place."""
    spool.folder.mkdir(exist_ok=True)
    written_at = NOW - dt.timedelta(days=days)
    stem = f"{int(written_at.timestamp() * 1e9):020d}-{uuid.uuid4().hex[:8]}-0"
    record = write_record(replace(waiting_row(customer_id), customer_id=customer_id, received_at=written_at))
    spool.set_aside(
        spool.folder / f"{stem}.1.0.1.segment", Record(0, record if content is None else content), "unreadable"
    )
    return f"{stem}.0.unreadable.bad"


def left(spool: Spool) -> set[str]:
    return {file.name for file in spool.set_aside_files()}


def erase(shop: Shop, customer_id: str, *, days: float) -> None:
    """An erasure of this person was done some days ago."""
    shop.execute(
        """INSERT INTO cardsync.erasures (customer_id, requested_by, status, requested_at, finished_at, due_at)
           VALUES (:customer_id, 'support', 'done', :at, :at, NULL)""",
        customer_id=customer_id,
        at=NOW - dt.timedelta(days=days),
    )


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", max_files=100, max_bytes=2**20)


def forget_here(shop: Shop, spool: Spool) -> int:
    """As the web does, with its rights."""
    return forget_set_aside(shop.ingest, spool, content_days=CONTENT_DAYS, now=NOW)


def test_what_was_set_aside_goes_when_content_goes(shop: Shop, spool: Spool) -> None:
    set_aside(spool, "old", CONTENT_DAYS + 1)
    young = set_aside(spool, "young", CONTENT_DAYS - 1)
    assert forget_here(shop, spool) == 1
    assert left(spool) == {young}
    assert forget_here(shop, spool) == 0


def test_an_erasure_removes_what_was_set_aside_of_the_person_before_it_was_done(shop: Shop, spool: Spool) -> None:
    set_aside(spool, "person", 3)
    stays = {set_aside(spool, "person", 1), set_aside(spool, "another", 3)}
    erase(shop, "person", days=2)
    assert forget_here(shop, spool) == 1
    assert left(spool) == stays


def test_what_cannot_name_its_person_goes_with_the_next_erasure_that_is_done(shop: Shop, spool: Spool) -> None:
    erase(shop, "somebody", days=10)
    set_aside(spool, "torn", 3, content=b'0123 {"customer_id": "per')
    set_aside(spool, "empty", 3, content=b"")
    assert forget_here(shop, spool) == 0
    erase(shop, "person", days=2)
    after = set_aside(spool, "torn", 1, content=b"torn")
    assert forget_here(shop, spool) == 2
    assert left(spool) == {after}


def test_of_a_file_with_several_records_one_erased_person_is_enough(shop: Shop, spool: Spool) -> None:
    records = [write_record(replace(waiting_row(name), customer_id=name)) for name in ("another", "person")]
    set_aside(spool, "", 3, content=b"".join(records))
    erase(shop, "person", days=2)
    assert forget_here(shop, spool) == 1


def test_nothing_set_aside_asks_the_database_nothing(shop: Shop, spool: Spool) -> None:
    shop.execute("ALTER TABLE cardsync.erasures RENAME TO elsewhere")
    assert forget_here(shop, spool) == 0


def test_a_database_without_time_is_told_once_when_it_begins_and_once_when_it_ends_whatever_is_put_off(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object, **__: object) -> int:
        raise InternalError("SELECT 1", {}, ReadOnlySqlTransaction())

    real = retention.forget
    monkeypatch.setattr("cardsync.stories.forget._put_off", Episode("forgetting_put_off"))
    with capture_logs() as lines:
        for answer in (read_only, read_only, real, real):
            monkeypatch.setattr(retention, "forget", answer)
            forget(engine, ForgetPolicy({"given_up": 30, "audit": 400}))
    assert [(line["event"], line.get("what"), line.get("why")) for line in lines] == [
        ("forgetting_put_off", ["given_up", "audit"], "read-only"),
        ("forgetting_put_off_ended", None, None),
    ]
