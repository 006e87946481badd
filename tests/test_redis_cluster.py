"""A Redis Cluster is refused at once: a worker would wait there for messages that never arrive."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from cardsync import broker
from cardsync.dev.servers import valkey as servers
from cardsync.dev.servers.ports import free_port
from cardsync.dev.servers.valkey import EmbeddedValkey
from cardsync.errors import Misconfigured
from cardsync.settings import Settings


@pytest.fixture
def cluster(services: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedValkey]:
    """A node of a cluster."""
    monkeypatch.setattr(
        servers, "CONFIGURATION", f"{servers.CONFIGURATION}\ncluster-enabled yes\ncluster-port {free_port()}\n"
    )
    made = EmbeddedValkey(services / f"cluster-{secrets.token_hex(4)}")
    made.start()
    yield made
    made.stop()


def test_a_redis_cluster_is_refused_at_once(cluster: EmbeddedValkey) -> None:
    settings = Settings.model_validate({"broker_url": cluster.url})
    with pytest.raises(broker.BrokerUnusable, match="Redis Cluster"):
        broker.ask(settings, seconds=60)
    with pytest.raises(Misconfigured, match="CARDSYNC_BROKER_URL is wrong: it is a Redis Cluster"):
        broker.refuse_cluster(settings)


def test_one_server_and_one_that_is_away_are_not_refused(valkey: EmbeddedValkey) -> None:
    broker.refuse_cluster(Settings.model_validate({"broker_url": valkey.url}))
    broker.refuse_cluster(Settings.model_validate({"broker_url": "redis://127.0.0.1:1/0"}))
