"""The console in Chromium: what only a browser can tell. One server and one browser for all of it.

Every page is opened once for a group of questions, and what is wrong is collected: a test names all pages that fail it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page
from sqlalchemy import text

from cardsync.core.brake import Limits
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.stories.carry_out import carry_out
from cardsync.web.console import regions
from cardsync.web.console.pages import operations
from tests.chromium import CHROMIUM, launched
from tests.factories import RING
from tests.logins import ProcessLogins
from tests.waiting import until
from tests.web.console.browser.example import CUSTOMER_ID, IN_BOTH
from tests.web.console.browser.served import ServedConsole, served_console

WAIT_MILLISECONDS = 120_000.0  # a deadline, for each thing that is waited for
WIDE = {"width": 1280, "height": 900}
SMALL = {"width": 375, "height": 800}
# WCAG 2.2 AA and what axe-core holds to be good practice.
AXE = Axe()
ALL = {"resultTypes": ["violations"]}
COLOURS = {"resultTypes": ["violations"], "runOnly": {"type": "rule", "values": ["color-contrast"]}}
GOES_SIDEWAYS = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
# Notes what the tab key reaches, and what has no outline while it has the focus; how many things there are to reach.
WATCH_FOCUS = """() => {
  const all = [...document.querySelectorAll("a[href], button, input, select, summary, [tabindex='0']")]
    .filter((one) => one.checkVisibility() && !one.disabled && one.type !== "hidden");
  const reached = new Set(), told = (one) => one.outerHTML.slice(0, 120);
  window.unseen = [];
  document.addEventListener("focusin", ({target}) => {
    const style = getComputedStyle(target);
    reached.add(target);
    if (style.outlineStyle + style.outlineWidth !== "solid3px") window.unseen.push(told(target));
  });
  window.missed = () => all.filter((one) => !reached.has(one)).map(told);
  document.activeElement.blur();
  return all.length;
}"""


@pytest.fixture(autouse=True)
def bound_factories() -> None:
    """The tests of this file share one database, which has its rows."""


refused_by_policy: list[str] = []  # what the content security policy stopped, in any context


@pytest.fixture(autouse=True)
def no_policy_is_broken() -> Iterator[None]:
    """Fail each test in which a page wants what its content security policy forbids."""
    refused_by_policy.clear()
    yield
    assert refused_by_policy == []


@pytest.fixture(scope="module")
def console(
    postgres: EmbeddedPostgres,
    template_database: str,
    logins: ProcessLogins,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServedConsole]:
    name = f"browser_{secrets.token_hex(6)}"
    postgres.create_database(name, template=template_database)
    with (
        pytest.MonkeyPatch.context() as patched,
        served_console(postgres, logins, postgres.url_for(name), tmp_path_factory.mktemp("console")) as served,
    ):
        # The page of an operation comes again every two seconds while that is under way: in the midst of a slow machine's look.
        patched.setattr(operations, "REFRESH_SECONDS", 3_600)
        patched.setattr(regions, "WAIT_SECONDS", 60.0)
        yield served
    postgres.drop_database(name)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}: apt-get install chromium")
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def sessions(chromium: Browser, console: ServedConsole) -> Iterator[dict[str, Any]]:
    """The cookies of an admin who is signed in, for contexts of every kind."""
    context = opened(chromium)
    page = context.new_page()
    _sign_in(page, console)
    yield context.storage_state()
    context.close()


@pytest.fixture
def admin(chromium: Browser, sessions: dict[str, Any]) -> Iterator[BrowserContext]:
    context = opened(chromium, storage_state=sessions, viewport=WIDE)
    yield context
    context.close()


def opened(chromium: Browser, **options: Any) -> BrowserContext:
    """A context of the browser, in which a machine that does much else is waited for."""
    context = chromium.new_context(**options)
    context.set_default_timeout(WAIT_MILLISECONDS)
    context.on("console", _note_policy)
    return context


def _note_policy(message: ConsoleMessage) -> None:
    if "Content Security Policy" in message.text:
        refused_by_policy.append(message.text)


def _sign_in(page: Page, console: ServedConsole) -> None:
    page.goto(console.link())
    page.wait_for_url(f"{console.base}/")  # the sign-in's page leads there by itself
    page.locator("nav").first.wait_for(state="attached")


def _complaints(page: Page) -> list[str]:
    """What the browser itself complains of from now on: the content security policy, scripts, answers that failed."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    return said


def _violations(page: Page, options: dict[str, Any]) -> list[str]:
    """What axe-core finds; its script stays in a page until the next is opened."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.axe_script)
    found = page.evaluate("(options) => axe.run(options).then((results) => results.violations)", options)
    return [f"{one['id']}: {node['target']} {node['html'][:120]}" for one in found for node in one["nodes"]]


def _expects(endpoint: str, console: ServedConsole) -> bool:
    """Whether the page has a row to show: of what no test made yet there is none."""
    return "00000000-0000-0000" not in console.paths()[endpoint]


def test_pages_and_actions_work_without_javascript(
    console: ServedConsole, chromium: Browser, sessions: dict[str, Any]
) -> None:
    """What it makes, a deletion and an operation, has pages of its own that the next tests open."""
    context = opened(chromium, java_script_enabled=False)
    page = context.new_page()
    page.goto(console.link())
    page.wait_for_url(f"{console.base}/")  # the page that a link leads to goes on there by itself
    page.goto(f"{console.base}/find")
    page.fill("#said", CUSTOMER_ID)
    page.get_by_role("button", name="Find").click()
    page.wait_for_url(f"{console.base}/customers/{console.example.customer}")
    page.get_by_role("button", name="Look now").click()
    page.locator(".notice").wait_for()
    page.goto(f"{console.base}/cards/{console.example.card}")
    page.fill("#delete-reason", "asked by phone")
    page.get_by_role("button", name="Ask for its deletion").click()
    page.locator(".notice").wait_for()
    page.goto(f"{console.base}/notifications/{console.example.event}")
    page.get_by_role("button", name="Replay").click()
    page.get_by_role("heading", name="Progress").wait_for()
    for start, button, word in (
        ("/deliveries?name=shop&status=failed", "Replay them all", "REPLAY"),
        ("/brake", "Release them all", "RELEASE"),
    ):
        page.goto(console.base + start)
        page.locator("a", has_text="all that match ...").click()
        page.fill("#bulk-reason", "looked at")
        page.fill("#word", word)
        page.get_by_role("button", name=button).click()
        page.get_by_role("heading", name="Progress").wait_for()
        page.get_by_role("button", name="Cancel").click()
        page.locator(".lead .chip", has_text="cancelled").wait_for()
    page.goto(f"{console.base}/erasures/{console.example.erasure}")
    page.get_by_role("button", name="Replay").click()
    page.get_by_role("heading", name="Progress").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.locator(".lead .chip", has_text="cancelled").wait_for()
    for endpoint, path in console.paths().items():
        if _expects(endpoint, console):
            page.goto(console.base + path)
            assert page.locator("h1").is_visible(), endpoint
    context.close()


def test_every_page_can_be_used_by_all_people_in_light_and_dark_and_breaks_no_policy(
    console: ServedConsole, admin: BrowserContext
) -> None:
    page, found = admin.new_page(), {}
    said = _complaints(page)
    paths = console.paths()
    for endpoint, path in paths.items():
        if not _expects(endpoint, console):
            continue
        answer = page.goto(console.base + path)
        assert answer is not None
        assert answer.status == 200, endpoint
        wrong = _violations(page, ALL)
        page.emulate_media(color_scheme="dark")
        wrong += [f"dark: {one}" for one in _violations(page, COLOURS)]
        page.emulate_media(color_scheme="light")
        if wrong:
            found[endpoint] = wrong
    assert found == {}, "\n".join(f"{endpoint}: {one}" for endpoint, wrong in found.items() for one in wrong)
    assert said == []


def test_pages_in_arabic_the_sign_in_and_errors_can_be_used_by_all_people(
    console: ServedConsole, admin: BrowserContext, chromium: Browser
) -> None:
    arabic = {"name": "console-language", "value": "ar", "url": console.base}
    stranger = opened(chromium, viewport=WIDE)
    found: dict[str, list[str]] = {}
    for context in (admin, stranger):
        context.add_cookies([arabic])  # type: ignore[list-item]
    page, outside = admin.new_page(), stranger.new_page()
    for endpoint, path in console.paths().items():
        if _expects(endpoint, console):
            page.goto(console.base + path)
            found[endpoint] = _violations(page, ALL)
    for name, where, path in (("error", page, "/no-such-page"), ("sign-in", outside, "/sign-in")):
        where.goto(console.base + path)
        found[name] = _violations(where, ALL)
    stranger.close()
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def _said_to_find(said: str) -> Callable[[Page], None]:
    def ask(page: Page) -> None:
        page.fill("#said", said)
        page.locator("#said").press("Enter")

    return ask


def _make_a_key(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.locator("input[name=scope]").first.check()
    page.fill("#key-name", "shop")
    page.locator("#key-name").press("Enter")


def _rotate(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.locator("form[action$=rotate] input[name=word]").fill("ROTATE")
    page.locator("form[action$=rotate] input[name=word]").press("Enter")


def _type_a_wrong_word(page: Page) -> None:
    page.evaluate("document.querySelectorAll('form').forEach((one) => { one.noValidate = true; })")
    page.fill("input[name=word]", "PERHAPS")
    page.locator("input[name=word]").press("Enter")


@pytest.mark.parametrize("language", ["en", "ar"])
def test_answers_to_forms_can_be_used_by_all_people_on_any_screen_and_break_no_policy(
    console: ServedConsole, chromium: Browser, language: str
) -> None:
    """What stands on no page that has an address of its own: what was found, a secret that is shown once, a refusal."""
    forms = {
        "found several": (200, "/find", _said_to_find(IN_BOTH)),
        "found nothing": (200, "/find", _said_to_find("nobody")),
        "a token is refused": (400, "/find", _said_to_find("9999" * 4)),
        "shown once": (200, "/access", _make_a_key),
        "an endpoint's secret": (200, "/endpoints", _rotate),
        "a wrong word": (400, f"/erasures/{console.example.customer}/new", _type_a_wrong_word),
    }
    context = opened(chromium, viewport=WIDE)
    context.add_cookies([{"name": "console-language", "value": language, "url": console.base}])
    page, found = context.new_page(), {}
    _sign_in(page, console)  # what shows a secret wants one of the last ten minutes
    said = _complaints(page)
    for name, (status, path, ask) in forms.items():
        page.goto(console.base + path)
        with page.expect_navigation() as answered:
            ask(page)
        assert answered.value.status == status, name
        if ask is _rotate:
            while carry_out(console.owner, Limits(0.15, 25), RING):  # a worker's part
                pass
            page.reload()
            page.locator("#result code", has_text="whsec_").wait_for()
        wrong = _violations(page, ALL)
        page.emulate_media(color_scheme="dark")
        wrong += [f"dark: {one}" for one in _violations(page, COLOURS)]
        page.emulate_media(color_scheme="light")
        page.set_viewport_size(SMALL)  # type: ignore[arg-type]
        found[name] = [*wrong, *(["goes sideways"] if page.evaluate(GOES_SIDEWAYS) else [])]
        page.set_viewport_size(WIDE)  # type: ignore[arg-type]
    context.close()
    assert {name: wrong for name, wrong in found.items() if wrong} == {}
    assert [one for one in said if "the server responded with a status of 4" not in one] == []


@pytest.mark.parametrize("language", ["en", "ar"])
def test_no_page_scrolls_sideways_on_a_small_screen(
    console: ServedConsole, admin: BrowserContext, language: str
) -> None:
    admin.add_cookies([{"name": "console-language", "value": language, "url": console.base}])
    page, sideways = admin.new_page(), []
    page.set_viewport_size(SMALL)  # type: ignore[arg-type]
    for endpoint, path in console.paths().items():
        page.goto(console.base + path)
        assert page.locator("html").get_attribute("dir") == ("rtl" if language == "ar" else "ltr")
        if page.evaluate(GOES_SIDEWAYS):
            sideways.append(endpoint)
    assert sideways == []


def test_a_person_signs_in_and_finds_a_customer_by_keyboard_alone(console: ServedConsole, chromium: Browser) -> None:
    context = opened(chromium)
    page = context.new_page()
    page.goto(console.link())
    page.wait_for_url(f"{console.base}/")
    _press_on(page, "Skip to the page")
    assert page.evaluate("document.activeElement.id") == "page"
    page.reload()
    _press_on(page, "Find")
    page.wait_for_url(f"{console.base}/find")
    focused = "document.activeElement.tagName"  # the field gets the focus by itself
    until(lambda: page.evaluate(focused) == "INPUT", "the field has the focus")
    page.keyboard.type(CUSTOMER_ID)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{console.base}/customers/{console.example.customer}")
    assert page.get_by_text(CUSTOMER_ID).first.is_visible()
    _press_on(page, "Sign out")
    page.wait_for_url(f"{console.base}/sign-in")
    page.goto(f"{console.base}/find")
    assert page.url == f"{console.base}/sign-in"
    context.close()


def _press_on(page: Page, name: str) -> None:
    """Go through the page with the tab key until the thing of that name has the focus, and press Enter."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText.trim()") == name:
            page.keyboard.press("Enter")
            return
    raise AssertionError(f"the tab key does not reach {name!r}")


# Presses keys as a person does outside of fields, and tells which of them would lead somewhere. For keys that lead nowhere: a
# page that is left while it is asked for a value may never answer.
PRESS = """(keys) => keys.map((key) => {
  const pressed = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true });
  document.body.dispatchEvent(pressed);
  return pressed.defaultPrevented;
})"""


def test_single_keys_lead_to_sections_unless_the_viewer_turned_them_off(
    console: ServedConsole, admin: BrowserContext
) -> None:
    page = admin.new_page()
    page.goto(f"{console.base}/preferences")
    page.keyboard.press("g")
    page.keyboard.press("f")
    page.wait_for_url(f"{console.base}/find")
    page.goto(f"{console.base}/preferences")
    page.get_by_label("Keys of the keyboard").select_option("off")
    page.get_by_role("button", name="Keep").click()
    page.get_by_text("They are off: turn them on above.").wait_for()
    assert page.evaluate(PRESS, ["g", "f", "/", "?"]) == [False] * 4
    page.get_by_label("Keys of the keyboard").select_option("on")
    page.get_by_role("button", name="Keep").click()
    page.get_by_text("They can be turned off above.").wait_for()
    page.keyboard.press("/")
    page.wait_for_url(f"{console.base}/find")


# Counts how often the page asks for itself anew, and lets a test say that the tab is hidden.
WATCH_REFRESH = """
window.asked = 0;
const really = window.fetch;
window.fetch = (...given) => { window.asked += 1; return really(...given); };
window.hide = (hidden) => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
};
"""


@pytest.mark.parametrize(("seconds", "asks"), [("0", False), ("5", True)])
def test_a_page_is_asked_for_anew_as_often_as_the_viewer_prefers_and_never_while_it_is_hidden(
    console: ServedConsole, admin: BrowserContext, seconds: str, asks: bool
) -> None:
    admin.add_cookies([{"name": "console-refresh", "value": seconds, "url": console.base}])
    page = admin.new_page()
    page.clock.install()
    page.add_init_script(WATCH_REFRESH)
    page.goto(f"{console.base}/deletions")  # *Now* asks sooner, on a slow machine, for what is still being counted
    page.clock.run_for(4_000)
    assert page.evaluate("window.asked") == 0
    page.clock.run_for(2_000)
    assert page.evaluate("window.asked") == asks
    page.evaluate("window.hide(true)")
    page.clock.run_for(600_000)
    assert page.evaluate("window.asked") == asks
    if asks:  # and at once when the viewer comes back; one that was under way is not asked for twice
        until(lambda: page.evaluate("window.hide(false), window.asked") == 2, "it is asked for again")


def test_what_has_the_focus_is_left_alone_while_the_rest_of_the_page_is_refreshed(
    console: ServedConsole, admin: BrowserContext
) -> None:
    admin.add_cookies([{"name": "console-refresh", "value": "2", "url": console.base}])
    page = admin.new_page()
    page.goto(f"{console.base}/")
    needs = page.locator("section", has=page.get_by_role("heading", name="What needs a person"))
    work = page.locator("#work")
    link = needs.get_by_role("link").first
    link.focus()
    change = text("UPDATE cardsync.customers SET removals_held = :on, list_oddities = :oddities WHERE id = :customer")
    with console.owner.begin() as connection:
        given = {"on": True, "oddities": ["no_token"], "customer": console.example.customer}
        connection.execute(change, given)
    try:
        held = work.locator("dt", has_text="Customers whose removals are held").locator("+ dd", has_text="1")
        held.wait_for()
        assert link.evaluate("(link) => link === document.activeElement")
        assert needs.get_by_text("The list of 1 customer is odd.").count() == 0
        link.blur()
        needs.get_by_text("The list of 1 customer is odd.").wait_for()
    finally:
        with console.owner.begin() as connection:
            connection.execute(change, {**given, "on": False, "oddities": []})


def test_an_id_is_copied_by_its_button(console: ServedConsole, admin: BrowserContext) -> None:
    admin.grant_permissions(["clipboard-read", "clipboard-write"], origin=console.base)
    page = admin.new_page()
    page.goto(f"{console.base}/customers/{console.example.customer}")
    copied = page.locator("[data-copy]").first
    page.locator("[data-copy] + button").first.click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == copied.inner_text().strip()


def test_the_tab_key_reaches_all_that_can_be_used_on_every_page_and_shows_where_it_is(
    console: ServedConsole, admin: BrowserContext
) -> None:
    admin.add_cookies([{"name": "console-refresh", "value": "0", "url": console.base}])
    page, wrong = admin.new_page(), {}
    for endpoint, path in console.paths().items():
        page.goto(console.base + path)
        for _ in range(page.evaluate(WATCH_FOCUS) + 3):  # past the end it begins at the top again
            page.keyboard.press("Tab")
        if found := page.evaluate("[...window.missed(), ...window.unseen]"):
            wrong[endpoint] = found
    assert wrong == {}


def test_a_person_looks_at_ottu_and_replays_by_keyboard_alone(console: ServedConsole, admin: BrowserContext) -> None:
    page = admin.new_page()
    page.goto(f"{console.base}/customers/{console.example.customer}")
    _press_on(page, "Look now")
    page.locator(".notice").wait_for()
    page.goto(f"{console.base}/notifications?status=failed")
    _press_on(page, "Replay all that match ...")
    page.wait_for_url("**/notifications/replay-all*")
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "word":
            break
    page.keyboard.type("REPLAY")
    _press_on(page, "Replay them all")
    page.get_by_role("heading", name="Progress").wait_for()


def test_a_form_that_another_site_sends_is_refused(console: ServedConsole, admin: BrowserContext) -> None:
    """From the same host by another name: the browser sends the form, and the console refuses it."""
    page = admin.new_page()
    target = f"{console.base}/customers/{console.example.customer}/look-now"
    evil = console.base.replace("127.0.0.1", "localhost")
    page.route(
        f"{evil}/**",
        lambda route: route.fulfill(
            content_type="text/html",
            body=f'<form method="post" action="{target}"><input name="form_token" value="x"></form>'
            "<script>document.forms[0].submit()</script>",
        ),
    )
    with page.expect_response(target) as answer:
        page.goto(f"{evil}/win-a-prize")
    assert answer.value.status == 403
    assert answer.value.request.headers["origin"] == evil
