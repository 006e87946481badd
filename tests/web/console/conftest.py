"""The console on a real database, with the rights of its own login, and operators who are signed in."""

from __future__ import annotations

import base64
import html
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine
from werkzeug.test import TestResponse

from cardsync import db
from cardsync.settings import Settings
from cardsync.store.console import operators
from cardsync.store.console.operators import Role
from cardsync.web.console import create_app, regions
from tests.logins import ProcessLogins

ORIGIN = "http://127.0.0.1:8001"
_TOKEN = re.compile(r'name="form_token" value="([^"]+)"')


class Browser:
    """A browser of an operator: it keeps cookies, says where its forms come from, and sends the token that pages hold."""

    def __init__(self, app: Flask, base: str = ORIGIN) -> None:
        self.client: FlaskClient = app.test_client()
        self.base = base
        self.token = ""

    def get(self, path: str, **given: object) -> TestResponse:
        """Open a page."""
        answer = self.client.get(path, base_url=self.base, **given)  # type: ignore[arg-type]
        found = _TOKEN.search(answer.text)
        self.token = found[1] if found else self.token
        return answer

    def post(self, path: str, origin: str | None = None, token: str | None = None, **fields: object) -> TestResponse:
        """Send a form of the page that was opened last."""
        form = {"form_token": self.token if token is None else token, "request_key": str(uuid.uuid4()), **fields}
        headers = {"Origin": origin or self.base}
        return self.client.post(path, data=form, headers=headers, base_url=self.base)

    def sign_in(self, link: str) -> TestResponse:
        """Open a link, and the first page."""
        answer = self.client.get(f"/sign-in/{link}", base_url=self.base)
        if answer.status_code == 200:
            self.get("/")
        return answer


@pytest.fixture
def statement_timeout_ms() -> int:
    """A process of the console has a second for each statement, and a busy machine may need more; see ``test_pages``."""
    return 60_000


@pytest.fixture
def console_engine(database_url: str, logins: ProcessLogins, statement_timeout_ms: int) -> Iterator[Engine]:
    """An engine with the rights of the console, as its process makes it."""
    address = logins.url("console", database_url)
    made = db.make_engine(address, pool_size=1, statement_timeout_ms=statement_timeout_ms, autocommit=True)
    yield made
    made.dispose()


@pytest.fixture
def make_console(
    database_url: str, console_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Flask]:
    """A console with some settings changed, which has the time that a busy machine takes."""
    monkeypatch.setattr(regions, "WAIT_SECONDS", 60.0)
    monkeypatch.setattr("cardsync.web.console.pages.issuer.TIMEOUT_SECONDS", 60.0)

    def make(**overrides: object) -> Flask:
        values: dict[str, object] = {"database_url": database_url, "data_dir": tmp_path / "data", **overrides}
        return create_app(Settings.model_validate(values), engine=console_engine)

    return make


@pytest.fixture
def console(make_console: Callable[..., Flask]) -> Flask:
    return make_console()


@pytest.fixture
def link(engine: Engine) -> Callable[..., str]:
    """A link for an operator, made as the command line makes it."""

    def make(name: str = "Amal", role: Role = "admin") -> str:
        secret = operators.new_secret()
        with engine.begin() as connection:
            operators.invite(connection, name, role, secret, by="cli:test")
        return base64.urlsafe_b64encode(secret).decode().rstrip("=")

    return make


@pytest.fixture
def signed_in(console: Flask, link: Callable[..., str]) -> Callable[..., Browser]:
    """A browser in which an operator of that role is signed in."""

    def make(role: Role = "admin", *, app: Flask | None = None, base: str = ORIGIN) -> Browser:
        browser = Browser(app or console, base)
        assert browser.sign_in(link(f"{role}-{uuid.uuid4().hex[:6]}", role)).status_code == 200
        return browser

    return make


@pytest.fixture(autouse=True)
def bound_factories(bound_factories: None) -> None:
    """Every test of this room makes rows."""


def filter_of(page: str) -> str:
    """The frozen filter that the form of a dry run carries."""
    found = re.search(r'name="filter" value="([^"]*)"', page)
    assert found is not None, "there is no dry run"
    return html.unescape(found[1])
