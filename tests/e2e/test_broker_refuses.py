"""A broker that signs us in and refuses: its memory is full, the user lacks rights, a Redis is full or was demoted.

Hints are answered and lead to active cards, since a worker looks into the database by itself. It says that no tick comes, and
runs the schedule itself until the broker takes ticks again. No process ends.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from kombu.connection import Connection
from kombu.entity import Queue

from tests.e2e.brokers import Broker, valkey
from tests.e2e.processes import Process, run
from tests.e2e.rabbitmq_node import Node, node
from tests.e2e.system import System
from tests.waiting import until
from workers import broker_check
from workers.app import QUEUES, queue_name

RABBITMQ = pytest.mark.parametrize("broker", ["node"], indirect=True, scope="module")
REDIS = pytest.mark.parametrize("broker", ["valkey"], indirect=True, scope="module")
HINTS = 3
SECONDS = 180.0
REFUSES, TAKES_US = "broker_refuses", "broker_refuses_ended"
NO_TICKS, TICKS = "no_ticks_heard", "ticks_heard_again"


@pytest.fixture(scope="module")
def broker(request: pytest.FixtureRequest, services: Path) -> Iterator[Broker | Node]:
    if request.param == "valkey":
        with valkey(services / f"valkey-{secrets.token_hex(4)}") as made:
            yield made
    else:
        with node(services / f"rabbitmq-{secrets.token_hex(4)}") as made_there:
            yield made_there


@RABBITMQ
def test_a_memory_alarm_of_rabbitmq_stops_no_work(system: System, broker: Node) -> None:
    with refused(system):
        broker.run_out_of_memory()
        try:
            works_without_ticks(system)
            assert tells(system) == "it takes no message"
        finally:
            broker.have_memory_again()


@RABBITMQ
def test_a_user_of_rabbitmq_without_rights_stops_no_work_and_ends_no_worker(system: System, broker: Node) -> None:
    with refused(system):
        broker.take_rights_away()
        try:
            works_without_ticks(system)
            system.processes["worker"].says(REFUSES)
            assert tells(system) == "it does not let us declare a queue"
        finally:
            broker.give_rights()


@RABBITMQ
@pytest.mark.parametrize(
    ("rights", "told"),
    [
        ({"write": ""}, "it takes no message"),
        (
            {"write": r"^cardsync\..*"},
            "it takes no message",
        ),  # without the exchange that leads to queues by their names
        ({"read": ""}, "it gives no message back"),
    ],
)
def test_the_doctor_names_the_right_that_is_missing(
    system: System, broker: Node, rights: dict[str, str], told: str
) -> None:
    broker.give_rights(**rights)
    try:
        assert tells(system) == told
    finally:
        broker.give_rights()


@RABBITMQ
def test_queues_of_another_kind_stop_no_work_and_the_doctor_names_each(system: System, broker: Node) -> None:
    names = [queue_name(queue, broker.deployment) for queue in QUEUES]
    worker = system.processes["worker"]
    with refused(system):
        make_anew(broker, names, {"x-queue-type": "classic"})
        works_without_ticks(system)
        worker.says(REFUSES)
        found = checks(system, "queues")
        assert [(check["status"], check["found"]) for check in found] == [
            ("failed", f"{name} {broker_check.OTHER_KIND}") for name in names
        ]
        make_anew(broker, names, None)  # as the doctor advises
    assert checks(system, "queues") == []


def make_anew(broker: Node, names: list[str], arguments: dict[str, str] | None) -> None:
    """Delete the queues, and make others in their place if ``arguments`` are given."""
    with Connection(broker.administrator) as connection:  # type: ignore[no-untyped-call]
        channel = connection.channel()
        for name in names:
            queue = Queue(name, queue_arguments=arguments)(channel)
            queue.delete()
            if arguments is not None:
                queue.queue_declare()


@REDIS
@pytest.mark.parametrize("fault", ["full", "demoted", "without the right to write"])
def test_a_redis_that_refuses_stops_no_work_and_ends_no_worker(system: System, broker: Broker, fault: str) -> None:
    with redis.Redis.from_url(broker.administrator) as raw, refused(system):
        refuse(raw, fault)
        try:
            works_without_ticks(system)
        finally:
            take_again(raw)


def refuse(raw: redis.Redis, fault: str) -> None:
    if fault == "full":
        raw.config_set("maxmemory-policy", "noeviction")
        raw.config_set("maxmemory", "1")
    elif fault == "demoted":
        raw.replicaof("127.0.0.1", "1")
    else:
        raw.execute_command("ACL", "SETUSER", "default", "-@write")


def take_again(raw: redis.Redis) -> None:
    raw.execute_command("ACL", "SETUSER", "default", "+@all")
    raw.replicaof("NO", "ONE")
    raw.config_set("maxmemory", "0")


@contextmanager
def refused(system: System) -> Iterator[None]:
    """The broker refuses within the block and takes again at its end: then ticks are heard, and all processes are the same."""
    pids = {name: process.pid for name, process in system.processes.items()}
    worker = system.processes["worker"]
    before = {event: said(worker, event) for event in (NO_TICKS, TICKS, REFUSES, TAKES_US)}
    yield
    until(lambda: said(worker, TICKS) > before[TICKS], "ticks are heard again", seconds=SECONDS)
    # One line at the beginning and one at the end, however long it lasted and often it was tried.
    assert [said(worker, event) - before[event] for event in (NO_TICKS, TICKS)] == [1, 1]
    assert said(worker, REFUSES) - before[REFUSES] == said(worker, TAKES_US) - before[TAKES_US] <= 1
    assert "Traceback" not in worker.output()
    assert {name: process.pid for name, process in system.processes.items() if process.is_running} == pids
    customer = system.customer()
    system.save_card(customer)
    system.until_active(customer)


def works_without_ticks(system: System) -> None:
    """Hints lead to active cards, and the worker sweeps by itself."""
    worker = system.processes["worker"]
    customers = [system.customer() for _ in range(HINTS)]
    for customer in customers:
        system.save_card(customer)
    system.until_active(*customers)
    until(lambda: said(worker, NO_TICKS) > said(worker, TICKS), "the worker says that no tick comes", seconds=SECONDS)
    swept = "SELECT swept_at FROM cardsync.gate"
    (last,) = system.sql(swept)
    until(lambda: system.sql(swept) != [last], "a sweep goes on", seconds=SECONDS)


def tells(system: System) -> str:
    """What the doctor finds wrong with the broker."""
    found = checks(system, "broker")
    assert [check["status"] for check in found] == ["failed"], found
    return str(found[0]["found"]).removeprefix("signs us in, but ").partition(":")[0]


def checks(system: System, name: str) -> list[dict[str, str]]:
    """What the doctor says under a name."""
    checked = run(system.folder, system.settings, "doctor", "--offline", "--json")
    return [check for check in json.loads(checked.stdout)["checks"] if check["name"] == name]


def said(process: Process, event: str) -> int:
    """How often a process said this."""
    return process.output().count(f'"{event}"')
