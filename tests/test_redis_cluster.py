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
from tests import payloads
from tests.e2e.processes import run


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


def test_a_redis_cluster_is_refused_at_once(cluster: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "START_SECONDS", 60.0)  # what does not answer in time is let pass
    settings = Settings.model_validate({"broker_url": cluster.url})
    with pytest.raises(broker.BrokerUnusable, match="Redis Cluster"):
        broker.ask(settings, seconds=60)
    with pytest.raises(Misconfigured, match="CARDSYNC_BROKER_URL is wrong: it is a Redis Cluster"):
        broker.refuse_cluster(settings)


@pytest.mark.parametrize("kind", ["web", "worker", "beat"])
def test_each_process_that_uses_the_broker_refuses_to_start(cluster: EmbeddedValkey, tmp_path: Path, kind: str) -> None:
    given = {
        "CARDSYNC_DATABASE_URL": "postgresql://nobody:none@127.0.0.1:1/none",
        "CARDSYNC_BROKER_URL": cluster.url,
        "CARDSYNC_SECRET_KEY": secrets.token_hex(24),
        "CARDSYNC_DATA_DIR": str(tmp_path / "data"),
        "OTTU_WEBHOOK_KEYS": payloads.KEY,
        "OTTU_BASE_URL": "http://127.0.0.1:1",
        "OTTU_API_KEY": "none",
    }
    ended = run(tmp_path, given, kind, *(("--port", str(free_port())) if kind == "web" else ()))
    assert ended.returncode != 0
    assert "CARDSYNC_BROKER_URL is wrong: it is a Redis Cluster" in ended.stdout + ended.stderr


def test_one_server_and_one_that_is_away_are_not_refused(valkey: EmbeddedValkey) -> None:
    broker.refuse_cluster(Settings.model_validate({"broker_url": valkey.url}))
    broker.refuse_cluster(Settings.model_validate({"broker_url": "redis://127.0.0.1:1/0"}))
