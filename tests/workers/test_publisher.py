"""Ringing never waits for the broker: not when it answers, not when it is gone, not when it is frozen."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Iterator

import pytest
from psycopg import OperationalError as DriverError
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from cardsync.dev.servers.ports import free_port
from cardsync.dev.servers.valkey import EmbeddedValkey
from cardsync.settings import Settings
from tests.waiting import until
from workers import app as worker_app
from workers import publisher
from workers.app import BELLS, DEPLOYMENT_HEADER, create_app, queue_name

DEPLOYMENT = "0123456789"
WITHIN_SECONDS = (
    60.0  # a deadline: a thousand rings that wait for the broker, a second each, never come to an end in it
)


def bells_to(url: str) -> publisher.BellPublisher:
    return publisher.BellPublisher(Settings(broker_url=url), lambda: DEPLOYMENT)  # type: ignore[arg-type]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ring goes through, however slow the machine is: in a deployment one that takes seconds may be lost."""
    monkeypatch.setattr(worker_app, "PUBLISH_SECONDS", WITHIN_SECONDS)
    monkeypatch.setattr(publisher, "CLOSE_SECONDS", WITHIN_SECONDS)


@pytest.fixture
def broker(valkey: EmbeddedValkey) -> Iterator[EmbeddedValkey]:
    valkey.flush()
    yield valkey
    valkey.resume()
    valkey.flush()


def waiting(url: str, deployment: str = DEPLOYMENT) -> int:
    """How many messages are in the queue; none names anybody."""
    app = create_app(Settings(broker_url=url), deployment)  # type: ignore[arg-type]
    found = 0
    with (
        app.connection_for_read() as connection,
        connection.SimpleQueue(queue_name(BELLS, deployment)) as messages,
        contextlib.suppress(queue.Empty),
    ):
        while True:
            message = messages.get(block=False)
            assert message.headers[DEPLOYMENT_HEADER] == deployment
            assert message.payload[:2] == [[], {}]
            found += 1
    return found


@pytest.mark.usefixtures("patient")
def test_a_burst_of_rings_is_at_most_two_short_messages(broker: EmbeddedValkey, monkeypatch) -> None:
    monkeypatch.setattr(publisher, "REST_SECONDS", 60.0)  # all of it is one burst
    bells = bells_to(broker.url)
    for _ in range(250):
        bells.ring()
    bells.close()
    assert 1 <= waiting(broker.url) <= 2


def test_a_broker_that_is_gone_costs_the_caller_nothing() -> None:
    ring = bells_to(f"redis://127.0.0.1:{free_port()}/0")
    began = time.monotonic()
    for _ in range(1_000):
        ring.ring()
    assert time.monotonic() - began < WITHIN_SECONDS
    until(lambda: ring.are_in_vain, "the last bell is known not to have gone through")
    ring.close()


def test_a_frozen_broker_costs_the_caller_nothing_and_closing_is_bounded(broker: EmbeddedValkey) -> None:
    ring = bells_to(broker.url)
    broker.pause()
    began = time.monotonic()
    for _ in range(1_000):
        ring.ring()
    assert time.monotonic() - began < WITHIN_SECONDS
    ring.close()
    assert time.monotonic() - began < WITHIN_SECONDS  # a frozen broker holds what waits for it for 75 seconds and more


@pytest.mark.usefixtures("patient")
def test_two_deployments_on_one_broker_leave_each_others_bells_alone(broker: EmbeddedValkey) -> None:
    ring = bells_to(broker.url)
    ring.ring()
    ring.close()
    assert waiting(broker.url, "another-one") == 0
    assert waiting(broker.url) == 1


@pytest.mark.usefixtures("patient")
def test_a_publisher_that_does_not_know_its_deployment_yet_asks_again(broker: EmbeddedValkey, monkeypatch) -> None:
    monkeypatch.setattr(publisher, "QUIET_SECONDS", 0.0)
    answers = iter([ConnectionError("away"), ConnectionError("away"), DEPLOYMENT])
    asked: list[bool] = []

    def find() -> str:
        asked.append(True)
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    ring = publisher.BellPublisher(Settings(broker_url=broker.url), find)  # type: ignore[arg-type]
    ring.ring()  # it finds no database, twice; its row is still due
    until(lambda: len(asked) >= 2, "it has asked twice")
    ring.ring()
    ring.close()
    assert waiting(broker.url) == 1


def test_a_broker_that_is_gone_is_one_line_that_says_what_is_wrong_and_shows_no_password() -> None:
    with capture_logs() as lines:
        bells = bells_to(f"redis://:fake-password@127.0.0.1:{free_port()}/0")
        bells.ring()
        until(lambda: bells.are_in_vain, "the bell did not go through")
        bells.close()
    (line,) = lines
    assert (line["event"], line["why"]) == ("bells_not_rung", "it refuses connections: nothing listens on that port")
    assert "fake-password" not in str(lines)


def test_a_deployment_whose_name_the_database_does_not_tell_is_no_fault_of_the_brokers() -> None:
    def away() -> str:
        raise OperationalError("SELECT 1", {}, DriverError("connection to server failed: Connection refused"))

    with capture_logs() as lines:
        bells = publisher.BellPublisher(Settings(broker_url="redis://127.0.0.1/0"), away)  # type: ignore[arg-type]
        bells.ring()
        until(lambda: bells.are_in_vain, "the bell did not go through")
        bells.close()
    assert [line["why"] for line in lines] == ["the database: connection refused"]
