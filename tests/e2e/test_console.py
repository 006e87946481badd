"""The real console beside the real worker: what operators do in Chromium becomes done, and no page, log or journal leaks.

The pages are read through links from page to page, as a person would, until each kind of page was read.
"""

from __future__ import annotations

import html
import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from cardsync import db
from cardsync.dev.simulator.payloads import FAKE_PERSONAL_DATA
from cardsync.settings import Settings
from cardsync.web.console import create_app
from cardsync.web.console.roles import ROUTES
from tests.chromium import CHROMIUM, Keyboard, launched
from tests.e2e.leaks import assert_hidden
from tests.e2e.marks import ONE_BROKER
from tests.e2e.processes import run
from tests.e2e.system import System
from tests.receivers import Receiver
from tests.waiting import until

pytestmark = ONE_BROKER

MANY = 500
DONE_MILLISECONDS = 120_000  # what takes some seconds on a machine that is not busy
PAGES_MAX = 300
LINK = re.compile(r'href="(/[^"#]*)"')
COUNTED = re.compile(r"(\d+) of about (\d+) done, (\d+) failed")


@dataclass(frozen=True)
class Console:
    """The process's address, and how to come in."""

    system: System
    base: str

    def link(self, role: str) -> str:
        """A link for a new operator, as the command prints it."""
        settings = {**self.system.settings, "CARDSYNC_CONSOLE_URL": self.base}
        name = f"{role} {uuid.uuid4().hex[:6]}"
        invited = run(self.system.folder, settings, "operators", "invite", "--name", name, "--role", role, "--json")
        assert invited.returncode == 0, invited.stderr
        url: str = json.loads(invited.stdout)["url"]
        self.system.keep_secret(url.rpartition("/")[2])
        return url

    def read(self, role: str, *starts: str) -> dict[str, str]:
        """Every page that links lead an operator of that role to, from *Now* and the given ones: its headers and text."""
        pages: dict[str, str] = {}
        with httpx.Client(base_url=self.base, trust_env=False, timeout=60) as reader:
            assert reader.get(self.link(role)).status_code == 200
            for cookie in reader.cookies.jar:
                if cookie.value and len(cookie.value) > 40:
                    self.system.keep_secret(cookie.value)
            waiting = ["/", *starts]
            while waiting and len(pages) < PAGES_MAX:
                path = waiting.pop(0)
                if path in pages:
                    continue
                answer = reader.get(path)
                pages[path] = f"{answer.headers}\n{answer.text}"
                waiting += [html.unescape(one) for one in LINK.findall(answer.text)]
        return pages


@pytest.fixture(scope="module")
def served(module_system: System) -> Console:
    base = f"http://127.0.0.1:{module_system.console_port}"
    module_system.start("console", CARDSYNC_CONSOLE_URL=base)
    return Console(module_system, base)


@pytest.fixture
def console(served: Console, system: System) -> Console:
    """The module's console; the system is searched after the test."""
    return served


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}: apt-get install chromium")
    with launched() as browser:
        yield browser


@pytest.fixture
def page(console: Console, chromium: Browser) -> Iterator[Page]:
    """A page of an admin who signed in just now, which asks for news every two seconds."""
    context = chromium.new_context()
    context.set_default_timeout(DONE_MILLISECONDS)
    context.add_cookies([{"name": "console-refresh", "value": "2", "url": console.base}])
    made = context.new_page()
    made.goto(console.link("admin"))
    made.wait_for_url(f"{console.base}/")  # the sign-in's page leads there by itself
    made.locator("nav").first.wait_for(state="attached")
    yield made
    context.close()


def until_done(page: Page, number: int = 1) -> list[int]:
    """Watch the page of an operation, which comes again by itself, to its end; the counts that it showed."""
    page.get_by_role("heading", name="Progress").wait_for()
    shown: list[int] = []

    def count() -> bool:
        found = COUNTED.search(page.locator("#progress").inner_text())
        if found is None:
            return False
        done, expected, failed = (int(one) for one in found.groups())
        assert (expected, failed) == (number, 0)
        shown.append(done)
        return done == number

    until(count, f"{number} are done", seconds=DONE_MILLISECONDS / 1_000)
    expect(page.locator(".lead .chip")).to_contain_text("done", timeout=DONE_MILLISECONDS)
    return shown


def test_a_deletion_that_is_asked_for_in_the_browser_is_watched_until_it_is_done(
    console: Console, system: System, page: Page
) -> None:
    customer = system.customer()
    system.save_card(customer)
    system.until_active(customer)
    system.until_settled(customer)
    page.goto(f"{console.base}/find")
    page.fill("#said", customer)
    page.get_by_role("button", name="Find").click()
    page.locator("#cards tbody a").click()
    page.fill("#delete-reason", "asked by phone")
    page.get_by_role("button", name="Ask for its deletion").click()
    page.locator(".notice").wait_for()
    page.locator("#deletions tbody a").click()
    page.wait_for_url(f"{console.base}/deletions/*")
    # The page is not opened again: its regions are exchanged where it stands.
    page.evaluate("window.stays = true")
    expect(page.locator("#way [aria-current=step]")).to_contain_text("done", timeout=DONE_MILLISECONDS)
    expect(page.locator("#receipt")).to_contain_text("a list lacks the card", timeout=DONE_MILLISECONDS)
    assert page.evaluate("window.stays")
    assert system.statuses(customer) == ["removed"]
    assert system.simulator.calls("delete", customer_id=customer)


def test_all_failed_notifications_are_replayed_and_their_number_grows_before_the_viewer_s_eyes(
    console: Console, system: System, page: Page
) -> None:
    customers = [system.customer() for _ in range(7)]
    system.end("worker")
    for n in range(MANY):
        content, _ = system.notification(customers[n % len(customers)])
        assert system.post_hint(content).status_code == 200
    # Where the database is slow for a moment, a hint comes to its row by way of the disk.
    stored = "SELECT count(*) AS n FROM cardsync.events WHERE customer_id = ANY(%s)"
    until(lambda: system.sql(stored, customers)[0]["n"] == MANY, "each has a row")
    mine = (
        "UPDATE cardsync.events SET status = 'failed', attempts = 10, last_error = 'boom' WHERE customer_id = ANY(%s)"
    )
    system.sql(mine, customers)
    system.start("worker")
    page.goto(f"{console.base}/notifications?status=failed")
    page.get_by_role("link", name="Replay all that match ...").click()
    expect(page.locator("dl.facts")).to_contain_text(f"{MANY}")
    page.fill("#bulk-reason", "fixed")
    page.fill("#word", "REPLAY")
    page.get_by_role("button", name="Replay them all").click()
    shown = until_done(page, MANY)
    assert shown == sorted(shown)
    waiting = "SELECT count(*) AS n FROM cardsync.events WHERE customer_id = ANY(%s) AND status <> 'done'"
    until(lambda: system.sql(waiting, customers)[0]["n"] == 0, "all are processed")


def test_a_brake_is_released_with_a_typed_word(console: Console, system: System, page: Page) -> None:
    system.sql("UPDATE cardsync.gate SET brake_engaged_at = now()")
    page.goto(f"{console.base}/brake")
    expect(page.locator("#removals .chip").first).to_contain_text("engaged")
    page.fill("#release-reason", "seen at the dashboard of Ottu")
    page.fill("#word", "release")
    page.get_by_role("button", name="Release the brake").click()
    assert page.url == f"{console.base}/brake"  # another word is not sent
    page.fill("#word", "RELEASE")
    page.get_by_role("button", name="Release the brake").click()
    until_done(page)
    page.goto(f"{console.base}/brake")
    expect(page.locator("#removals .chip").first).to_contain_text("released")
    assert system.sql("SELECT brake_engaged_at FROM cardsync.gate")[0]["brake_engaged_at"] is None


def test_an_endpoint_is_added_tried_and_removed_and_its_secret_is_shown_to_nobody_else(
    console: Console, system: System, page: Page
) -> None:
    receiver = Receiver()
    page.goto(f"{console.base}/endpoints")
    page.fill("#add-name", "billing")
    page.fill("#add-url", receiver.url)
    page.select_option("#add-kind", "changes")
    page.get_by_role("button", name="Add it").click()
    until_done(page)
    receiver.secret = system.keep_secret(page.locator("section[aria-labelledby=secret-title] code").inner_text())
    assert receiver.secret.startswith("whsec_")
    own = urlsplit(page.url).path
    assert_hidden("the endpoint's secret", {receiver.secret}, console.read("admin", own))
    page.goto(f"{console.base}/endpoints")
    row = page.locator("#list tbody tr", has_text="billing")
    row.get_by_role("button", name="Send a test").click()
    until_done(page)
    assert "cardsync.test" in [one.content["type"] for one in receiver.received]
    page.goto(f"{console.base}/endpoints")
    row.get_by_text("Remove ...").click()
    row.locator("details", has_text="Remove").get_by_label("Type REMOVE to confirm").fill("REMOVE")
    row.locator("details", has_text="Remove").get_by_role("button", name="Do it").click()
    until_done(page)
    receiver.close()


def open_section(page: Page, keyboard: Keyboard, name: str) -> None:
    """Go to a section through the navigation."""
    keyboard.press(page.locator("nav.side").get_by_role("link", name=name, exact=True))
    page.get_by_role("heading", level=1).wait_for()


def test_calls_are_paused_by_keyboard_alone_and_the_worker_makes_none_until_they_are_resumed(
    console: Console, system: System, page: Page
) -> None:
    keyboard, (before, meanwhile) = Keyboard(page), (system.customer(), system.customer())
    system.save_card(before)
    system.until_active(before)
    system.until_settled(before)
    card_id = str(system.cards(before)[0]["card_id"])
    key = system.key("cards:delete")
    open_section(page, keyboard, "Calls")
    keyboard.write(page.locator("#pause-reason"), "Ottu asked us to")
    keyboard.write(page.locator("#word"), "PAUSE")
    keyboard.press(page.get_by_role("button", name="Pause all calls"))
    page.locator(".notice").wait_for()
    expect(page.locator("#gate")).to_contain_text("stopped by an operator")
    name = system.sql("SELECT operator_paused_by AS name FROM cardsync.gate")[0]["name"]
    open_section(page, keyboard, "Now")
    expect(page.locator("#needs")).to_contain_text(f"{name} paused all calls to Ottu, since")
    expect(page.locator("#needs")).to_contain_text("Ottu asked us to")
    under_way = "SELECT 1 AS found FROM cardsync.customers WHERE ticket_no IS NOT NULL"
    until(lambda: not system.sql(under_way), "calls that were under way have ended")
    made = len(system.simulator.calls())
    try:
        system.save_card(meanwhile)
        answer = system.post("/v1/deletions", key, idempotency_key=uuid.uuid4().hex, card_id=card_id, reason="a wish")
        assert answer.status_code == 202
        put_off = "SELECT 1 AS found FROM cardsync.customers WHERE customer_id = %s AND last_error LIKE 'CallsPaused%%'"
        asked = "SELECT 1 AS found FROM cardsync.deletions WHERE card_id = %s AND error LIKE 'CallsPaused%%'"
        until(lambda: bool(system.sql(put_off, meanwhile)), "a worker was refused the look")
        until(lambda: bool(system.sql(asked, card_id)), "a worker was refused the deletion")
        assert len(system.simulator.calls()) == made
        open_section(page, keyboard, "Calls")
        keyboard.write(page.locator("#word"), "RESUME")
        keyboard.press(page.get_by_role("button", name="Resume calls"))
        page.locator(".notice").wait_for()
        assert system.sql("SELECT operator_paused_at AS at FROM cardsync.gate")[0]["at"] is None
    finally:  # the module's other tests have the same system
        system.sql(
            "UPDATE cardsync.gate SET operator_paused_at = NULL, operator_paused_by = NULL, operator_paused_why = NULL"
        )
    system.until_active(meanwhile)
    until(lambda: system.statuses(before) == ["removed"], "the deletion went on")
    rows = "SELECT action FROM cardsync.operator_actions WHERE actor = %s AND kind = 'calls' ORDER BY action_id"
    assert [row["action"] for row in system.sql(rows, name)] == ["pause_calls", "resume_calls"]


def test_a_deletion_is_asked_for_by_keyboard_alone(console: Console, system: System, page: Page) -> None:
    keyboard, customer = Keyboard(page), system.customer()
    system.save_card(customer)
    system.until_active(customer)
    system.until_settled(customer)
    open_section(page, keyboard, "Find")
    until(lambda: page.evaluate("document.activeElement.id") == "said", "the field has the focus by itself")
    page.keyboard.type(customer)
    page.keyboard.press("Enter")
    keyboard.press(page.locator("#cards tbody a"))
    keyboard.write(page.locator("#delete-reason"), "asked by phone")
    keyboard.press(page.get_by_role("button", name="Ask for its deletion"))
    page.locator(".notice").wait_for()
    keyboard.press(page.locator("#deletions tbody a"))
    page.wait_for_url(f"{console.base}/deletions/*")
    expect(page.locator("#way [aria-current=step]")).to_contain_text("done", timeout=DONE_MILLISECONDS)
    assert system.statuses(customer) == ["removed"]


def test_a_failed_notification_is_replayed_by_keyboard_alone(console: Console, system: System, page: Page) -> None:
    keyboard, customer = Keyboard(page), system.customer()
    system.end("worker")
    content, _ = system.notification(customer)
    event_id = system.post_hint(content).json()["event_id"]
    until(lambda: system.pending_hints(customer) == 1, "the hint has a row")
    system.sql(
        "UPDATE cardsync.events SET status = 'failed', attempts = 10, last_error = 'boom' WHERE event_id = %s", event_id
    )
    system.start("worker")
    open_section(page, keyboard, "Notifications")
    keyboard.press(page.locator(".filters").get_by_role("link", name="failed"))
    page.wait_for_url("**/notifications?status=failed")
    keyboard.press(page.locator(f"#list a[href='/notifications/{event_id}']"))
    keyboard.press(page.get_by_role("button", name="Replay", exact=True))
    until_done(page)
    done = "SELECT 1 AS found FROM cardsync.events WHERE event_id = %s AND status = 'done'"
    until(lambda: bool(system.sql(done, event_id)), "it is processed")


def test_a_brake_is_released_by_keyboard_alone(console: Console, system: System, page: Page) -> None:
    keyboard = Keyboard(page)
    system.sql("UPDATE cardsync.gate SET brake_engaged_at = now()")
    open_section(page, keyboard, "Brake")
    expect(page.locator("#removals .chip").first).to_contain_text("engaged")
    keyboard.write(page.locator("#release-reason"), "seen at the dashboard of Ottu")
    keyboard.write(page.locator("#word"), "RELEASE")
    keyboard.press(page.get_by_role("button", name="Release the brake"))
    until_done(page)
    assert system.sql("SELECT brake_engaged_at FROM cardsync.gate")[0]["brake_engaged_at"] is None


def test_an_endpoint_is_added_disabled_enabled_and_removed_by_keyboard_alone(
    console: Console, system: System, page: Page
) -> None:
    keyboard, receiver = Keyboard(page), Receiver()
    open_section(page, keyboard, "Endpoints")
    keyboard.write(page.locator("#add-name"), "ledger")
    keyboard.write(page.locator("#add-url"), receiver.url)
    keyboard.press(page.locator("#add-kind"), "ArrowDown")
    assert page.locator("#add-kind").input_value() == "changes"
    keyboard.press(page.get_by_role("button", name="Add it"))
    until_done(page)
    receiver.secret = system.keep_secret(page.locator("section[aria-labelledby=secret-title] code").inner_text())
    row = page.locator("#list tbody tr", has_text="ledger")
    for button, status in (("Disable ledger", "disabled"), ("Enable ledger", "enabled")):
        open_section(page, keyboard, "Endpoints")
        keyboard.press(row.get_by_role("button", name=button))
        until_done(page)
        assert system.sql("SELECT status FROM cardsync.endpoints WHERE name = 'ledger'")[0]["status"] == status
    open_section(page, keyboard, "Endpoints")
    keyboard.press(row.locator("summary", has_text="Remove"))
    keyboard.write(row.locator("details", has_text="Remove").get_by_label("Type REMOVE to confirm"), "REMOVE")
    page.keyboard.press("Enter")
    until_done(page)
    receiver.close()


def test_no_page_log_or_journal_of_the_console_holds_a_secret_and_names_are_hidden_from_viewers(
    console: Console, system: System
) -> None:
    customer = system.customer()
    for _ in range(2):
        system.save_card(customer, name_on_card="MARKED PAYER")
    system.until_active(customer, cards=2)
    key = system.key("cards:delete")
    card_id = str(system.cards(customer)[0]["card_id"])
    asked = system.post("/v1/deletions", key, idempotency_key=uuid.uuid4().hex, card_id=card_id, reason="a wish")
    until(lambda: system.statuses(customer).count("removed") == 1, "it is deleted")
    erased = system.post("/v1/customers/erase", key, idempotency_key=uuid.uuid4().hex, customer_id=system.customer())
    number = system.sql("SELECT id FROM cardsync.customers WHERE customer_id = %s", customer)[0]["id"]
    event = system.sql("SELECT event_id FROM cardsync.events WHERE customer_id = %s LIMIT 1", customer)[0]["event_id"]
    starts = (
        *(f"/customers/{number}", f"/erasures/{number}/new", f"/notifications/{event}", "/deletions/replay-all"),
        *(f"/deletions/{asked.json()['deletion_id']}", "/notifications/replay-all", "/no-such-page"),
        *("/deliveries/replay-all?name=shop", "/brake/requests/release-all?asker=api:shop", "/customers/odd", "/spool"),
        f"/erasures/{erased.json()['erasure_id']}",
    )
    admin, viewer = console.read("admin", *starts), console.read("viewer", *starts)
    assert _unread(admin) == set()
    rows = {
        table: "\n".join(row["said"] for row in system.sql(f"SELECT row_to_json(t)::text AS said FROM {table} AS t"))
        for table in ("cardsync.operator_actions", "cardsync.operations", "cardsync.operators")
    }
    assert "invite" in rows["cardsync.operator_actions"]  # what is searched is what was looked for
    of_people = {str(card[what]) for card in system.cards(customer) for what in ("name_on_card", "number")}
    for one in {customer, *of_people}:
        assert any(one in text for text in admin.values()), one
    secrets = system.all_secrets()
    assert_hidden("a secret", secrets, {**admin, **rows})
    assert_hidden("a secret", secrets, viewer)
    assert_hidden("personal data", {*FAKE_PERSONAL_DATA, *of_people}, {**viewer, **rows})
    log = {"its log": system.processes["console"].output(), **rows}
    assert "operator_signed_in" in log["its log"]
    assert_hidden("a customer's name", {customer}, log)


def _unread(pages: dict[str, str]) -> set[str]:
    """The kinds of pages behind the sign-in that none of these is."""
    engine = db.make_engine("postgresql://nobody@127.0.0.1:1/none")  # nothing is asked of it
    routes = create_app(Settings(database_url="postgresql://nobody@127.0.0.1:1/none"), engine=engine).url_map
    known = {
        rule.endpoint for rule in routes.iter_rules() if "GET" in (rule.methods or ()) and ROUTES[rule.endpoint].role
    }
    matching = routes.bind("127.0.0.1")
    read = {matching.match(urlsplit(path).path)[0] for path in pages if matching.test(urlsplit(path).path)}
    return known - read


def test_a_console_that_shares_the_data_folder_is_among_the_processes_and_pools_that_the_web_shows(
    served: Console,
) -> None:
    served.read("viewer")

    def shown() -> set[tuple[str, str]]:
        return {(name, labels[0]) for name, labels in served.system.metrics() if labels}

    wanted = {("cardsync_processes", "console"), ("cardsync_database_pool_wait_seconds_count", "console")}
    until(lambda: wanted <= shown(), "the console is seen")
