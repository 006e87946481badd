"""The real console behind the shipped proxy, which is behind one that ends TLS: what comes through, and what a browser keeps."""

from __future__ import annotations

import base64
import contextlib
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect
from sqlalchemy import Engine

from cardsync.dev.servers.ports import free_port
from cardsync.store.console import operators
from tests.chromium import CHROMIUM, launched
from tests.e2e.nginx import Nginx
from tests.e2e.processes import Process
from tests.e2e.system import START_SECONDS
from tests.logins import ProcessLogins
from tests.store.rows import one
from tests.tls import Authority, TlsServer
from tests.waiting import until

SOMEBODY = "203.0.113.9"  # who a client says that it is
WAIT_MILLISECONDS = 120_000
ASSET = re.compile(r'href="(/static/console\.css[^"]*)"')
TOKEN = re.compile(r'name="form_token" value="([^"]+)"')


@dataclass(frozen=True)
class Behind:
    """A console at ``base``, which is what browsers open."""

    base: str
    proxy: Nginx
    process: Process
    owner: Engine
    client: httpx.Client

    def link(self) -> str:
        """What signs a new admin in, once."""
        secret = operators.new_secret()
        with self.owner.begin() as connection:
            operators.invite(connection, "Amal", "admin", secret, by="cli:test")
        return base64.urlsafe_b64encode(secret).decode().rstrip("=")

    def answers(self) -> bool:
        """Whether a request comes all the way through."""
        assert self.process.is_running, self.process.output()[-2_000:]
        with contextlib.suppress(httpx.HTTPError):
            return self.client.get("/livez").status_code == 200
        return False


@pytest.fixture
def console(tmp_path: Path, database_url: str, logins: ProcessLogins, engine: Engine) -> Iterator[Behind]:
    certificate = Authority.make(tmp_path).certificate("127.0.0.1")
    folder, port = tmp_path / "nginx", free_port()
    folder.mkdir()
    proxy = Nginx(folder, "nginx", port=free_port(), application=port)
    assert "test is successful" in proxy.check()
    with TlsServer(("127.0.0.1", proxy.console_port), certificate).run() as public:
        base = f"https://127.0.0.1:{public}"
        settings = {
            "CARDSYNC_DATABASE_URL": logins.url("console", database_url),
            "CARDSYNC_CONSOLE_URL": base,
            "CARDSYNC_DATA_DIR": str(tmp_path / "data"),
        }
        process = Process(tmp_path, "console", ["console", "--port", str(port)], settings).start()
        verify = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        with httpx.Client(base_url=base, verify=verify, trust_env=False, timeout=60) as client:
            made = Behind(base, proxy.start(), process, engine, client)
            try:
                until(made.answers, "the console answers", seconds=START_SECONDS)
                yield made
            finally:
                process.kill()
                proxy.stop()


def test_the_sign_in_page_comes_through_the_shipped_proxy_and_no_link_stands_in_its_log(console: Behind) -> None:
    asked = console.client.get("/")
    assert (asked.status_code, asked.headers["Location"]) == (303, "/sign-in")
    page = console.client.get("/sign-in")
    assert (page.status_code, "A link signs you in" in page.text) == (200, True)
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    found = ASSET.search(page.text)
    assert found is not None
    asset = console.client.get(found[1])
    assert (asset.status_code, asset.headers["Content-Type"]) == (200, "text/css; charset=utf-8")
    link = console.link()
    assert console.client.get(f"/sign-in/{link}").status_code == 200
    assert console.client.get("/calls").status_code == 200
    until(lambda: '"/calls"' in console.proxy.log(), "the proxy has written its line")
    assert '"/sign-in"' in console.proxy.log()
    assert link not in console.proxy.log() + (console.proxy.folder / "error.log").read_text() + console.process.output()


def test_behind_the_shipped_proxy_a_session_is_bound_to_the_public_address_and_forms_come_from_it_alone(
    console: Behind,
) -> None:
    signed_in = console.client.get(f"/sign-in/{console.link()}", headers={"X-Forwarded-For": SOMEBODY})
    name, *attributes = signed_in.headers["Set-Cookie"].split("; ")
    assert name.startswith("__Host-cardsync=")
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=Strict"} <= set(attributes)
    assert not any(one.startswith("Domain") for one in attributes)
    found = TOKEN.search(console.client.get("/").text)
    assert found is not None
    form = {"form_token": found[1], "language": "en", "zone": "UTC", "theme": "auto", "refresh": "0"}

    def send(origin: str, **headers: str) -> int:
        return console.client.post("/preferences", data=form, headers={"Origin": origin, **headers}).status_code

    inner = f"127.0.0.1:{console.proxy.console_port}"
    assert send(console.base) == 303
    assert send(console.base, **{"X-Forwarded-Proto": "http", "X-Forwarded-Host": "evil.example"}) == 303
    for origin in (f"http://{inner}", f"https://{inner}", "https://evil.example", "null"):
        assert send(origin) == 403, origin
        assert send(origin, **{"X-Forwarded-Host": origin.rpartition("/")[2]}) == 403, origin
    row = one(console.owner, "SELECT came_from FROM cardsync.operator_actions WHERE action = 'sign_in'")
    assert row.came_from == "127.0.0.1"  # the proxy's word, not the client's


def test_a_browser_signs_in_acts_and_signs_out_behind_the_shipped_proxy(console: Behind) -> None:
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}: apt-get install chromium")
    with launched() as browser:
        context = browser.new_context(ignore_https_errors=True)
        context.set_default_timeout(WAIT_MILLISECONDS)
        page = context.new_page()
        page.goto(f"{console.base}/sign-in/{console.link()}")
        page.wait_for_url(f"{console.base}/")
        (kept,) = [cookie for cookie in context.cookies() if "cardsync" in cookie["name"]]
        assert (kept["name"], kept["secure"], kept["httpOnly"]) == ("__Host-cardsync", True, True)
        assert (kept["sameSite"], kept["path"], kept["domain"]) == ("Strict", "/", "127.0.0.1")
        page.goto(f"{console.base}/calls")
        page.fill("#word", "PAUSE")
        page.get_by_role("button", name="Pause all calls").click()
        expect(page.locator(".notice")).to_contain_text("Calls are paused", timeout=WAIT_MILLISECONDS)
        page.get_by_role("button", name="Sign out").first.click()
        page.wait_for_url(f"{console.base}/sign-in")
        assert [cookie for cookie in context.cookies() if "cardsync" in cookie["name"]] == []
        context.close()
    assert one(console.owner, "SELECT operator_paused_by AS by FROM cardsync.gate").by == "Amal"
