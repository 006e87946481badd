"""What pages show, to each role; what they cost; and that one region which fails leaves the others standing."""

from __future__ import annotations

import datetime as dt
import uuid

import pytest
from sqlalchemy import event, text

from cardsync.store.deletions import requests
from tests.factories import CustomerFactory, EventFactory, make_card
from tests.store.rows import one

NAME = "MARKED NAME OF A PAYER"
NUMBER = "**** 4471"
TOKEN = "9999123412344471"
STATEMENTS_MAX = 5


@pytest.fixture
def customer(engine):
    """A customer with an active card that has everything which is secret or personal."""
    made = CustomerFactory(customer_id="marked/customer é", reconciled_at=dt.datetime.now(dt.UTC))
    made.card = make_card(
        made, token=TOKEN, number=NUMBER, last4="4471", name_on_card=NAME, confirmed_at=dt.datetime.now(dt.UTC)
    )
    make_card(
        made,
        status="removed",
        token=None,
        number=None,
        removed_at=dt.datetime.now(dt.UTC),
        removed_because="absent",
        fingerprint=b"x" * 32,
    )
    EventFactory(
        environment="sandbox", customer_id=made.customer_id, session_id="s" * 40, reference_number="ref-1", settled=True
    )
    EventFactory(
        environment="sandbox", customer_id=made.customer_id, token="99990001", status="failed", last_error="boom"
    )
    made.engine = engine
    other = make_card(CustomerFactory())
    with engine.begin() as connection:
        asked = requests.request(connection, card_id=other.card_id, requested_by="test", reason="asked by phone")
        made.deletion_id = asked.deletion_id
        erasure = (
            "INSERT INTO cardsync.erasures (customer_id, requested_by) VALUES (:customer, 'test') RETURNING erasure_id"
        )
        made.erasure_id = connection.execute(text(erasure), {"customer": made.customer_id}).scalar_one()
        connection.execute(
            text(
                "INSERT INTO cardsync.walks (began_by, expected, last_customer) VALUES ('test', 2, 9);"
                "INSERT INTO cardsync.imports (content_hash) VALUES (sha256('x'));"
                "INSERT INTO cardsync.endpoints (endpoint_id, name, url, kind, secret) VALUES"
                " (gen_random_uuid(), 'shop', 'https://user:hidden@shop.example/hook?key=hidden', 'notifications', 'x');"
                "INSERT INTO cardsync.deliveries (endpoint_id, event_id) SELECT endpoint_id, event_id"
                " FROM cardsync.endpoints, cardsync.events AS e WHERE e.status = 'failed'"
            )
        )
    return made


def pages(customer):
    event_id = one(customer.engine, "SELECT event_id FROM cardsync.events WHERE status = 'failed'").event_id
    return [
        "/",
        "/find",
        f"/customers/{customer.id}",
        f"/cards/{customer.card.card_id}",
        "/notifications",
        "/notifications?status=failed",
        f"/notifications/{event_id}",
        "/notifications/replay-all",
        "/deletions",
        "/deletions?state=failed",
        "/deletions/replay-all?phase=blocked",
        f"/deletions/{customer.deletion_id}",
        "/erasures",
        "/erasures?state=stuck",
        f"/erasures/{customer.erasure_id}",
        f"/erasures/{customer.id}/new",
        "/customers/odd",
        "/spool",
        "/calls",
        "/calls?budget=1000",
        "/brake",
        "/feed",
        "/endpoints",
        "/deliveries",
        "/deliveries?name=shop",
        "/deliveries/replay-all?name=shop",
        "/brake/requests/release-all?asker=api:shop",
        "/imports",
        "/operations",
        "/access",
        "/audit",
        "/preferences",
    ]


def test_a_customer_is_found_by_its_own_id_which_stands_in_no_address(signed_in, customer):
    browser = signed_in("support")
    browser.get("/find")
    answer = browser.post("/find", said=f"  {customer.customer_id} ")
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/customers/{customer.id}")
    page = browser.get(answer.headers["Location"]).text
    for shown in (customer.customer_id, "active", "removed", NUMBER, "notification", "failed"):
        assert shown in page


def test_things_are_found_by_every_id_that_they_bear(signed_in, customer, engine):
    browser = signed_in("support")
    card = str(customer.card.card_id)
    assert browser.post("/find", said=card).headers["Location"] == f"/cards/{card}"
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO cardsync.agreements VALUES ('sandbox', 'agr-7', :card, 1)"), {"card": card}
        )
    assert browser.post("/find", said="agr-7").headers["Location"] == f"/cards/{card}"
    for said, by in (("s" * 40, "session"), ("ref-1", "reference")):
        answer = browser.post("/find", said=said)
        assert answer.status_code in (200, 303)
        assert answer.status_code == 303 or by in answer.text


def test_one_id_in_both_environments_is_a_choice(signed_in, customer):
    CustomerFactory(environment="production", customer_id=customer.customer_id)
    answer = signed_in("support").post("/find", said=customer.customer_id)
    assert answer.status_code == 200
    assert "sandbox" in answer.text
    assert "production" in answer.text


def test_a_token_is_refused_and_not_shown_again(signed_in, customer):
    browser = signed_in("support")
    for said in (TOKEN, "4111 1111 1111 1111"):
        answer = browser.post("/find", said=said)
        assert answer.status_code == 400
        assert said not in answer.text
    phone = CustomerFactory(customer_id="96551234567")
    assert browser.post("/find", said="96551234567").headers["Location"] == f"/customers/{phone.id}"


@pytest.mark.parametrize("said", ["", "x" * 256, "a\x00b"])
def test_what_can_be_no_id_is_refused(signed_in, said):
    assert signed_in("support").post("/find", said=said).status_code == 400


def test_what_is_not_there_says_so(signed_in):
    browser = signed_in("support")
    assert "Nothing has this id" in browser.post("/find", said="nothing").text
    for path in ("/customers/999999", f"/cards/{uuid.uuid4()}", "/nothing"):
        assert browser.get(path).status_code == 404


def test_names_and_numbers_are_for_support_and_tokens_for_no_role(signed_in, customer):
    for role, personal in (("viewer", False), ("support", True), ("operator", True), ("admin", True)):
        browser = signed_in(role)
        shown = "".join(browser.get(path).text for path in pages(customer))
        assert (NUMBER in shown) == personal, role
        assert (NAME in shown) == personal, role
        assert TOKEN not in shown
        assert "hidden" not in shown.replace("visually-hidden", "").replace("aria-hidden", "").replace(
            'type="hidden"', ""
        )
        assert customer.card.fingerprint.hex() not in shown


def test_a_card_is_explained_in_sentences(signed_in, customer):
    page = signed_in("viewer").get(f"/cards/{customer.card.card_id}").text
    assert "Active since <time" in page
    assert "the list last believed, of <time" in page


def test_a_page_costs_at_most_five_statements(signed_in, customer, console_engine):
    browser = signed_in("admin")
    asked = []
    event.listen(console_engine, "before_cursor_execute", lambda _c, _k, statement, *_: asked.append(statement))
    for path in pages(customer):
        browser.get(path)  # figures that all viewers share are read once
        asked.clear()
        assert browser.get(path).status_code == 200
        assert 0 < len(asked) <= STATEMENTS_MAX, (path, asked)


def test_the_sample_that_a_forecast_needs_is_read_once_for_all_viewers(signed_in, customer, console_engine):
    asked = []
    event.listen(console_engine, "before_cursor_execute", lambda _c, _k, statement, *_: asked.append(statement))
    for _ in range(3):
        assert "Oldest list at most" in signed_in("viewer").get("/calls?budget=1000").text
    assert len([one for one in asked if "AS cadence" in one]) == 1


@pytest.mark.parametrize("statement_timeout_ms", [1_000])
def test_a_region_that_takes_too_long_says_so_and_the_rest_stands(signed_in, customer, engine):
    browser = signed_in("admin")
    with engine.begin() as connection:  # nothing can be read of deletions' steps, and so of the timeline, meanwhile
        connection.execute(text("LOCK TABLE cardsync.observations IN ACCESS EXCLUSIVE MODE"))
        page = browser.get(f"/customers/{customer.id}")
    assert page.status_code == 200
    assert "took longer than a second" in page.text
    assert NUMBER in page.text


def test_a_timeline_has_pages_that_show_each_entry_once(signed_in, customer):
    moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    for n in range(120):
        EventFactory(
            environment="sandbox",
            customer_id=customer.customer_id,
            received_at=moment + dt.timedelta(minutes=n // 3),  # three share a moment
            status="ignored",
            kind="operation",
            ignored_because=f"entry-{n:03}",
            settled=True,
        )
    browser, address, seen = signed_in("viewer"), f"/customers/{customer.id}", []
    while address:
        page = browser.get(address).text
        seen += [line.partition("entry-")[2][:3] for line in page.splitlines() if "entry-" in line]
        older = page.rpartition('">Older</a>')[0].rpartition('href="')[2]
        address = older.replace("&amp;", "&") if older.startswith("/customers") and "after=" in older else ""
    assert sorted(seen) == [f"{n:03}" for n in range(120)]


def test_what_needs_a_person_comes_first_with_its_next_step(signed_in, customer, engine):
    browser = signed_in("viewer")
    page = browser.get("/").text
    assert "1 notification failed." in page
    assert "/notifications?status=failed" in page
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE cardsync.gate SET brake_engaged_at = now(), breaker_reason = 'credentials', "
                "breaker_opened_at = now(), breaker_shut_until = now() + interval '1 minute'"
            )
        )
        connection.execute(
            text("UPDATE cardsync.events SET status = 'ignored', ignored_because = 'x', token = NULL, facts = NULL")
        )
    page = browser.get("/").text
    assert page.index("refuses our credentials") < page.index("The brake on removals is engaged")
    assert "notification failed" not in page


def test_an_empty_registry_teaches(signed_in):
    page = signed_in("viewer").get("/").text
    assert "Nothing needs a person" in page
    assert "No customer is known yet" in page
    assert "No audit is judged yet" in page


def test_times_are_in_the_viewer_s_zone_with_utc_beside_them(signed_in):
    made = CustomerFactory(reconciled_at=dt.datetime(2026, 3, 1, 22, 30, tzinfo=dt.UTC))
    browser = signed_in("viewer")
    assert browser.post("/preferences", language="en", zone="Asia/Kuwait", theme="dark", refresh="0").status_code == 303
    page = browser.get(f"/customers/{made.id}").text
    assert (
        '<time datetime="2026-03-01T22:30:00.000Z" title="2026-03-01 22:30:00 UTC">2 Mar 2026, 01:30:00</time>' in page
        or ('title="2026-03-01 22:30:00 UTC">2 Mar 2026 01:30:00</time>' in page)
    )
    assert 'data-theme="dark"' in page


def test_a_moment_in_a_receipt_is_shown_as_all_other_times_are(signed_in, customer, engine):
    detail = '{"asked_at": "2026-03-01T22:30:00.123456+00:00", "observation_no": 7, "error": "2026-03-01T22:30:00"}'
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO cardsync.deletion_steps (deletion_id, step, detail) VALUES (:id, 'absent', cast(:d AS jsonb))"
            ),
            {"id": customer.deletion_id, "d": detail},
        )
    browser = signed_in("viewer")
    assert browser.post("/preferences", language="en", zone="Asia/Kuwait", theme="dark", refresh="0").status_code == 303
    page = browser.get(f"/deletions/{customer.deletion_id}").text
    time = '<time datetime="2026-03-01T22:30:00.123Z" title="2026-03-01 22:30:00 UTC">2 Mar 2026'
    assert f'<span class="quiet">asked for</span> {time}' in page
    assert "2026-03-01T22:30:00.123456" not in page
    assert '<span class="quiet">error</span> 2026-03-01T22:30:00' in page  # what Ottu said stays as it was
