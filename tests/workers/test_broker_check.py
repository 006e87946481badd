"""The check says what a broker that signs us in does not let us do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from cardsync.dev.servers.valkey import EmbeddedValkey
from cardsync.settings import Settings
from workers import broker_channel, broker_check


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that shares a busy machine is slow, which is no trouble of its own."""
    monkeypatch.setattr(broker_channel, "SECONDS", 60.0)


@pytest.fixture
def raw(valkey: EmbeddedValkey) -> Iterator[redis.Redis]:
    """The broker's own client."""
    valkey.flush()
    with redis.Redis.from_url(valkey.url) as client:
        yield client
        client.execute_command("ACL", "SETUSER", "default", "+@all")
        client.config_set("maxmemory", "0")
        client.replicaof("NO", "ONE")
        valkey.flush()


def test_a_broker_that_does_all_has_no_trouble_and_keeps_nothing(valkey: EmbeddedValkey, raw: redis.Redis) -> None:
    assert broker_check.trouble(Settings.model_validate({"broker_url": valkey.url})) is None
    assert [key for key in raw.scan_iter() if b"probe" in key] == []


def test_a_demoted_redis_is_told(valkey: EmbeddedValkey, raw: redis.Redis) -> None:
    raw.replicaof("127.0.0.1", "1")
    assert broker_check.trouble(Settings.model_validate({"broker_url": valkey.url})) == broker_check.WRITE


def test_a_full_redis_is_told(valkey: EmbeddedValkey, raw: redis.Redis) -> None:
    raw.config_set("maxmemory-policy", "noeviction")
    raw.config_set("maxmemory", "1")
    assert broker_check.trouble(Settings.model_validate({"broker_url": valkey.url})) == broker_check.WRITE


def test_a_login_of_redis_without_the_right_to_write_is_told(valkey: EmbeddedValkey, raw: redis.Redis) -> None:
    raw.execute_command("ACL", "SETUSER", "default", "-@write")
    assert broker_check.trouble(Settings.model_validate({"broker_url": valkey.url})) == broker_check.WRITE


def test_rabbitmq_passes_the_check(rabbitmq_url: str) -> None:
    assert broker_check.trouble(Settings.model_validate({"broker_url": rabbitmq_url})) is None
