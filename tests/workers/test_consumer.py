"""The worker's way back to its broker: asked for often enough, however long the broker was away."""

from __future__ import annotations

import re

import kombu.utils.functional
import pytest
from kombu.exceptions import OperationalError

from cardsync.dev.servers.ports import free_port
from cardsync.settings import Settings
from workers.app import create_app
from workers.consumer import RETRY_SECONDS, PlainConsumer


def test_a_broker_that_was_away_for_long_is_tried_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(Settings.model_validate({"broker_url": f"redis://127.0.0.1:{free_port()}/0"}), "0123456789")
    app.conf.broker_connection_max_retries = 20
    monkeypatch.setattr(kombu.utils.functional, "sleep", lambda _: None)  # what would be waited is told in the log
    with pytest.raises(OperationalError):
        PlainConsumer(lambda _: None, app=app, controller=app.WorkController(pool="threads")).connect()
    waits = [float(seconds) for seconds in re.findall(r"again in ([0-9.]+) second", caplog.text)]
    assert len(waits) >= 10
    assert max(waits) == RETRY_SECONDS
