"""Health, figures, logs: what is told when parts are away, and how long it takes."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, text

from cardsync import db
from cardsync.store import gate
from cardsync.store.secret import check_secret
from cardsync.web import steadylog
from cardsync.web.probes import NoAnswer, Probe
from cardsync.web.steadylog import SteadyLog
from tests import payloads
from tests.web.conftest import SECRET
from tests.web.registry_rows import add_card

AWAY = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture
def listener() -> Iterator[int]:
    """A port where something listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def ready(app: Flask) -> tuple[int, str, dict[str, str]]:
    response = app.test_client().get("/readyz")
    answer = response.json
    assert answer is not None
    return response.status_code, answer["status"], answer["checks"]


def test_it_lives_without_anything_else(make_app: Callable[..., Flask]) -> None:
    client = make_app(engine=db.make_engine(AWAY), ingest_engine=db.make_engine(AWAY)).test_client()
    assert client.get("/livez").status_code == 200


def test_with_everything_there_it_is_ready(make_app: Callable[..., Flask], listener: int) -> None:
    found = ready(make_app(broker_url=f"amqp://guest:guest@127.0.0.1:{listener}//"))
    assert found == (
        200,
        "ready",
        dict.fromkeys(("database", "migrations", "secret_key", "spool", "broker", "ottu"), "ok"),
    )


def test_without_the_broker_it_still_takes_hints(app: Flask) -> None:
    status, word, checks = ready(app)
    assert (status, word) == (200, "degraded")
    assert checks["broker"] == "does not answer"


def test_without_the_database_it_still_takes_hints(make_app: Callable[..., Flask]) -> None:
    status, word, checks = ready(make_app(engine=db.make_engine(AWAY)))
    assert (status, word) == (200, "degraded")
    assert checks["spool"] == "ok"
    assert checks["database"].startswith("cannot be used")
    assert checks["migrations"].startswith("unknown")


def test_a_database_that_takes_connections_and_says_nothing_delays_no_probe(
    make_app: Callable[..., Flask], listener: int
) -> None:
    app = make_app(engine=db.make_engine(f"postgresql://nobody@127.0.0.1:{listener}/none"))
    began = time.monotonic()
    status, _, checks = ready(app)
    assert time.monotonic() - began < 2
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


def test_a_database_that_answers_and_takes_no_hint_is_told(make_app: Callable[..., Flask], engine: Engine) -> None:
    app = make_app(ingest_engine=db.make_engine(AWAY, autocommit=True))
    body = payloads.signed(payloads.save_card())
    assert app.test_client().post("/webhooks/ottu", data=body, content_type="application/json").status_code == 200
    status, word, checks = ready(app)
    assert (status, word, checks["database"]) == (200, "degraded", "takes no hints at the moment")


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
        check_secret(connection, b"another-key-another-key-another-key-")
    status, _, checks = ready(make_app())
    assert status == 503
    assert "CARDSYNC_SECRET_KEY" in checks["secret_key"]
    assert SECRET not in str(checks)


def test_paused_calls_are_told_and_stop_nothing(make_app: Callable[..., Flask], engine: Engine, listener: int) -> None:
    with engine.begin() as connection:
        gate.heard(connection, "refused", who=1)
    status, _, checks = ready(make_app(broker_url=f"redis://127.0.0.1:{listener}/0"))
    assert status == 200
    assert "credentials refused" in checks["ottu"]


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


def test_metrics_show_counters_and_the_state(client: FlaskClient, engine: Engine) -> None:
    add_card(engine)
    client.post("/webhooks/ottu", data=payloads.signed(payloads.save_card()), content_type="application/json")
    found = samples(client.get("/metrics").text)
    assert found["cardsync_database_up", ()] == 1
    assert found["cardsync_inbox_pending", ()] == 1
    assert found["cardsync_cards", (("status", "active"),)] == 1
    assert found["cardsync_customers", ()] == 1
    assert found["cardsync_feed_head", ()] == 1
    assert found["cardsync_removal_brake_engaged", ()] == 0
    assert found["cardsync_ottu_calls_budget", ()] == 90_000
    assert found["cardsync_hints_total", (("outcome", "accepted"),)] >= 1


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


def test_metrics_show_whether_forgetting_keeps_up(client: FlaskClient, engine: Engine) -> None:
    client.post("/webhooks/ottu", data=payloads.signed(payloads.operation()), content_type="application/json")
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
        released.wait(10)
        return len(asked)

    probe = Probe(question, keep_seconds=60)
    for _ in range(3):
        with pytest.raises(NoAnswer):
            probe.read(wait_seconds=0.01)
    released.set()
    assert probe.read(wait_seconds=10) == probe.read(wait_seconds=10) == 1
    assert len(asked) == 1


def test_a_failed_question_tells_why_and_is_asked_again() -> None:
    answers: list[Exception] = [ValueError(), KeyError()]

    def question() -> None:
        raise answers.pop(0)

    probe = Probe(question, keep_seconds=0)
    for kind in (ValueError, KeyError):
        with pytest.raises(kind):
            probe.read(wait_seconds=10)


def test_a_flood_of_refusals_leaves_a_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[dict[str, object]] = []

    class Log:
        def warning(self, event: str, **facts: object) -> None:
            lines.append({"event": event, **facts})

    monkeypatch.setattr(steadylog, "log", Log())
    now = [5.0]
    log = SteadyLog(10, clock=lambda: now[0])
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

    dear, cheap = Probe(question, keep_seconds=0, rest=1e6), Probe(question, keep_seconds=0)
    assert [probe.read(wait_seconds=10) for probe in (dear, dear, cheap, cheap)] == [1, 1, 2, 3]
