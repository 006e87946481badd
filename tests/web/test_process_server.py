"""The health port of a worker or beat: it lives, it can work or says why not, and its metrics."""

from __future__ import annotations

import datetime as dt
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, text

from cardsync import db
from cardsync.dev.servers.ports import free_port
from cardsync.dev.servers.valkey import EmbeddedValkey
from cardsync.errors import Misconfigured
from cardsync.settings import Settings
from cardsync.store import heartbeats
from cardsync.store.calls import gate
from cardsync.store.heartbeats import Process
from cardsync.web.ops import health, metrics
from cardsync.web.ops.process_server import serve_in_background
from tests.logins import ProcessLogins
from tests.waiting import until
from tests.web.served import PATIENCE_SECONDS
from tests.web.test_health import AWAY, samples

Ask = Callable[[str], tuple[int, str]]


@pytest.fixture
def served(make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Ask]]:
    """Begins to answer; what is only slow, on a machine that does much else, is waited for."""
    for module, limit in ((health, "WAIT_SECONDS"), (health, "BROKER_SECONDS"), (metrics, "WAIT_SECONDS")):
        monkeypatch.setattr(module, limit, PATIENCE_SECONDS)
    closing = []

    def serve(kind: str = "worker", **overrides: object) -> Ask:
        port = free_port()
        closing.append(serve_in_background(make_settings(**overrides), kind=kind, host="127.0.0.1", port=port))

        def ask(path: str) -> tuple[int, str]:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2 * PATIENCE_SECONDS) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as refused:
                return refused.code, refused.read().decode()

        return ask

    yield serve
    for close in closing:
        close()


def test_a_worker_with_all_it_needs_is_ready(
    served: Callable[..., Ask], valkey: EmbeddedValkey, engine: Engine
) -> None:
    ask = served(broker_url=valkey.url)
    assert ask("/livez")[0] == 200
    until(lambda: json.loads(ask("/readyz")[1])["checks"]["broker"] == "ok", "the broker is asked")
    status, said = ask("/readyz")
    assert (status, "calls" in json.loads(said)["checks"]) == (200, False)
    with engine.begin() as connection:
        gate.heard(connection, "credentials_refused", who=1)
    until(lambda: "calls" in json.loads(ask("/readyz")[1])["checks"], "it tells of refused credentials")
    status, said = ask("/readyz")
    assert (status, json.loads(said)["status"]) == (200, "degraded")
    found = samples(ask("/metrics")[1])
    assert found["cardsync_database_up", ()] == 1
    assert found["cardsync_ottu_calls_paused_because", (("reason", "credentials"),)] == 1


@pytest.mark.parametrize(
    ("seconds", "expected"), [(-4, (200, "degraded")), (-6, (503, "not ready")), (6, (503, "not ready"))]
)
def test_a_worker_whose_hosts_clock_is_wrong_is_not_ready_and_one_of_another_host_is_told(
    served: Callable[..., Ask],
    valkey: EmbeddedValkey,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    seconds: int,
    expected: tuple[int, str],
) -> None:
    with engine.begin() as connection:
        for kind in heartbeats.KINDS:
            heartbeats.beat(connection, Process(kind, "one.example", 7), here=dt.datetime.now(dt.UTC))
        connection.execute(text("UPDATE cardsync.heartbeats SET clock_ahead_seconds = -60 WHERE kind = 'beat'"))
    # Not the database's own moment: it is asked for over a connection, and what that takes would count here.
    monkeypatch.setattr(db, "moment", lambda _: dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds))
    ask = served(broker_url=valkey.url)
    until(lambda: json.loads(ask("/readyz")[1])["checks"]["broker"] == "ok", "the broker is asked")
    status, said = ask("/readyz")
    answer = json.loads(said)
    assert (status, answer["status"]) == expected
    own = f"this host: {seconds:+d} s against the database's; " if abs(seconds) > heartbeats.CLOCK_SECONDS else ""
    assert answer["checks"]["clock"] == f"{own}one.example: -60 s"


def test_a_worker_without_its_database_lives_and_is_not_ready(served: Callable[..., Ask]) -> None:
    ask = served(database_url=AWAY)
    assert ask("/livez")[0] == 200
    status, said = ask("/readyz")
    assert (status, json.loads(said)["checks"]["database"]) == (503, "cannot be used: connection refused")


def test_a_console_needs_its_database_alone_and_shows_its_figures_with_its_own_login(
    served: Callable[..., Ask], logins: ProcessLogins, database_url: str
) -> None:
    ask = served("console", database_url=logins.url("console", database_url), broker_url=None)
    assert json.loads(ask("/readyz")[1]) == {"status": "ready", "checks": {"database": "ok", "migrations": "ok"}}
    assert samples(ask("/metrics")[1])["cardsync_database_up", ()] == 1
    assert served("console", database_url=AWAY)("/readyz")[0] == 503


def test_it_has_no_other_route(served: Callable[..., Ask]) -> None:
    assert served()("/v1/cards")[0] == 404


def test_a_port_that_is_taken_ends_the_process_with_one_line(
    served: Callable[..., Ask], make_settings: Callable[..., Settings]
) -> None:
    port = free_port()
    close = serve_in_background(make_settings(), kind="worker", host="127.0.0.1", port=port)
    with pytest.raises(Misconfigured, match=f"127.0.0.1:{port}"):
        serve_in_background(make_settings(), kind="beat", host="127.0.0.1", port=port)
    close()
