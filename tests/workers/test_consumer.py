"""The worker's way back to its broker: asked for often enough, however long the broker was away."""

from __future__ import annotations

import logging

import kombu.utils.functional
import pytest
from kombu.exceptions import OperationalError
from structlog.testing import capture_logs

from cardsync.dev.servers.ports import free_port
from cardsync.episodes import Episode
from cardsync.settings import Settings
from workers import consumer as module
from workers.app import create_app
from workers.consumer import RETRY_SECONDS, PlainConsumer

TRIES = 20


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that would be waited between two tries."""
    made: list[float] = []
    monkeypatch.setattr(kombu.utils.functional, "sleep", made.append)
    return made


@pytest.fixture
def consumer(waited: list[float], monkeypatch: pytest.MonkeyPatch) -> PlainConsumer:
    """A consumer whose broker is away."""
    monkeypatch.setattr(module, "_lost", Episode("broker_lost"))
    url = f"redis://:a-password@127.0.0.1:{free_port()}/0"
    app = create_app(Settings.model_validate({"broker_url": url}), "0123456789")
    app.conf.broker_connection_max_retries = TRIES
    return PlainConsumer(lambda _: None, app=app, controller=app.WorkController(pool="threads"))


def test_a_broker_that_was_away_for_long_is_tried_every_few_seconds(
    consumer: PlainConsumer, waited: list[float]
) -> None:
    with pytest.raises(OperationalError):
        consumer.connect()
    assert 10 < sum(waited) <= TRIES * RETRY_SECONDS


def test_a_broker_that_is_lost_is_one_line_however_often_it_is_tried_and_one_when_it_is_there(
    consumer: PlainConsumer, caplog: pytest.LogCaptureFixture
) -> None:
    with capture_logs() as lines:
        with pytest.raises(OperationalError):
            consumer.connect()
        consumer.on_connection_error_before_connected(ConnectionResetError("a-password"))
        consumer.on_ready()
        consumer.on_ready()
    assert [(line["event"], line.get("why"), line.get("repeated")) for line in lines] == [
        ("broker_lost", "it refuses connections: nothing listens on that port", None),
        ("broker_lost_ended", None, TRIES),
    ]
    assert "Cannot connect" not in caplog.text
    assert "a-password" not in caplog.text + str(lines)


def test_celerys_other_lines_are_left(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("celery.worker.consumer.consumer").error("Received unregistered task of type %s.", "a.task")
    assert "Received unregistered task of type a.task." in caplog.text
