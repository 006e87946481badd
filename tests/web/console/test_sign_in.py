"""Signing in by a link, the cookie, and signing out."""

from __future__ import annotations

from sqlalchemy import text

from cardsync.store.console import operators
from cardsync.web.console.sessions import decoded
from tests.web.console.conftest import ORIGIN, Browser

HTTPS = "https://console.example"


def test_a_link_opens_a_session_of_twelve_hours_once(console, link, engine):
    browser, made = Browser(console), link("Amal", "viewer")
    answer = browser.sign_in(made)
    assert answer.status_code == 200
    assert answer.headers["Refresh"] == "0; url=/"
    assert browser.get("/").status_code == 200
    with engine.connect() as connection:
        hours = connection.execute(text("SELECT expires_at - began_at FROM cardsync.console_sessions")).scalar_one()
    assert round(hours.total_seconds()) == 12 * 3_600
    other = Browser(console)
    assert other.sign_in(made).status_code == 403
    assert other.get("/").headers["Location"] == "/sign-in"


def test_the_database_holds_hashes_alone(console, link, engine):
    browser, made = Browser(console), link()
    browser.sign_in(made)
    cookie = browser.client.get_cookie("cardsync-console", domain="127.0.0.1")
    assert cookie is not None
    with engine.connect() as connection:
        rows = text("SELECT o::text, s::text FROM cardsync.operators AS o, cardsync.console_sessions AS s")
        held = str(connection.execute(rows).all())
    for secret in (decoded(made), decoded(cookie.value)):
        assert secret is not None
        assert secret.hex() not in held


def test_a_program_that_looks_at_links_before_people_do_does_not_use_it_up(console, link):
    made = link()
    ahead = Browser(console)
    for headers in ({"User-Agent": "Slackbot-LinkExpanding 1.0"}, {"Sec-Purpose": "prefetch"}):
        answer = ahead.client.get(f"/sign-in/{made}", headers=headers, base_url=ORIGIN)
        assert answer.status_code == 200
        assert "Set-Cookie" not in answer.headers
    assert ahead.client.head(f"/sign-in/{made}", base_url=ORIGIN).status_code == 200
    assert ahead.client.post(f"/sign-in/{made}", headers={"Origin": ORIGIN}, base_url=ORIGIN).status_code == 200
    assert ahead.get("/").status_code == 200


def test_over_https_the_cookie_is_bound_to_the_host_and_hidden_from_scripts(make_console, link):
    browser = Browser(make_console(console_url=HTTPS), HTTPS)
    said = browser.sign_in(link()).headers["Set-Cookie"]
    assert said.startswith("__Host-cardsync=")
    for part in ("Secure", "HttpOnly", "SameSite=Strict", "Path=/"):
        assert part in said
    assert "Domain" not in said


def test_behind_a_proxy_that_ends_tls_forms_work_whatever_host_it_passes_on(make_console, link):
    inside = "http://console:8001"
    app = make_console(console_url=HTTPS)
    browser = Browser(app, inside)
    answer = browser.client.get(f"/sign-in/{link()}", base_url=inside)
    assert answer.status_code == 200
    cookie = answer.headers["Set-Cookie"].partition(";")[0]  # a browser keeps it: to the browser the site is https
    page = browser.client.get("/preferences", base_url=inside, headers={"Cookie": cookie})
    token = page.text.partition('name="form_token" value="')[2].partition('"')[0]
    form = {"form_token": token, "language": "en", "zone": "UTC", "theme": "dark", "refresh": "0"}
    for origin, status in ((HTTPS, 303), ("https://evil.example", 403), ("null", 403), (inside, 403)):
        sent = browser.client.post(
            "/preferences", data=form, base_url=inside, headers={"Cookie": cookie, "Origin": origin}
        )
        assert sent.status_code == status, origin


def test_over_plain_http_the_console_is_for_this_machine_alone(console, link):
    made = link()
    far = Browser(console, "http://console.example:8001")
    answer = far.sign_in(made)
    assert answer.status_code == 403
    assert "CARDSYNC_CONSOLE_URL" in answer.text
    assert Browser(console, "http://localhost:8001").sign_in(made).status_code == 200


def test_inviting_again_ends_older_sessions_and_links(console, link):
    browser, unused = Browser(console), Browser(console)
    browser.sign_in(link("Amal", "viewer"))
    old = link("Bilal", "viewer")
    new = link("Bilal", "support")
    assert unused.sign_in(old).status_code == 403
    assert unused.sign_in(new).status_code == 200
    link("Amal", "viewer")
    assert browser.get("/").headers["Location"] == "/sign-in"
    assert unused.get("/").status_code == 200


def test_signing_out_ends_the_session_in_the_database(signed_in, engine):
    browser = signed_in("viewer")
    kept = browser.client.get_cookie("cardsync-console", domain="127.0.0.1")
    assert browser.post("/sign-out").headers["Location"] == "/sign-in"
    browser.client.set_cookie("cardsync-console", kept.value, domain="127.0.0.1")
    assert browser.get("/").headers["Location"] == "/sign-in"
    with engine.connect() as connection:
        open_ones = text("SELECT count(*) FROM cardsync.console_sessions WHERE ended_at IS NULL")
        assert connection.execute(open_ones).scalar_one() == 0


def test_a_disabled_operator_is_out_at_once(console, link, engine):
    browser = Browser(console)
    browser.sign_in(link("Amal", "viewer"))
    with engine.begin() as connection:
        assert operators.disable(connection, "Amal", by="cli:test")
    assert browser.get("/").headers["Location"] == "/sign-in"


def test_an_old_session_and_an_old_link_are_over(console, link, engine):
    browser = Browser(console)
    browser.sign_in(link("Amal"))
    late = link("Bilal")
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.console_sessions SET expires_at = clock_timestamp()"))
        connection.execute(
            text("UPDATE cardsync.operators SET link_expires_at = clock_timestamp() WHERE name = 'Bilal'")
        )
    assert browser.get("/").headers["Location"] == "/sign-in"
    assert browser.sign_in(late).status_code == 403
