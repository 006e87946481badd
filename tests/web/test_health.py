"""Health, figures, logs: what is told when parts are away, and how long it takes."""

from __future__ import annotations

import datetime as dt
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, text
from werkzeug.test import Client

from cardsync import db
from cardsync.ciphers import KeyRing
from cardsync.dev.servers.valkey import EmbeddedValkey
from cardsync.reachability import why_unreachable
from cardsync.store import heartbeats
from cardsync.store.access.secret_keys import check_secret
from cardsync.store.calls import gate
from cardsync.store.heartbeats import Process
from cardsync.web import rate_limits
from cardsync.web.cached_check import CachedCheck, NoAnswer
from cardsync.web.ingest.endpoint import PATH
from cardsync.web.ops import health
from cardsync.web.ops.health import BROKER_SECONDS, WAIT_SECONDS
from cardsync.web.rate_limits import RateLimitedLog
from tests import payloads
from tests.waiting import until
from tests.web.conftest import SECRET, NotingBells
from tests.web.rows import add_card
from tests.web.served import Served

AWAY = "postgresql://nobody@127.0.0.1:1/none"
DELAY_SECONDS = 45  # a deadline: what answers nothing is waited for without an end, or for minutes


@pytest.fixture
def listener() -> Iterator[int]:
    """A port where something listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture(autouse=True)
def at_work(engine: Engine) -> None:
    """A worker and a beat that were at work just now."""
    with engine.begin() as connection:
        for kind in heartbeats.KINDS:
            heartbeats.beat(connection, Process(kind, "one.example", 7), here=dt.datetime.now(dt.UTC))


def ready(app: Flask) -> tuple[int, str, dict[str, str]]:
    response = app.test_client().get("/readyz")
    answer = response.json
    assert answer is not None
    return response.status_code, answer["status"], answer["checks"]


def send(client: Client, body: bytes) -> int:
    return client.post(PATH, data=body, content_type="application/json").status_code


def test_it_lives_without_anything_else(make_app: Callable[..., Flask]) -> None:
    client = make_app(engine=db.make_engine(AWAY), ingest_engine=db.make_engine(AWAY)).test_client()
    assert client.get("/livez").status_code == 200


def test_with_everything_there_it_is_ready(make_app: Callable[..., Flask], valkey: EmbeddedValkey) -> None:
    app = make_app(broker_url=valkey.url)
    until(lambda: ready(app)[2]["broker"] == "ok", "the broker is asked")
    assert ready(app) == (
        200,
        "ready",
        dict.fromkeys(("database", "migrations", "secret_key", "spool", "broker", "ottu"), "ok"),
    )


def test_a_bell_that_did_not_go_through_is_told_though_the_broker_signs_us_in(
    make_app: Callable[..., Flask], valkey: EmbeddedValkey, bells: NotingBells
) -> None:
    app = make_app(broker_url=valkey.url)
    until(lambda: ready(app)[2]["broker"] == "ok", "the broker is asked")
    bells.are_in_vain = True
    status, word, checks = ready(app)
    assert (status, word, checks["broker"]) == (200, "degraded", "signs us in, but the last bell did not go through")


@pytest.mark.parametrize(("seconds", "expected"), [(5, "ready"), (31, "degraded")])
def test_a_sweep_that_stands_still_is_told(
    make_app: Callable[..., Flask], valkey: EmbeddedValkey, engine: Engine, seconds: int, expected: str
) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE cardsync.gate SET swept_at = clock_timestamp() - make_interval(secs => :s)"), {"s": seconds}
        )
    app = make_app(broker_url=valkey.url)
    until(lambda: ready(app)[2]["broker"] == "ok", "the broker is asked")
    status, word, checks = ready(app)
    assert (status, word) == (200, expected)
    assert ("sweep" in checks) is (expected == "degraded")


def test_no_worker_at_work_and_a_wrong_clock_are_told(
    make_app: Callable[..., Flask], valkey: EmbeddedValkey, engine: Engine
) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.heartbeats SET at = at - interval '31 s' WHERE kind = 'worker'"))
        connection.execute(text("UPDATE cardsync.heartbeats SET clock_ahead_seconds = -60 WHERE kind = 'beat'"))
    app = make_app(broker_url=valkey.url)
    until(lambda: ready(app)[2]["broker"] == "ok", "the broker is asked")
    status, word, checks = ready(app)
    assert (status, word, checks["worker"]) == (200, "degraded", "none at work for 30 s")
    assert checks["clock"] == "one.example: -60 s"
    assert "beat" not in checks


@pytest.mark.parametrize(("seconds", "expected"), [(-4, "ready"), (-6, "degraded"), (6, "degraded")])
def test_a_clock_of_the_webs_own_host_that_is_wrong_is_told_beside_those_of_others(
    make_app: Callable[..., Flask],
    valkey: EmbeddedValkey,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    seconds: int,
    expected: str,
) -> None:
    if expected == "degraded":
        with engine.begin() as connection:
            connection.execute(text("UPDATE cardsync.heartbeats SET clock_ahead_seconds = -60 WHERE kind = 'beat'"))
    # Not the database's own moment: it is asked for over a connection, and what that takes would count here.
    monkeypatch.setattr(db, "moment", lambda _: dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds))
    app = make_app(broker_url=valkey.url)
    until(lambda: ready(app)[2]["broker"] == "ok", "the broker is asked")
    status, word, checks = ready(app)
    assert (status, word) == (200, expected)
    if expected == "degraded":
        assert checks["clock"] == f"this host: {seconds:+d} s against the database's; one.example: -60 s"


@pytest.mark.parametrize(
    ("host", "other_ahead_seconds", "seconds_ago", "expected"),
    [
        ("two.example", 0.0, 0.0, (503, "not ready")),
        ("two.example", 60.0, 0.0, (200, "degraded")),  # the database's clock may be the wrong one
        ("two.example", 0.0, 31.0, (200, "degraded")),  # nothing else takes notifications
        (heartbeats.this_host(), 0.0, 0.0, (200, "degraded")),
    ],
)
def test_a_web_is_out_of_service_for_its_clock_only_while_another_hosts_web_takes_the_notifications(
    make_app: Callable[..., Flask],
    valkey: EmbeddedValkey,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    other_ahead_seconds: float,
    seconds_ago: float,
    expected: tuple[int, str],
) -> None:
    with engine.begin() as connection:
        heartbeats.beat(connection, heartbeats.Process("web", host, 7), here=dt.datetime.now(dt.UTC))
        connection.execute(
            text(
                "UPDATE cardsync.heartbeats SET clock_ahead_seconds = :ahead, at = at - make_interval(secs => :ago)"
                " WHERE kind = 'web'"
            ),
            {"ahead": other_ahead_seconds, "ago": seconds_ago},
        )
    monkeypatch.setattr(db, "moment", lambda _: dt.datetime.now(dt.UTC) + dt.timedelta(seconds=60))
    app = make_app(broker_url=valkey.url)
    until(lambda: ready(app)[2]["broker"] == "ok", "the broker is asked")
    status, word, checks = ready(app)
    assert (status, word) == expected
    assert checks["clock"].startswith("this host: -60 s against the database's")


def test_a_feed_that_went_backwards_is_told(
    make_app: Callable[..., Flask], valkey: EmbeddedValkey, engine: Engine
) -> None:
    def move_head(seq: int) -> None:
        with engine.begin() as connection:
            connection.execute(text("UPDATE cardsync.feed_head SET seq = :seq"), {"seq": seq})

    move_head(120)
    app = make_app(broker_url=valkey.url)
    until(lambda: ready(app)[1] == "ready", "it is ready")
    move_head(100)  # a standby that lagged took over
    until(lambda: "feed" in ready(app)[2], "it is told")
    status, word, checks = ready(app)
    assert (status, word) == (200, "degraded")
    assert "from 120 to 100" in checks["feed"]


def test_without_the_broker_it_still_takes_hints(app: Flask) -> None:
    why = why_unreachable(ConnectionRefusedError())
    until(lambda: ready(app)[2]["broker"] == why, "the client is loaded, and has asked")
    assert ready(app)[:2] == (200, "degraded")


@pytest.mark.parametrize("scheme", ["amqp", "redis", "rediss"])
def test_an_open_port_is_no_broker_and_delays_no_probe(
    make_app: Callable[..., Flask], listener: int, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(broker_url=f"{scheme}://user:a-password@127.0.0.1:{listener}/0")
    monkeypatch.setattr(health, "BROKER_SECONDS", BROKER_SECONDS)
    began = time.monotonic()
    status, word, checks = ready(app)
    assert time.monotonic() - began < DELAY_SECONDS
    assert (status, word) == (200, "degraded")
    assert checks["broker"] != "ok"
    assert "a-password" not in checks["broker"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda url: url.replace(urlsplit(url).password, "wrong"), "it refuses the user name or password"),
        (lambda url: url.rpartition("/")[0] + "/4000", "there is no such database"),
    ],
    ids=["a wrong password", "a wrong database"],
)
def test_a_broker_that_refuses_us_is_told_with_its_reason(
    make_app: Callable[..., Flask], valkey: EmbeddedValkey, change: Callable[[str], str], why: str
) -> None:
    app = make_app(broker_url=change(valkey.url))
    ready(app)  # the client itself is loaded at the first question
    until(lambda: ready(app)[2]["broker"] == why, why)
    assert ready(app)[:2] == (200, "degraded")


def test_without_the_database_it_still_takes_hints(make_app: Callable[..., Flask]) -> None:
    status, word, checks = ready(make_app(engine=db.make_engine(AWAY)))
    assert (status, word) == (200, "degraded")
    assert checks["spool"] == "ok"
    assert checks["database"] == "cannot be used: connection refused"
    assert checks["migrations"].startswith("unknown")


def test_a_database_that_takes_connections_and_says_nothing_delays_no_probe(
    make_app: Callable[..., Flask], listener: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(engine=db.make_engine(f"postgresql://nobody@127.0.0.1:{listener}/none"))
    monkeypatch.setattr(health, "WAIT_SECONDS", WAIT_SECONDS)
    began = time.monotonic()
    status, _, checks = ready(app)
    assert time.monotonic() - began < DELAY_SECONDS
    assert (status, checks["database"]) == (200, "no answer within 1 s")


def test_with_neither_database_nor_disk_it_is_not_ready(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way", encoding="utf-8")
    status, word, checks = ready(make_app(engine=db.make_engine(AWAY)))
    assert (status, word) == (503, "not ready")
    assert checks["spool"].startswith("the spool cannot be written")


def test_without_the_disk_it_still_takes_hints(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way", encoding="utf-8")
    status, word, checks = ready(make_app())
    assert (status, word, checks["database"]) == (200, "degraded", "ok")


def test_a_database_that_answers_and_takes_no_hint_is_told(
    make_app: Callable[..., Flask], way_in: str, engine: Engine
) -> None:
    app = make_app(ingest_engine=db.make_engine(AWAY, autocommit=True))
    client = Client(Served(app) if way_in == "served" else app)
    assert send(client, payloads.signed(payloads.save_card())) == 200
    status, word, checks = ready(app)
    assert (status, word, checks["database"]) == (200, "degraded", "takes no hints at the moment: connection refused")


def test_a_server_that_was_restarted_is_ready_though_the_pool_keeps_a_connection_that_died_with_it(
    make_app: Callable[..., Flask], engine: Engine, web_engine: Engine
) -> None:
    app = make_app(engine=web_engine)
    with web_engine.connect() as connection:
        session = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 60000)"), {"pid": session})
    assert ready(app)[2]["database"] == "ok"
    assert "cardsync_database_up 1.0" in app.test_client().get("/metrics").text


def test_an_unmigrated_database_is_not_ready(make_app: Callable[..., Flask], database_url: str, engine: Engine) -> None:
    db.downgrade(database_url, "base")
    status, _, checks = ready(make_app())
    assert (status, checks["database"], checks["migrations"]) == (503, "ok", "not migrated")


def test_a_newer_database_is_ready_for_a_program_that_goes_on_beside_the_new_one(
    make_app: Callable[..., Flask], engine: Engine
) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.alembic_version SET version_num = '9999'"))
    status, _, checks = ready(make_app())
    assert (status, checks["migrations"]) == (200, "ok")


def test_another_secret_key_is_not_ready(make_app: Callable[..., Flask], engine: Engine) -> None:
    with engine.begin() as connection:
        check_secret(connection, KeyRing(b"another-key-another-key-another-key-"))
    status, _, checks = ready(make_app())
    assert status == 503
    assert "CARDSYNC_SECRET_KEY" in checks["secret_key"]
    assert SECRET not in str(checks)


def test_paused_calls_are_told_and_stop_nothing(make_app: Callable[..., Flask], engine: Engine) -> None:
    with engine.begin() as connection:
        gate.heard(connection, "credentials_refused", who=1)
    status, _, checks = ready(make_app())
    assert status == 200
    assert "credentials refused" in checks["ottu"]
    assert ready(make_app())[1] == "degraded"
    assert "set a credential" in checks["calls"]


def tell(engine: Engine, *ends: tuple[gate.Word, int]) -> None:
    """How calls ended."""
    with engine.begin() as connection:
        for word, who in ends:
            gate.heard(connection, word, who=who)


def test_it_says_which_trouble_of_ottus_stops_or_slows_calls(make_app: Callable[..., Flask], engine: Engine) -> None:
    def found() -> str:
        return ready(make_app())[2]["ottu"]

    tell(engine, ("failed", 1), ("failed", 2), ("failed", 3))
    assert found().startswith("paused until 20")
    assert found().endswith(": Ottu is down")
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.gate SET breaker_shut_until = clock_timestamp()"))
    assert found() == "paused until a call succeeds: Ottu is down"
    tell(engine, ("answered", 4), ("throttled", 5))
    assert found().endswith(": throttled by Ottu")
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.gate SET paused_until = clock_timestamp()"))
    assert found() == "limited to 0.5 calls a second after a 429"


def test_metrics_say_why_calls_are_paused_and_how_fast_they_may_be(client: FlaskClient, engine: Engine) -> None:
    def because(found: dict[tuple[str, tuple[tuple[str, str], ...]], float]) -> list[float]:
        name = "cardsync_ottu_calls_paused_because"
        return [found[name, (("reason", reason),)] for reason in ("throttled", "down", "credentials")]

    tell(engine, ("failed", 1), ("failed", 2), ("failed", 3))
    found = samples(client.get("/metrics").text)
    assert (found["cardsync_ottu_calls_paused", ()], because(found)) == (1, [0, 1, 0])
    assert found["cardsync_ottu_calls_per_second_limit", ()] == math.inf


def test_metrics_show_the_pace_after_a_429(client: FlaskClient, engine: Engine) -> None:
    tell(engine, ("throttled", 1))
    found = samples(client.get("/metrics").text)
    assert found["cardsync_ottu_calls_per_second_limit", ()] == 0.5
    assert found["cardsync_ottu_calls_paused_because", (("reason", "throttled"),)] == 1


def test_metrics_show_counters_and_the_state(make_client: Callable[..., Client], engine: Engine) -> None:
    add_card(engine)
    client = make_client()
    assert send(client, payloads.signed(payloads.save_card())) == 200
    found = samples(client.get("/metrics").text)
    assert found["cardsync_database_up", ()] == 1
    assert found["cardsync_inbox_pending", ()] == 1
    assert found["cardsync_cards", (("status", "active"),)] == 1
    assert found["cardsync_customers", ()] == 1
    assert found["cardsync_feed_head", ()] == 1
    assert found["cardsync_removal_brake_engaged", ()] == 0
    assert found["cardsync_notification_queue_usage", ()] == 0
    assert found["cardsync_ottu_calls_budget", ()] == 90_000
    assert found["cardsync_hints_total", (("outcome", "accepted"),)] >= 1


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("cardsync_hints_total", {"outcome": "unavailable"}),
        ("cardsync_spooled_hints_total", {"step": "written"}),
        ("cardsync_ottu_calls_total", {"operation": "delete", "outcome": "CredentialsRefused"}),
        ("cardsync_reconciliations_total", {"lane": "audit", "outcome": "failed"}),
        ("cardsync_rings_total", {"outcome": "failed"}),
        ("cardsync_card_changes_total", {"change": "expired"}),
        ("cardsync_ottu_call_seconds_count", {"operation": "list"}),
        ("cardsync_hint_believed_seconds_bucket", {"le": "30.0"}),
        ("cardsync_deletion_proved_seconds_bucket", {"le": "300.0"}),
    ],
)
def test_every_series_is_there_before_its_first_count(client: FlaskClient, name: str, labels: dict[str, str]) -> None:
    assert (name, tuple(sorted(labels.items()))) in samples(client.get("/metrics").text)


def test_requests_are_counted_by_route_and_status_and_never_by_what_they_name(client: FlaskClient) -> None:
    client.get("/nowhere/9999000000000001")
    client.get("/v1/cards/5f0f2a32-0000-4000-8000-000000000000")
    text_ = client.get("/metrics").text
    found = samples(text_)
    assert found["cardsync_http_request_seconds_count", (("route", "none"), ("status", "404"))] >= 1
    assert found["cardsync_http_request_seconds_count", (("route", "/v1/cards/<card_id>"), ("status", "401"))] >= 1
    assert "9999000000000001" not in text_


def test_drift_is_a_share_with_its_bounds_once_somebody_was_audited(
    make_app: Callable[..., Flask], engine: Engine
) -> None:
    found = samples(make_app().test_client().get("/metrics").text)
    assert found["cardsync_drift_sample", ()] == 0
    assert ("cardsync_drift_right_share", ()) not in found
    add_card(engine)
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO cardsync.audits (customer, observation_no, judged_at, verdict, causes)
                SELECT c.id, n, now() - n * interval '10 days', v.verdict, v.causes
                FROM cardsync.customers AS c, generate_series(1, 3) AS n,
                     (VALUES ('right', '{}'::text[]), ('wrong', '{held,silent_deletion,silent_deletion}')) AS v
                       (verdict, causes)
            """)
        )
    found = samples(make_app().test_client().get("/metrics").text)
    assert found["cardsync_drift_sample", ()] == 4  # those of thirty days
    assert found["cardsync_drift_right_share", ()] == 0.5
    assert 0 < found["cardsync_drift_right_share_low", ()] < 0.5 < found["cardsync_drift_right_share_high", ()] < 1
    assert found["cardsync_drift_differences", (("cause", "silent_deletion"),)] == 4
    assert found["cardsync_drift_differences", (("cause", "lost_hint"),)] == 0


def test_metrics_show_whether_forgetting_keeps_up(make_client: Callable[..., Client], engine: Engine) -> None:
    client = make_client()
    assert send(client, payloads.signed(payloads.operation())) == 200
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.events SET received_at = received_at - interval '31 days'"))
    found = samples(client.get("/metrics").text)
    month = 31 * 86_400
    assert month <= found["cardsync_inbox_oldest_content_seconds", ()] < month + 3_600
    assert month <= found["cardsync_inbox_oldest_row_seconds", ()] < month + 3_600


def test_metrics_show_the_schedule_at_work(client: FlaskClient, engine: Engine) -> None:
    add_card(engine, "calm")
    add_card(engine, "restless")
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE cardsync.customers SET reconciled_at = now(), cadence = CASE customer_id WHEN 'calm' THEN 0 ELSE 9 END"
        )
    found = samples(client.get("/metrics").text)
    by_cadence = {labels: value for (name, labels), value in found.items() if name == "cardsync_customers_by_cadence"}
    assert by_cadence.pop((("cadence", "0"),)) == by_cadence.pop((("cadence", "9"),)) == 1
    assert set(by_cadence.values()) == {0}
    assert (
        found["cardsync_cadence_interval_seconds", (("cadence", "9"),)] == 300
    )  # two customers, and calls for thousands


def test_without_the_database_the_counters_are_still_shown(make_app: Callable[..., Flask]) -> None:
    found = samples(make_app(engine=db.make_engine(AWAY)).test_client().get("/metrics").text)
    assert found["cardsync_database_up", ()] == 0
    assert any(name == "cardsync_hint_answer_seconds_count" for name, _ in found)


def samples(exposed: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(exposed)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples}


def test_a_question_without_an_answer_holds_one_thread_however_often_it_is_asked() -> None:
    asked: list[int] = []
    released = threading.Event()

    def question() -> int:
        asked.append(1)
        released.wait(60)
        return len(asked)

    probe = CachedCheck(question, keep_seconds=60)
    for _ in range(3):
        with pytest.raises(NoAnswer):
            probe.read(wait_seconds=0.01)
    released.set()
    assert probe.read(wait_seconds=60) == probe.read(wait_seconds=60) == 1
    assert len(asked) == 1


def test_a_failed_question_tells_why_and_is_asked_again() -> None:
    answers: list[Exception] = [ValueError(), KeyError()]

    def question() -> None:
        raise answers.pop(0)

    probe = CachedCheck(question, keep_seconds=0)
    for kind in (ValueError, KeyError):
        with pytest.raises(kind):
            probe.read(wait_seconds=60)


def test_a_flood_of_refusals_leaves_a_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[dict[str, object]] = []

    class Log:
        def warning(self, event: str, **facts: object) -> None:
            lines.append({"event": event, **facts})

    monkeypatch.setattr(rate_limits, "log", Log())
    now = [5.0]
    log = RateLimitedLog(10, clock=lambda: now[0])
    for _ in range(1_000):
        log.warning("refused")
    now[0] = 6.0
    log.warning("refused")
    assert len(lines) == 11
    assert lines[-1] == {"event": "refused", "left_out_before": 990}


def test_an_unforeseen_error_tells_nothing_of_itself(
    app: Flask, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> str:
        raise RuntimeError("9999000000000001")

    app.add_url_rule("/broken", view_func=broken)
    response = app.test_client().get("/broken")
    assert (response.status_code, response.content_type) == (500, "application/problem+json")
    assert response.json["request_id"] == response.headers["X-Request-ID"]  # type: ignore[index]
    written = "".join(capsys.readouterr()) + caplog.text
    assert "request_failed" in written
    assert "9999000000000001" not in response.text + written


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/nowhere", "/v1/cards"])
def test_every_answer_has_its_headers_and_a_request_id(client: FlaskClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers.getlist("X-Content-Type-Options") == ["nosniff"]
    assert headers.getlist("Cache-Control") == ["no-store"]
    assert headers.getlist("Referrer-Policy") == ["no-referrer"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert len(headers["X-Request-ID"]) == 32


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/v1/cards"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_405(client: FlaskClient, path: str, method: str) -> None:
    response = client.open(path, method=method)
    assert (response.status_code, response.content_type) == (405, "application/problem+json")
    assert "GET" in response.headers["Allow"]


def test_a_doubled_slash_is_not_redirected(client: FlaskClient) -> None:
    assert client.get("//v1/cards").status_code == 404


def test_the_state_is_read_without_a_whole_table_of_events(engine: Engine) -> None:
    with engine.connect() as connection:
        indexes = connection.execute(text("SELECT indexname FROM pg_indexes WHERE tablename = 'events'")).scalars()
        assert {"events_pending", "events_failed"} <= set(indexes)


def test_a_dear_answer_is_kept_longer() -> None:
    asked = 0

    def question() -> int:
        nonlocal asked
        asked += 1
        threading.Event().wait(0.02)
        return asked

    dear, cheap = CachedCheck(question, keep_seconds=0, rest=1e6), CachedCheck(question, keep_seconds=0)
    assert [probe.read(wait_seconds=60) for probe in (dear, dear, cheap, cheap)] == [1, 1, 2, 3]


def test_an_operator_s_pause_is_told_without_the_operator_s_name(
    make_app: Callable[..., Flask], engine: Engine, client: FlaskClient
) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE cardsync.gate SET operator_paused_at = '2026-03-01 12:00Z', operator_paused_by = 'Amal',"
                " operator_paused_why = 'MARKED'"
            )
        )
    status, found, checks = ready(make_app())
    assert (status, found) == (200, "degraded")
    assert checks["ottu"] == "paused since 2026-03-01T12:00:00Z: stopped by an operator"
    assert "resumes them in the console" in checks["calls"]
    assert not any(one in str(checks) for one in ("Amal", "MARKED"))
    seen = samples(client.get("/metrics").text)
    assert seen["cardsync_ottu_calls_paused", ()] == 1
    assert seen["cardsync_ottu_calls_paused_because", (("reason", "operator"),)] == 1
