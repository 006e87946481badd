"""The application on a real database, with bells that only note what was rung."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine
from werkzeug.test import Client

from cardsync.settings import Settings
from cardsync.store.access import keys
from cardsync.store.access.keys import SCOPES, Scope
from cardsync.web import create_app
from cardsync.web.ingest import endpoint
from cardsync.web.ops import health, metrics
from cardsync.web.services import Services
from tests import payloads
from tests.web.served import PATIENCE_SECONDS, Served

SECRET = "a-secret-key-of-the-tests-32-characters"


# The limits within which the web answers.
LIMITS: Final = (
    (endpoint, "WRITE_SECONDS"),
    (endpoint, "DISK_SECONDS"),
    (health, "WAIT_SECONDS"),
    (health, "BROKER_SECONDS"),
    (metrics, "WAIT_SECONDS"),
)


@dataclass
class NotingBells:
    """Counts how often was rung."""

    rung: int = 0
    are_in_vain = False

    def ring(self) -> None:
        self.rung += 1


@pytest.fixture(autouse=True)
def patient(patience: None) -> None:
    """For every test of this room."""


@pytest.fixture
def bells() -> NotingBells:
    return NotingBells()


@pytest.fixture
def make_settings(database_url: str, tmp_path: Path) -> Callable[..., Settings]:
    """Settings with a broker that is not there."""

    def make(**overrides: object) -> Settings:
        values: dict[str, object] = {
            "database_url": database_url,
            "data_dir": tmp_path / "data",
            "broker_url": "redis://127.0.0.1:1/0",
            "secret_key": SECRET,
            "ottu_webhook_keys": f"an-older-key,{payloads.KEY}",
            **overrides,
        }
        return Settings.model_validate(values)

    return make


@pytest.fixture
def make_app(
    make_settings: Callable[..., Settings],
    ingest_engine: Engine,
    web_engine: Engine,
    bells: NotingBells,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., Flask]]:
    """An application with some settings changed, or with other bells or engines; it has the web's rights and no more.

    It is patient: a database or a disk that is only slow, on a machine that does much else, is not one that is away. What is
    about the limits themselves gives them their own values again.
    """
    for module, name in LIMITS:
        monkeypatch.setattr(module, name, PATIENCE_SECONDS)
    made: list[Flask] = []

    def make(**overrides: object) -> Flask:
        parts = {"ingest_engine": ingest_engine, "engine": web_engine, "bells": bells}
        parts |= {name: overrides.pop(name) for name in list(overrides) if name in parts}
        made.append(create_app(make_settings(**overrides), **parts))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for app in made:  # the watcher of a database that is away would look for it as long as this process lives
        Services.of_app(app).database_breaker.close()


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture(params=["served", "wsgi"])
def way_in(request: pytest.FixtureRequest) -> str:
    """How requests come in: through the dispatcher that ``cardsync web`` serves, then through the WSGI application."""
    return str(request.param)


@pytest.fixture
def make_client(make_app: Callable[..., Flask], way_in: str) -> Callable[..., Client]:
    """A client of an application as ``make_app`` makes it, by either way in."""

    def make(**overrides: object) -> Client:
        app = make_app(**overrides)
        return Client(Served(app) if way_in == "served" else app)

    return make


@pytest.fixture
def bearer(engine: Engine) -> Callable[..., dict[str, str]]:
    """The headers of a new key with these scopes; all of them if none is named."""

    def make(*scopes: Scope) -> dict[str, str]:
        key = keys.new_key()
        with engine.begin() as connection:
            keys.create(connection, "test", keys.key_hash(key), scopes or SCOPES)
        return {"Authorization": f"Bearer {key}"}

    return make
