"""A broken message in Redis is dropped, and the worker goes on to the next one."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import redis
from kombu.messaging import Consumer, Queue

from cardsync.dev.servers.valkey import EmbeddedValkey
from cardsync.settings import Settings
from workers import app as worker_app
from workers.app import RUN_SWEEP, SWEEP, create_app, queue_name
from workers.redis_transport import TICKS_MAX

SECONDS = 60  # a deadline: only a bug takes so long


@pytest.mark.parametrize(
    "broken", [b"not json", b"\xff\xfe", b"[]", b"7", b'"text"', b"{}", b'{"properties": 7, "body": 1}', b"null"]
)
def test_a_broken_message_is_dropped_and_the_next_one_is_taken(valkey: EmbeddedValkey, broken: bytes) -> None:
    valkey.flush()
    settings = Settings.model_validate({"broker_url": valkey.url})
    app = create_app(settings, "0123456789")
    found: list[Any] = []
    with app.connection_for_read() as connection:
        queue = Queue("broken-messages")
        with redis.Redis.from_url(valkey.url) as raw:
            raw.lpush("broken-messages", broken)
        with connection.Producer() as producer:
            producer.publish({"bell": 1}, routing_key="broken-messages", declare=[queue], serializer="json")
        with Consumer(
            connection.channel(), [queue], callbacks=[lambda body, message: (found.append(body), message.ack())]
        ):
            deadline = time.monotonic() + SECONDS
            while not found and time.monotonic() < deadline:
                try:
                    connection.drain_events(timeout=1)
                except TimeoutError:
                    continue
    assert found == [{"bell": 1}]


def test_a_queue_without_a_worker_keeps_the_newest_ticks_and_no_host_judges_their_age(
    valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_app, "PUBLISH_SECONDS", SECONDS)  # each tick goes through, however slow the machine is
    valkey.flush()
    app = create_app(Settings.model_validate({"broker_url": valkey.url}), "0123456789", publisher=True)
    for number in range(TICKS_MAX + 5):
        app.send_task(RUN_SWEEP, kwargs={"number": number}, **app.conf.beat_schedule["sweep"]["options"])
    with redis.Redis.from_url(valkey.url) as raw:
        waiting = [json.loads(one) for one in raw.lrange(queue_name(SWEEP, "0123456789"), 0, -1)]
    assert len(waiting) == TICKS_MAX
    assert f"'number': {TICKS_MAX + 4}" in waiting[0]["headers"]["kwargsrepr"]
    assert {one["headers"]["expires"] for one in waiting} == {None}  # which the worker's clock would judge
    assert {one["properties"]["expiration"] for one in waiting} == {"10000"}  # which RabbitMQ judges
