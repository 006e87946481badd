"""What pages show, to each role; what they cost; and that one region which fails leaves the others standing."""

from __future__ import annotations

import datetime as dt
import html
import re
import threading
import uuid
from pathlib import Path

import pytest
from sqlalchemy import event, text

from cardsync.store.console import paging
from cardsync.store.deletions import requests
from cardsync.web.console import regions
from cardsync.web.console.pages import now
from tests.factories import CustomerFactory, EventFactory, make_card
from tests.store.rows import change, one
from tests.waiting import until

TEMPLATES = Path(regions.__file__).parent / "templates"

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
        environment="sandbox",
        customer_id=made.customer_id,
        session_id="s" * 40,
        reference_number="ref-1",
        order_no="order-1",
        settled=True,
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
    for said, by in (("s" * 40, "session"), ("ref-1", "reference"), ("order-1", "order")):
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


COUNTING = "This is being counted, once for all who look."


def test_the_first_look_waits_for_no_figure_that_all_viewers_share(
    make_console, signed_in, customer, engine, monkeypatch, console_engine
):
    """The tables that figures are read from are locked, so that a page which waited for one would never be answered."""
    console = make_console()  # as after a start of the process
    monkeypatch.setattr(regions, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(now, "KEEP_SECONDS", 3_600.0)
    asked = []
    event.listen(console_engine, "before_cursor_execute", lambda _c, _k, statement, *_: asked.append(statement))
    with engine.connect() as holder:
        holder.execute(text("LOCK TABLE cardsync.observations, cardsync.audits IN ACCESS EXCLUSIVE MODE"))
        browsers = [signed_in(app=console) for _ in range(3)]
        pages = [browser.get("/").text for browser in browsers]
    assert [page.count(COUNTING) for page in pages] == [3] * 3
    assert all("1 notification failed." in page for page in pages)
    until(lambda: COUNTING not in browsers[0].get("/").text, "the figures are shown once they are known")
    assert "As of" not in browsers[1].get("/").text
    for part in ("'hints'", "TABLESAMPLE", "AS sample,"):
        assert len([one for one in asked if part in one]) == 1, "read once for all viewers"


def test_an_older_figure_is_shown_with_its_time_while_it_is_read_again(make_console, signed_in, engine, monkeypatch):
    monkeypatch.setattr(now, "KEEP_SECONDS", 0.0)
    browser = signed_in(app=make_console())
    assert "No customer is known yet" in browser.get("/").text
    CustomerFactory(reconciled_at=dt.datetime.now(dt.UTC))
    assert "By a sample of 1 of about" in browser.get("/").text
    monkeypatch.setattr(regions, "WAIT_SECONDS", 0.0)
    with engine.connect() as holder:
        holder.execute(text("LOCK TABLE cardsync.observations IN ACCESS EXCLUSIVE MODE"))
        page = browser.get("/").text
    day = page.partition('id="day"')[2].partition("</section>")[0]
    assert "As of <time" in day
    assert "Lists an hour" in day


def test_nothing_is_said_to_be_in_order_while_a_part_of_it_is_not_known(make_console, signed_in, engine, monkeypatch):
    assert "Nothing needs a person" in signed_in(app=make_console()).get("/").text
    answers = threading.Event()
    monkeypatch.setattr(now, "_bad_files", lambda _: answers.wait(60))
    monkeypatch.setattr(regions, "WAIT_SECONDS", 0.0)
    page = signed_in(app=make_console()).get("/").text
    assert "Nothing needs a person" not in page
    assert COUNTING in page.partition('id="needs"')[2].partition("</section>")[0]
    answers.set()


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


def test_a_page_that_ends_early_says_so_and_leads_on(signed_in, monkeypatch):
    monkeypatch.setattr(paging, "LOOKED_AT_MAX", 3)
    for n in range(7):
        EventFactory(
            environment="sandbox" if n == 0 else "production",
            received_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(minutes=n),
            status="failed",
            last_error="OldestOfAll" if n == 0 else "Other",
        )
    browser, address, seen = signed_in("viewer"), "/notifications?environment=sandbox&status=failed", []
    while address:
        page = browser.get(address).text
        seen.append(
            ("OldestOfAll" in page, "looked through 3 rows" in page, "No notification is in this state." in page)
        )
        older = re.search(r'href="([^"]+)">Older</a>', page)
        address = html.unescape(older[1]) if older else ""
    assert seen[:2] == [(False, True, False)] * 2
    assert seen[2][0]
    assert not any(is_empty for *_, is_empty in seen[:2])
    assert "No notification is in this state." in browser.get("/notifications?status=ignored").text


def test_an_environment_is_a_filter_with_a_state_and_without_one(signed_in):
    for environment in ("sandbox", "production"):
        EventFactory(environment=environment, status="failed", last_error=f"Of{environment.title()}")
    browser = signed_in("viewer")
    for path in ("/notifications", "/notifications?status=failed"):
        page = browser.get(f"{path}{'&' if '?' in path else '?'}environment=sandbox").text
        assert "OfSandbox" in page
        assert "OfProduction" not in page


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


def test_each_plot_has_its_table_beside_it(signed_in, engine):
    """A plot is hidden from a screen reader: its figures must stand in a table, each row with its heading."""
    customer = CustomerFactory(reconciled_at=dt.datetime.now(dt.UTC))
    change(
        engine,
        "INSERT INTO cardsync.audits (customer, judged_at, verdict, observation_no, causes)"
        f" SELECT {customer.id}, now(), CASE WHEN n = 1 THEN 'wrong' ELSE 'right' END, n,"
        " CASE WHEN n = 1 THEN '{lag}'::text[] ELSE '{}' END"
        " FROM generate_series(1, 10) AS n",
    )
    page = signed_in("viewer").get("/").text
    plots = [one.partition("</figure>")[0] for one in page.split('<figure class="plot')[1:]]
    assert len(plots) == 5  # three by the hour, the calls, and the drift
    for plot in plots:
        table = plot.partition("<table>")[2].partition("</table>")[0]
        assert re.search("<caption>[^<]+</caption>", table), plot
        body = table.partition("<tbody>")[2]
        assert body.count("<tr>") == body.count('<th scope="row">') > 0, plot
    (drift,) = (plot for plot in plots if 'class="flat"' in plot)
    assert re.findall(r'<td class="number">([^<]+)</td>', drift) == ["59.58%", "90.00%", "98.21%"]


def test_every_drawing_of_the_console_is_one_of_a_plot_with_a_table():
    """The mark beside the name alone says nothing that is not said in words."""
    for file in TEMPLATES.glob("*.html"):
        for drawing in file.read_text(encoding="utf-8").split("<svg")[1:]:
            if not drawing.lstrip().startswith('class="brand-mark"'):
                assert "<table>" in drawing.partition("</figure>")[0], file.name


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
    assert (
        '<span class="quiet">error</span> <bdi lang="en" dir="ltr">2026-03-01T22:30:00' in page
    )  # what Ottu said stays as it was
