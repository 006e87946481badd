"""A broker that others use too: two deployments and a foreign program in one database or virtual host.

The first one has the rights that the docs ask for: a name that does not begin with ``cardsync`` is refused to it. The other one
may do all.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kombu.connection import Connection

from cardsync.dev.servers.postgres import EmbeddedPostgres
from tests.e2e.brokers import Broker, rabbitmq, valkey
from tests.e2e.marks import BOTH_BROKERS
from tests.e2e.processes import run
from tests.e2e.system import System
from tests.logins import ProcessLogins
from tests.waiting import until
from workers.app import QUEUES, queue_name

pytestmark = BOTH_BROKERS

HINTS = 5
SECONDS = 120.0
FOREIGN = "celery"  # as Celery calls its queue by default


@pytest.fixture(scope="module")
def broker(request: pytest.FixtureRequest, services: Path) -> Iterator[Broker]:
    """One to which cardsync has no more rights than the docs ask for."""
    if request.param == "valkey":
        with valkey(services / f"valkey-{secrets.token_hex(4)}") as made:
            made.share()
            yield made
    else:
        with rabbitmq(request.getfixturevalue("rabbitmq_url")) as made_there:
            made_there.share()
            yield made_there


@contextmanager
def neighbour(
    folder: Path, postgres: EmbeddedPostgres, template: str, broker: Broker, logins: ProcessLogins
) -> Iterator[System]:
    """Another deployment on this broker, with all rights there: what it made under another name would be found."""
    name = f"e2e_{secrets.token_hex(6)}"
    postgres.create_database(name, template=template)
    made = System(folder, postgres.url_for(name), broker, logins, CARDSYNC_BROKER_URL=broker.administrator)
    try:
        for kind in ("worker", "beat", "web"):
            made.start(kind)
        yield made
        made.assert_nothing_leaked()
    finally:
        made.close()
        postgres.drop_database(name)


def test_two_deployments_and_a_foreign_program_share_a_broker(
    system: System,
    broker: Broker,
    tmp_path: Path,
    postgres: EmbeddedPostgres,
    template_database: str,
    logins: ProcessLogins,
) -> None:
    first = broker.deployment
    with neighbour(tmp_path, postgres, template_database, broker, logins) as other:
        second = broker.deployment
        assert first != second
        deployments = {first: system, second: other}
        until_bells_are_taken(broker, deployments)
        assert foreign_names(broker) == set()
        with Connection(broker.administrator) as connection:  # type: ignore[no-untyped-call]
            foreign = connection.SimpleQueue(FOREIGN)
            foreign.put({"foreign": "taken"})
            foreign.put({"foreign": "waits"})
            taken = foreign.get(timeout=SECONDS)  # and not acknowledged
            theirs = foreign_names(broker)
            assert theirs
            until_bells_are_taken(broker, deployments)
            assert foreign_names(broker) == theirs
            taken.ack()
            assert foreign.get(timeout=SECONDS).payload == {"foreign": "waits"}
    doctor = run(system.folder, system.settings, "doctor", "--offline")
    assert doctor.returncode == 0, doctor.stdout
    assert "takes a message and gives it back" in doctor.stdout
    assert f"other deployments use this broker: {second}" in doctor.stdout
    for one in (system, other):
        assert "broker_refuses" not in one.processes["worker"].output()
    assert broker.refusals() == []


def until_bells_are_taken(broker: Broker, deployments: dict[str, System]) -> None:
    """Save cards in each deployment: its web rings, its worker takes the bells, and the cards are active."""
    for deployment, system in deployments.items():
        before = rung(system)
        customers = [system.customer() for _ in range(HINTS)]
        for customer in customers:
            system.save_card(customer)
        until(lambda s=system, b=before: rung(s) > b, "a bell went through", seconds=SECONDS)
        for queue in (queue_name(each, deployment) for each in QUEUES):
            until(lambda q=queue: broker.is_consumed(q), f"messages are taken from {queue}", seconds=SECONDS)
        system.until_active(*customers, seconds=SECONDS)


def rung(system: System) -> float:
    return system.metrics()[("cardsync_rings_total", ("rung",))]


def foreign_names(broker: Broker) -> set[str]:
    """What does not begin as all of ours does."""
    return {name for name in broker.names() if not name.startswith("cardsync")}
