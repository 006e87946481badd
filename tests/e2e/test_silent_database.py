"""A network that swallows all that its connections carry and keeps them open: each process goes on, on new ones.

The proxy acknowledges every byte, so that no keepalive and no time-out of the server's ends a wait. It passes new connections on.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from sqlalchemy import make_url

from cardsync.dev.servers.ports import free_port
from tests.e2e.brokers import Broker
from tests.e2e.conftest import behind
from tests.e2e.marks import ONE_BROKER
from tests.e2e.proxy import TcpProxy
from tests.e2e.system import ANSWER_SECONDS, System, searched
from tests.logins import ProcessLogins
from tests.waiting import until

pytestmark = ONE_BROKER

KINDS = ("worker", "beat", "console", "web")
BACK_SECONDS = 240.0  # a deadline: without a watchdog it is for ever
LEADS = "SELECT held_until > clock_timestamp() AS leads FROM cardsync.locks WHERE name = 'leader'"
AT_WORK = "SELECT kind FROM cardsync.heartbeats WHERE at > %s"


@pytest.fixture(scope="module")
def network(module_database_url: str) -> Iterator[TcpProxy]:
    """What the processes reach the database through; the test itself goes straight there."""
    address = make_url(module_database_url)
    made = TcpProxy((str(address.host), int(address.port or 0)))
    yield made
    made.cut()


@pytest.fixture(scope="module")
def health_ports() -> dict[str, int]:
    """Of the processes that have one."""
    return {kind: free_port() for kind in ("worker", "beat", "console")}


@pytest.fixture
def system(
    tmp_path_factory: pytest.TempPathFactory,
    module_database_url: str,
    broker: Broker,
    logins: ProcessLogins,
    network: TcpProxy,
    health_ports: dict[str, int],
) -> Iterator[System]:
    made = System(tmp_path_factory.mktemp("system"), module_database_url, broker, logins)
    try:
        for kind in KINDS:
            port = {"CARDSYNC_HEALTH_PORT": str(health_ports[kind])} if kind in health_ports else {}
            made.start(kind, CARDSYNC_DATABASE_URL=behind(network, made.address(kind)), **port)
        with searched(made):
            yield made
    finally:
        made.close()


def is_ready(port: int) -> bool:
    return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False, timeout=ANSWER_SECONDS).status_code == 200


def are_ready(ports: list[int]) -> bool:
    """Each is asked, also after one that is not ready."""
    return False not in [is_ready(port) for port in ports]


def test_every_process_goes_on_when_all_its_connections_fall_silent(
    system: System, network: TcpProxy, health_ports: dict[str, int]
) -> None:
    ports = [*health_ports.values(), system.console_port, system.port]
    first = system.customer()
    system.save_card(first)
    system.until_active(first)
    until(lambda: are_ready(ports), "each of them has asked the database", seconds=BACK_SECONDS)
    network.lose()
    until(lambda: system.sql(LEADS) == [{"leads": False}], "the lease of the beat that leads ran out")
    lost_at = system.sql("SELECT clock_timestamp() AS now")[0]["now"]
    second = system.customer()
    system.save_card(second)
    system.until_active(second, seconds=BACK_SECONDS)
    until(lambda: system.sql(LEADS) == [{"leads": True}], "the beat leads again", seconds=BACK_SECONDS)

    def are_at_work() -> bool:
        return {row["kind"] for row in system.sql(AT_WORK, lost_at)} >= set(KINDS)

    until(are_at_work, "each of them has a heartbeat", seconds=BACK_SECONDS)
    until(lambda: are_ready(ports), "each of them is ready", seconds=BACK_SECONDS)
    for kind in ("worker", "beat"):
        system.processes[kind].says('"connections_cut"')
