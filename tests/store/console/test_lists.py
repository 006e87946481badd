"""Lists of the console's pages: a keyset that loses nothing, filters, and nothing that is secret."""

from __future__ import annotations

import datetime as dt
import uuid

import pytest
from sqlalchemy import text

from cardsync.store.console import lists, paging
from cardsync.store.deletions import requests
from tests.factories import CustomerFactory, EventFactory, make_card

MOMENT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
NONE = {"status": None, "environment": None, "error": None}


def walked(engine, read):
    found, after = [], None
    with engine.connect() as connection:
        while True:
            page = read(connection, after)
            found += [row["ref"] for row in page.rows]
            after = page.after
            if after is None:
                return found


@pytest.mark.parametrize("status", [None, "failed"])
def test_pages_of_notifications_lose_nothing_where_many_share_a_moment(engine, monkeypatch, status):
    monkeypatch.setattr(paging, "PAGE", 4)
    made = [EventFactory(status="failed", received_at=MOMENT + dt.timedelta(minutes=n // 6)) for n in range(14)]
    found = walked(
        engine, lambda connection, after: lists.notifications(connection, **{**NONE, "status": status}, after=after)
    )
    assert len(found) == 14
    assert set(found) == {one.event_id for one in made}


def test_failures_are_filtered_by_environment_and_error(engine):
    EventFactory(status="failed", last_error="boom")
    EventFactory(status="failed", last_error="boom", environment="production")
    EventFactory(status="failed", last_error="other")
    with engine.connect() as connection:
        for environment, error, number in (
            (None, None, 3),
            ("sandbox", None, 2),
            (None, "boom", 2),
            ("production", "other", 0),
            ("production", "boom", 1),
        ):
            page = lists.notifications(connection, status="failed", environment=environment, error=error, after=None)
            assert len(page.rows) == number


def test_a_notification_shows_its_customer_by_our_number_and_no_secret(engine):
    customer = CustomerFactory(customer_id="someone")
    event = EventFactory(customer_id="someone")
    with engine.connect() as connection:
        found = lists.notification(connection, event.event_id)
        assert found is not None
        assert found.facts["customer"] == customer.id
        assert not {"token", "facts", "customer_id", "body_hash", "signature_hash"} & set(found.facts)
        assert lists.notification(connection, uuid.uuid4()) is None


def test_deletions_are_listed_by_state_with_their_receipt(engine, monkeypatch):
    monkeypatch.setattr(paging, "PAGE", 2)
    asked = []
    with engine.begin() as connection:
        for _ in range(5):
            card = make_card(CustomerFactory())
            asked.append(requests.request(connection, card_id=card.card_id, requested_by="x").deletion_id)
        assert requests.cancel(connection, asked[0], by="x")
    for state, expected in (
        ("all", asked),
        ("open", asked[1:]),
        ("failed", []),
        ("cancelled", asked[:1]),
        ("held", []),
        ("done", []),
        ("blocked", []),
    ):
        found = walked(
            engine, lambda connection, after, state=state: lists.deletions(connection, state=state, after=after)
        )
        assert sorted(found) == sorted(expected), state
    with engine.connect() as connection:
        one = lists.deletion(connection, asked[0])
        assert one is not None
        assert [step["step"] for step in one.steps] == ["asked", "failed"]
        assert all(step["step_no"] and step["hash"] and step["sealed_by"] is None for step in one.steps)
        assert lists.deletion(connection, uuid.uuid4()) is None


def test_erasures_show_numbers_and_no_name_of_the_merchant_s(engine):
    customer = CustomerFactory(customer_id="someone", environment="production")
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO cardsync.erasures (customer_id, requested_by) VALUES ('someone', 'x')"))
        (row,) = lists.erasures(connection, state="all", after=None).rows
    assert (row["production"], row["sandbox"]) == (customer.id, None)
    assert "customer_id" not in row


def test_erasures_are_listed_by_how_far_they_are(engine):
    states = {"pending": ("all", "open"), "blocked": ("all", "open", "stuck"), "failed": ("all", "open", "stuck")}
    with engine.begin() as connection:
        for status, due in (*((one, "now()") for one in states), ("done", "NULL")):
            connection.execute(
                text(
                    "INSERT INTO cardsync.erasures (customer_id, requested_by, status, due_at, finished_at, error)"
                    f" VALUES (:status, 'x', :status, {due}, CASE WHEN :status = 'done' THEN now() END,"
                    " CASE WHEN :status IN ('blocked', 'failed') THEN 'why' END)"
                ),
                {"status": status},
            )
        for state in lists.ERASURE_STATES:
            found = {row["status"] for row in lists.erasures(connection, state=state, after=None).rows}
            expected = {status for status, shown in states.items() if state in shown}
            assert found == expected | ({"done"} if state in ("all", "done") else set()), state
        assert lists.erasure(connection, uuid.uuid4()) is None


def test_the_feed_goes_back_from_its_head(engine, monkeypatch):
    monkeypatch.setattr(lists, "PAGE", 2)
    for _ in range(3):
        make_card(CustomerFactory())
    with engine.connect() as connection:
        newest = lists.feed(connection, before=None)
        older = lists.feed(connection, before=newest.rows[-1]["seq"])
    assert (newest.head, [row["seq"] for row in (*newest.rows, *older.rows)]) == (3, [3, 2, 1])


def test_a_resync_s_progress_is_estimated_by_a_sample(engine):
    for n in range(4):
        CustomerFactory(reconciled_at=MOMENT if n else dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1))
    with engine.begin() as connection:
        assert lists.runs(connection).share_seen is None
        connection.execute(text("INSERT INTO cardsync.walks (began_by, expected, last_customer) VALUES ('x', 4, 4)"))
        connection.execute(text("INSERT INTO cardsync.imports (content_hash) VALUES (sha256('x'))"))
        found = lists.runs(connection)
    assert found.share_seen == 0.25
    assert (len(found.imports), len(found.resyncs)) == (1, 1)


def test_cadences_of_a_small_table_are_exact(engine):
    CustomerFactory(reconciled_at=MOMENT, cadence=3)
    CustomerFactory(reconciled_at=None)
    with engine.connect() as connection:
        assert lists.cadences(connection) == lists.Cadences(2, {3: 1.0, -1: 1.0})


def test_deliveries_of_an_endpoint_are_listed_by_state(engine):
    event = EventFactory(settled=True)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO cardsync.endpoints (endpoint_id, name, url, kind, secret)"
                " VALUES (gen_random_uuid(), 'shop', 'https://shop.example', 'notifications', 'x');"
                "INSERT INTO cardsync.deliveries (endpoint_id, event_id)"
                " SELECT endpoint_id, e.event_id FROM cardsync.endpoints, cardsync.events AS e"
            )
        )
        found = {
            s: lists.deliveries(connection, endpoint="shop", status=s, after=None).rows for s in lists.DELIVERY_STATES
        }
    assert [len(rows) for rows in found.values()] == [1, 0, 0]
    assert found["pending"][0]["ref"] == event.event_id
