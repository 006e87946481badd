"""Operations from the console: a dry run first; a typed word and a new sign-in for what changes much."""

from __future__ import annotations

import datetime as dt
import html
import json
import re
import uuid

import pytest
from sqlalchemy import text

from cardsync.core.brake import Limits
from cardsync.store import inbox
from cardsync.store.access import keys
from cardsync.store.deletions import requests
from cardsync.stories.carry_out import carry_out
from tests.clocks import host_off_by
from tests.factories import RING, CustomerFactory, EventFactory, make_card
from tests.store.rows import change, one
from tests.web.console.conftest import Browser, filter_of

LIMITS = Limits(0.15, 25)


UNTIL = "2026-01-01T00:00:00+00:00"


def filter_of_asker(asker):
    return json.dumps({"asker": asker, "until": UNTIL})


def age_sign_ins(engine):
    change(engine, "UPDATE cardsync.console_sessions SET began_at = began_at - interval '11 minutes'")


def comes_again(page):
    """Whether the page comes again by itself soon: with the script, and without one."""
    with_script, without = (
        'data-refresh="2"' in page.text,
        '<noscript><meta http-equiv="refresh" content="2">' in page.text,
    )
    assert with_script == without
    return with_script


def test_a_failed_notification_is_replayed_and_its_page_tells_the_progress(signed_in, engine, worker_engine):
    event, browser = EventFactory(status="failed", last_error="boom"), signed_in("operator")
    assert "Replay" in browser.get(f"/notifications/{event.event_id}").text
    asked = browser.post(f"/notifications/{event.event_id}/replay")
    page = browser.get(asked.headers["Location"])
    assert comes_again(page)
    browser.client.set_cookie("console-refresh", "0", domain="127.0.0.1")
    assert not comes_again(browser.get(asked.headers["Location"]))
    assert "running" in page.text
    while carry_out(worker_engine, LIMITS, RING):
        pass
    page = browser.get(asked.headers["Location"])
    assert not comes_again(page)
    assert "1 of about 1 done, 0 failed." in page.text
    assert ">Replay</button>" not in browser.get(f"/notifications/{event.event_id}").text


def test_all_that_match_is_an_operation_on_the_server_with_a_dry_run(signed_in, engine, worker_engine):
    for n in range(500):
        EventFactory(status="failed", last_error="boom", customer_id=f"customer {n % 7}")
    EventFactory(status="failed", last_error="other")
    browser = signed_in("operator")
    page = browser.get("/notifications/replay-all?error=boom").text
    assert ">500<" in page
    assert ">7<" in page
    filter_ = filter_of(page)
    assert browser.post("/notifications/replay-all", filter=filter_, word="replay").status_code == 400
    asked = browser.post("/notifications/replay-all", filter=filter_, word="REPLAY", reason="fixed")
    while carry_out(worker_engine, LIMITS, RING):
        pass
    assert "500 of about 500 done, 0 failed." in browser.get(asked.headers["Location"]).text
    assert one(engine, "SELECT count(*) AS n FROM cardsync.events WHERE status = 'failed'").n == 1
    kept = one(engine, "SELECT filter, reason FROM cardsync.operations")
    assert (kept.filter, kept.reason) == (json.loads(filter_), "fixed")


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_dry_run_is_frozen_at_the_databases_moment_whatever_the_hosts_clock_says(signed_in, engine, minutes):
    EventFactory(status="failed")
    browser = signed_in("operator")
    before = one(engine, "SELECT clock_timestamp() AS now").now
    with host_off_by(minutes):
        page = browser.get("/notifications/replay-all").text
    until = dt.datetime.fromisoformat(json.loads(filter_of(page))["until"])
    assert before <= until <= one(engine, "SELECT clock_timestamp() AS now").now


def test_a_form_that_names_a_later_moment_means_this_one(signed_in, engine, worker_engine):
    EventFactory(status="failed")
    browser = signed_in("operator")
    browser.get("/notifications/replay-all")
    asked = browser.post(
        "/notifications/replay-all", filter=json.dumps({"until": "9999-12-31T23:59:59+00:00"}), word="REPLAY"
    )
    later = EventFactory(status="failed")
    while carry_out(worker_engine, LIMITS, RING):
        pass
    assert "1 of about 1 done, 0 failed." in browser.get(asked.headers["Location"]).text
    assert one(engine, "SELECT event_id FROM cardsync.events WHERE status = 'failed'").event_id == later.event_id


def test_an_old_notification_that_fails_after_the_dry_run_is_not_meant(signed_in, engine, worker_engine):
    EventFactory(status="failed")
    slow = EventFactory(attempts=inbox.MAX_ATTEMPTS - 1)
    browser = signed_in("operator")
    page = browser.get("/notifications/replay-all").text
    assert "What fails after this moment is not meant." in page
    with engine.begin() as connection:
        assert inbox.postpone(connection, slow.event_id, error="boom", wait_seconds=0.0, counted=True) == "failed"
    asked = browser.post("/notifications/replay-all", filter=filter_of(page), word="REPLAY")
    while carry_out(worker_engine, LIMITS, RING):
        pass
    assert "1 of about 1 done, 0 failed." in browser.get(asked.headers["Location"]).text
    assert one(engine, "SELECT event_id FROM cardsync.events WHERE status = 'failed'").event_id == slow.event_id
    assert filter_of(browser.get("/notifications/replay-all").text)
    with engine.connect() as connection:
        failed_at = inbox.show(connection, slow.event_id)["due_at"]
    assert failed_at <= one(engine, "SELECT clock_timestamp() AS now").now


def test_an_asker_s_held_requests_are_released_after_a_dry_run_and_the_page_says_what_was_not(
    signed_in, engine, worker_engine
):
    change(engine, "UPDATE cardsync.deletion_brake SET floor = 0, share = 0.0001")
    asked = []
    for _ in range(3):
        card = make_card(CustomerFactory())
        with engine.begin() as connection:
            request = requests.request(connection, card_id=card.card_id, requested_by="x", asker="api:shop & co")
        asked.append(request.deletion_id)
    browser = signed_in("operator")
    path = html.unescape(re.search(r'href="(/brake/requests/release-all[^"]*)"', browser.get("/brake").text)[1])
    page = browser.get(path).text
    assert re.search(r"Matching now</dt><dd>3</dd>\s*<dt>Calls to Ottu, about</dt><dd>6<", page)
    filter_ = filter_of(page)
    assert json.loads(filter_)["asker"] == "api:shop & co"
    assert browser.post("/brake/requests/release-all", filter=filter_, word="REPLAY").status_code == 400
    progress = browser.post("/brake/requests/release-all", filter=filter_, word="RELEASE").headers["Location"]
    assert "0 of about 3 done" in browser.get(progress).text
    with engine.begin() as connection:
        assert requests.cancel(connection, asked[0], by="op")
    while carry_out(worker_engine, LIMITS, RING):
        pass
    assert "2 of about 3 done, 0 failed." in browser.get(progress).text
    assert "No asker's requests are held." in browser.get("/brake").text


@pytest.mark.parametrize("path", ["/deliveries/replay-all", "/brake/requests/release-all"])
@pytest.mark.parametrize(
    "filter_",
    [
        *("", "[]", "{}", '{"until": "now"}', '{"until": "2026-01-01T00:00:00"}', filter_of_asker("x" * 201)),
        '{"until": "0001-01-01T00:00:00+23:00", "asker": "x", "endpoint": "x"}',
    ],
)
def test_a_filter_that_no_dry_run_made_is_refused(signed_in, engine, path, filter_):
    word = "RELEASE" if "brake" in path else "REPLAY"
    assert signed_in("operator").post(path, filter=filter_, word=word).status_code == 400
    assert one(engine, "SELECT count(*) AS n FROM cardsync.operations").n == 0


def test_a_dry_run_and_its_form_are_for_operators_alone(signed_in, engine):
    dry_runs = ("/deliveries/replay-all?name=x", "/brake/requests/release-all?asker=x", "/deletions/replay-all")
    for role in ("viewer", "support"):
        browser = signed_in(role)
        for path in dry_runs:
            assert browser.get(path).status_code == 403
            assert browser.post(path.partition("?")[0], filter=filter_of_asker("x"), word="RELEASE").status_code == 403
    assert one(engine, "SELECT count(*) AS n FROM cardsync.operations").n == 0
    browser = signed_in("operator")
    for path in dry_runs:
        assert "Nothing matches." in browser.get(path).text
    for path in ("/deliveries/replay-all", "/brake/requests/release-all", "/deletions/replay-all?phase=done"):
        assert browser.get(path).status_code == 404


def test_what_changes_much_wants_a_new_sign_in(signed_in, engine):
    customer, browser = CustomerFactory(), signed_in("admin")
    EventFactory(status="failed")
    filter_ = filter_of(browser.get("/notifications/replay-all").text)
    age_sign_ins(engine)
    assert "sign-in of the last ten minutes" in browser.get(f"/erasures/{customer.id}/new").text
    for path, fields in (
        (f"/customers/{customer.id}/erase", {"word": "ERASE"}),
        ("/brake/release", {"word": "RELEASE"}),
        ("/brake/requests/release-all", {"word": "RELEASE", "filter": filter_of_asker("x")}),
        ("/deliveries/replay-all", {"word": "REPLAY", "filter": json.dumps({"endpoint": "x", "until": UNTIL})}),
        ("/notifications/replay-all", {"word": "REPLAY", "filter": filter_}),
        ("/deletions/replay-all", {"word": "REPLAY", "filter": json.dumps({"phase": "failed", "until": UNTIL})}),
        ("/calls/resume", {"word": "RESUME"}),
        ("/access/operators/invite", {"name": "Bilal", "role": "viewer"}),
        ("/access/keys", {"name": "shop", "scope": "cards:read"}),
    ):
        answer = browser.post(path, **fields)
        assert (answer.status_code, "last ten minutes" in answer.text) == (403, True), path
    assert one(engine, "SELECT count(*) AS n FROM cardsync.operations").n == 0


def test_a_person_is_erased_and_the_brake_released_by_a_worker(signed_in, engine, worker_engine):
    customer, browser = CustomerFactory(), signed_in("admin")
    make_card(customer)
    change(engine, "UPDATE cardsync.gate SET brake_engaged_at = now()")
    assert "Release the brake" in browser.get("/brake").text
    assert browser.post("/brake/release", word="RELEASE", accept="2", reason="seen at Ottu").status_code == 303
    assert browser.post(f"/customers/{customer.id}/erase", word="ERASE").status_code == 303
    while carry_out(worker_engine, LIMITS, RING):
        pass
    assert one(engine, "SELECT brake_engaged_at FROM cardsync.gate").brake_engaged_at is None
    assert one(engine, "SELECT status FROM cardsync.cards").status == "deleting"
    assert "release the brake on removals: ended" in browser.get("/audit").text


def test_an_operation_is_cancelled_and_only_while_it_is_under_way(signed_in, engine):
    event, browser = EventFactory(status="failed"), signed_in("operator")
    asked = browser.post(f"/notifications/{event.event_id}/replay").headers["Location"]
    assert browser.post(f"{asked}/cancel").status_code == 303
    assert browser.post(f"{asked}/cancel").status_code == 409
    assert "cancelled" in browser.get(asked).text


def test_an_admin_invites_operators_and_makes_keys_which_are_shown_once(signed_in, engine, console):
    browser = signed_in("admin")
    page = browser.post("/access/operators/invite", name="Bilal", role="viewer").text
    (link,) = re.findall(r"/sign-in/([A-Za-z0-9_-]{43})", page)
    assert Browser(console).sign_in(link).status_code == 200
    page = browser.post("/access/keys", name="shop", scope="cards:read", days="30").text
    (key,) = re.findall(r"cs_live_[A-Za-z0-9_-]{43}", page)
    kept = one(engine, "SELECT key_id, scopes, prefix FROM cardsync.api_keys")
    assert (kept.scopes, kept.prefix) == (["cards:read"], keys.shown_prefix(key))
    access = browser.get("/access").text
    assert key not in access
    assert link not in access
    with engine.connect() as connection:
        journal = str(connection.execute(text("SELECT a::text FROM cardsync.operator_actions AS a")).all())
    assert key not in journal
    assert link not in journal
    assert browser.post(f"/access/keys/{kept.key_id}/revoke").status_code == 303
    assert browser.post(f"/access/keys/{kept.key_id}/revoke").status_code == 409
    assert browser.post("/access/operators/disable", name="Bilal").status_code == 303
    for wrong in (
        {"name": "", "role": "viewer"},
        {"name": "x", "role": "owner"},
        {"name": "4111 1111 1111 1111", "role": "viewer"},
    ):
        assert browser.post("/access/operators/invite", **wrong).status_code == 400


@pytest.mark.parametrize(
    ("path", "given", "made"),
    [
        ("/access/keys", {"name": "shop", "scope": "cards:read"}, "api_keys"),
        ("/access/operators/invite", {"name": "Bilal", "role": "viewer"}, "operators WHERE name = 'Bilal'"),
    ],
)
def test_a_form_that_shows_a_secret_makes_one_however_often_it_is_sent(signed_in, engine, path, given, made):
    browser = signed_in("admin")
    once = {**given, "request_key": str(uuid.uuid4())}
    assert browser.post(path, **once).status_code == 200
    rows = (
        f"SELECT count(*) AS n, string_agg(t::text, ' ') AS said FROM cardsync.{made.replace(' WHERE', ' AS t WHERE')}"
    )
    rows = rows if "WHERE" in rows else f"{rows} AS t"
    before = one(engine, rows)
    again = browser.post(path, **once)
    assert (again.status_code, "this form was sent before" in again.text) == (409, True)
    assert one(engine, rows) == before
    assert before.n == 1


def test_nobody_changes_the_own_role(signed_in, engine):
    browser = signed_in("admin")
    name = one(engine, "SELECT name FROM cardsync.operators").name
    assert browser.post("/access/operators/invite", name=name, role="viewer").status_code == 409
    assert browser.post("/access/operators/disable", name=name).status_code == 409
    assert browser.get("/").status_code == 200


def test_a_deletion_s_way_is_drawn_from_the_transition_table(signed_in, engine):
    card, browser = make_card(CustomerFactory()), signed_in("operator")
    browser.post(f"/cards/{card.card_id}/deletions")
    deletion_id = one(engine, "SELECT deletion_id FROM cardsync.deletions").deletion_id
    page = browser.get(f"/deletions/{deletion_id}").text
    assert page.count('class="stage') >= 4
    assert 'aria-current="step"' in page
    assert "Cancel" in page
