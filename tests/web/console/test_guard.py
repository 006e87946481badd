"""Who may use which route, and what of a form proves that it is ours: every route with every role."""

from __future__ import annotations

import re
import uuid

import pytest
from sqlalchemy import text

from cardsync.store.console.operators import ROLES
from cardsync.store.console.operators import may as includes
from cardsync.web.console.roles import ROUTES
from tests.web.console.conftest import ORIGIN, Browser

# What stands in an address, by its converter: things that are not there, so that no action has an effect.
EXAMPLES = {"int": "1", "uuid": str(uuid.UUID(int=1)), "default": "x", "path": "console.css"}
CHANGES_NO_SESSION = [name for name in ROUTES if name != "sign_in.sign_out"]


def addresses(app):
    """Every route's address and method, with examples for what varies."""
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:(\w+)(?:\([^)]*\))?:)?(\w+)>", lambda found: EXAMPLES[found[1] or "default"], rule.rule)
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            yield rule.endpoint, method, path


def test_every_route_has_its_rule_and_every_rule_its_route(console):
    assert {endpoint for endpoint, _, _ in addresses(console)} == set(ROUTES)


def test_every_route_asks_for_its_role(console, signed_in):
    outcomes = {}
    for role in ROLES:
        browser = signed_in(role)
        for endpoint, method, path in addresses(console):
            if endpoint not in CHANGES_NO_SESSION or ROUTES[endpoint].role is None:
                continue
            answer = browser.get(path) if method == "GET" else browser.post(path)
            outcomes[role, endpoint, method] = answer.status_code
    for (role, endpoint, method), status in outcomes.items():
        allowed = includes(role, ROUTES[endpoint].role)
        assert (status != 403) == allowed, (role, endpoint, method, status)
        assert status < 500, (role, endpoint, method, status)
    assert len(outcomes) > 150


def test_without_a_session_a_page_leads_to_the_sign_in_and_a_form_is_refused(console):
    browser = Browser(console)
    for endpoint, method, path in addresses(console):
        if ROUTES[endpoint].role is None:
            continue
        answer = browser.get(path) if method == "GET" else browser.post(path)
        assert (answer.status_code, answer.headers.get("Location")) in ((303, "/sign-in"), (403, None)), endpoint


def test_a_viewer_s_forms_are_refused_everywhere_but_for_the_viewer_s_own(console, signed_in):
    browser = signed_in("viewer")
    posts = [(endpoint, path) for endpoint, method, path in addresses(console) if method == "POST"]
    assert len(posts) > 4
    for endpoint, path in posts:
        if ROUTES[endpoint].role not in (None, "viewer"):
            assert browser.post(path).status_code == 403, endpoint


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1:8001"])
def test_a_form_from_another_site_is_refused_even_with_the_right_token(console, signed_in, origin):
    browser = signed_in("admin")
    for endpoint, method, path in addresses(console):
        if method == "POST":
            assert browser.post(path, origin=origin).status_code == 403, endpoint


def test_a_form_without_its_token_or_with_another_session_s_is_refused(signed_in):
    browser, other = signed_in("admin"), signed_in("admin")
    for token in ("", "x", other.token):
        assert browser.post("/preferences", token=token).status_code == 403
    assert browser.post("/preferences").status_code == 303


def test_a_browser_that_says_no_origin_says_which_site_the_form_is_of(signed_in):
    browser = signed_in("admin")
    form = {"form_token": browser.token}
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 303), ("none", 303)):
        sent = browser.client.post("/preferences", data=form, headers={"Sec-Fetch-Site": site}, base_url=ORIGIN)
        assert sent.status_code == status, site


def test_read_only_turns_every_action_off_and_nothing_else(make_console, signed_in, engine):
    app = make_console(console_read_only=True)
    browser = signed_in("admin", app=app)
    for endpoint, method, path in addresses(app):
        if method == "POST" and ROUTES[endpoint].writes:
            answer = browser.post(path)
            assert answer.status_code == 403, endpoint
            assert "read-only" in answer.text
    assert browser.post("/find", said="nothing").status_code == 200
    assert "read-only" in browser.get("/").text
    assert browser.post("/sign-out").status_code == 303


def test_a_long_form_and_a_chunked_one_are_refused(signed_in):
    browser = signed_in("admin")
    assert browser.post("/find", said="x" * 70_000).status_code == 413
    chunked = browser.client.post(
        "/find", data=b"", headers={"Origin": ORIGIN, "Transfer-Encoding": "chunked"}, base_url=ORIGIN
    )
    assert chunked.status_code == 411


def test_every_answer_allows_nothing_inline_and_nothing_from_elsewhere(console, signed_in):
    browser = signed_in("admin")
    for path in ("/", "/find", "/audit", "/preferences", "/sign-in", "/nothing", "/livez"):
        answer = browser.get(path)
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self'")
        assert "unsafe" not in policy
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        for inline in ("<style", "style=", "<script>", "onclick", "javascript:"):
            assert inline not in answer.text, (path, inline)


def test_a_page_that_says_the_same_costs_no_body_a_second_time(signed_in):
    browser = signed_in("support")
    first = browser.get("/find")
    again = browser.client.get("/find", headers={"If-None-Match": first.headers["ETag"]}, base_url=ORIGIN)
    assert (again.status_code, again.data) == (304, b"")


def test_the_process_says_that_it_lives_and_whether_it_is_ready(console, engine):
    browser = Browser(console)
    assert browser.get("/livez").json == {"status": "alive"}
    assert browser.get("/readyz").json["status"] == "ready"
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.alembic_version SET version_num = '0027'"))
    answer = browser.get("/readyz")
    assert (answer.status_code, answer.json["checks"]["migrations"]) == (503, "run: cardsync db upgrade")
