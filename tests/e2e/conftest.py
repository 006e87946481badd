"""One running system for each module and broker, and after each test a search of all that it wrote or answered.

A module says what it needs: ``SETTINGS`` (environment), ``WEB_WORKERS``, ``BINDING`` (of the webhook's key),
``DATABASE_ONE_WAY_SECONDS`` (all that speaks to the database does so from another zone), ``DATA_IN_MEMORY`` (the data folder is
where the tests' servers have theirs, in memory if there is enough), and the brokers, by one of ``marks``.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from cardsync.dev.servers.postgres import EmbeddedPostgres
from tests.e2e.brokers import Broker, rabbitmq, valkey
from tests.e2e.proxy import TcpProxy
from tests.e2e.system import System, running, searched
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
    with new_database(postgres, template_database) as url:
        yield url


@contextlib.contextmanager
def new_database(postgres: EmbeddedPostgres, template: str) -> Iterator[str]:
    """The address of a migrated database for one system."""
    name = f"e2e_{secrets.token_hex(6)}"
    postgres.create_database(name, template=template)
    yield postgres.url_for(name)
    postgres.drop_database(name)


def _network(database_url: str, one_way_seconds: float) -> TcpProxy:
    address = make_url(database_url)
    return TcpProxy((str(address.host), int(address.port or 0)), one_way_seconds=one_way_seconds)


def behind(network: TcpProxy, database_url: str) -> str:
    """The database's address, reached through this network."""
    return make_url(database_url).set(port=network.port).render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def module_system(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    services: Path,
    broker: Broker,
    module_database_url: str,
    logins: ProcessLogins,
) -> Iterator[System]:
    """The module's system."""
    folder = tmp_path_factory.mktemp("system")
    one_way_seconds = getattr(request.module, "DATABASE_ONE_WAY_SECONDS", 0.0)
    network = _network(module_database_url, one_way_seconds) if one_way_seconds else None
    url = module_database_url if network is None else behind(network, module_database_url)
    settings = dict(getattr(request.module, "SETTINGS", {}))
    if getattr(request.module, "DATA_IN_MEMORY", False):
        settings["CARDSYNC_DATA_DIR"] = str(services / f"data-{secrets.token_hex(4)}")
    web_workers = getattr(request.module, "WEB_WORKERS", 1)
    binding = getattr(request.module, "BINDING", "")
    made = System(folder, url, broker, logins, web_workers=web_workers, binding=binding, **settings)
    try:
        with running(made):
            yield made
    finally:
        if network is not None:
            network.cut()


@pytest.fixture
def system(module_system: System) -> Iterator[System]:
    """The module's system, searched after the test; whatever a test ended, it has started again."""
    with searched(module_system):
        yield module_system
