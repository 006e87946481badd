"""One running system for each module and broker, and after each test a search of all that it wrote or answered.

A module says what it needs: ``SETTINGS`` (environment), ``WEB_WORKERS``, and the brokers, by one of ``marks``.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from cardsync.dev.postgres import EmbeddedPostgres
from tests.e2e.brokers import Broker, rabbitmq, valkey
from tests.e2e.system import System
from tests.logins import ProcessLogins


@pytest.fixture(scope="module")
def broker(request: pytest.FixtureRequest, services: Path) -> Iterator[Broker]:
    """The broker that the module's mark names."""
    if request.param == "valkey":
        with valkey(services / f"valkey-{secrets.token_hex(4)}") as made:
            yield made
    else:
        with rabbitmq(request.getfixturevalue("rabbitmq_url")) as made_there:
            yield made_there


@pytest.fixture(scope="module")
def module_database_url(postgres: EmbeddedPostgres, template_database: str, broker: Broker) -> Iterator[str]:
    """A migrated database of the module's own, another for each broker."""
    name = f"e2e_{secrets.token_hex(6)}"
    postgres.create_database(name, template=template_database)
    yield postgres.url_for(name)
    postgres.drop_database(name)


@pytest.fixture(scope="module")
def module_system(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    broker: Broker,
    module_database_url: str,
    logins: ProcessLogins,
) -> Iterator[System]:
    """The module's system."""
    folder = tmp_path_factory.mktemp("system")
    settings = getattr(request.module, "SETTINGS", {})
    web_workers = getattr(request.module, "WEB_WORKERS", 1)
    made = System(folder, module_database_url, broker, logins, web_workers=web_workers, **settings)
    try:
        for kind in ("worker", "beat", "web"):  # the web last: the others start while it is waited for
            made.start(kind)
        yield made
    finally:
        made.close()


@pytest.fixture
def system(module_system: System) -> Iterator[System]:
    """The module's system, searched after the test; whatever a test ended, it has started again."""
    yield module_system
    module_system.assert_nothing_leaked()
    dead = [p.name for p in module_system.processes.values() if not p.is_running]
    assert not dead, f"{dead} ended, and should run"
