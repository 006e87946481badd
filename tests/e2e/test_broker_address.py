"""The broker's address stands in a file: after its password was changed no process is started again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from cardsync.dev.servers.valkey import EmbeddedValkey
from cardsync.settings import load
from tests.e2e.brokers import Valkey
from tests.e2e.conftest import new_database
from tests.e2e.proxy import TcpProxy
from tests.e2e.system import System, searched
from tests.logins import ProcessLogins
from tests.waiting import until
from workers.app import create_app
from workers.publisher import BellPublisher

BACK_SECONDS = 240.0  # a deadline
KINDS = ("worker", "beat", "web")


@pytest.fixture
def valkey_of_its_own(services: Path, request: pytest.FixtureRequest) -> Iterator[EmbeddedValkey]:
    made = EmbeddedValkey(services / f"rotated-{request.node.name[:20]}")
    made.start()
    yield made
    made.stop()


def change_password(server: EmbeddedValkey, new: str) -> str:
    """Let the server take a new password alone, and end all sessions; its new address."""
    with redis.Redis.from_url(server.url) as client:
        client.config_set("requirepass", new)
        client.client_kill_filter(_type="normal", skipme=True)
    return server.url.replace(server.password, new)


def test_bells_and_connections_follow_the_file(valkey_of_its_own: EmbeddedValkey, tmp_path: Path) -> None:
    file = tmp_path / "broker"
    file.write_text(valkey_of_its_own.url)
    settings = load(environ={"CARDSYNC_BROKER_URL_FILE": str(file)}, cwd=tmp_path)
    app = create_app(settings, "0123456789", publisher=True)
    bells = BellPublisher(settings, lambda: "0123456789")
    try:
        bells.ring()
        connection = app.connection_for_read()
        connection.ensure_connection(max_retries=1)
        url = change_password(valkey_of_its_own, "another-password")
        until(lambda: bells.ring() or bells.are_in_vain, "the old password is refused", seconds=BACK_SECONDS)
        file.write_text(url)
        until(lambda: bells.ring() or not bells.are_in_vain, "bells go through", seconds=BACK_SECONDS)
        connection.close()
        connection.ensure_connection(max_retries=1)
        assert connection.default_channel.client.ping()
        connection.close()
    finally:
        bells.close()


def test_a_connection_to_rabbitmq_follows_the_file(rabbitmq_url: str, tmp_path: Path) -> None:
    address = urlsplit(rabbitmq_url)
    before, file = TcpProxy((str(address.hostname), address.port or 5672)), tmp_path / "broker"
    file.write_text(rabbitmq_url.replace(f":{address.port}", f":{before.port}"))
    settings = load(environ={"CARDSYNC_BROKER_URL_FILE": str(file)}, cwd=tmp_path)
    with create_app(settings, "0123456789").connection_for_read() as connection:
        connection.ensure_connection(max_retries=1)
        before.cut()
        file.write_text(rabbitmq_url)
        connection.close()
        connection.ensure_connection(max_retries=1)
        assert (connection.port, connection.transport_cls) == (address.port, "amqp")


@pytest.fixture
def system(
    tmp_path: Path,
    valkey_of_its_own: EmbeddedValkey,
    postgres: object,
    template_database: str,
    logins: ProcessLogins,
) -> Iterator[System]:
    with new_database(postgres, template_database) as url:  # type: ignore[arg-type]
        made = System(tmp_path, url, Valkey(valkey_of_its_own), logins)
        try:
            for kind in KINDS:
                made.start(kind)
            with searched(made):
                yield made
        finally:
            made.close()


def test_every_process_follows_a_changed_password_of_the_broker(
    system: System, valkey_of_its_own: EmbeddedValkey
) -> None:
    worker = system.processes["worker"]
    first = system.customer()
    system.save_card(first)
    system.until_active(first)
    url = change_password(valkey_of_its_own, "another-password")
    worker.says('"no_ticks_heard"', seconds=BACK_SECONDS)
    for kind in KINDS:
        (system.folder / f"{kind}.CARDSYNC_BROKER_URL").write_text(url)
    worker.says('"ticks_heard_again"', seconds=BACK_SECONDS)

    def bells_go_through() -> bool:
        system.save_card(system.customer())
        return bool(system.get("/readyz").json()["checks"]["broker"] == "ok")

    until(bells_go_through, "the web's bells go through", seconds=BACK_SECONDS)
