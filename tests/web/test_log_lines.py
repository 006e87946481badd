"""Lines of the log as they are written: what an answer promises is found there."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from cardsync import db, log_lines, logs
from cardsync.episodes import Episode
from cardsync.settings import Settings
from cardsync.web import responses
from cardsync.web.rate_limits import RateLimiter
from tests.web.test_health import AWAY

Written = Callable[[str | None], list[dict[str, Any]]]


@pytest.fixture
def level() -> str:
    """The least level of lines that are written."""
    return "info"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, level: str) -> Written:
    """The lines of an event, or all; the log is set up as the web's."""
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, write_through=True))
    logs.configure(Settings.model_construct(log_format="json", log_level=level), "web")

    def lines(event: str | None) -> list[dict[str, Any]]:
        log_lines.flush()
        found = [json.loads(line) for line in output.getvalue().splitlines()]
        return [line for line in found if event in (None, line["event"])]

    return lines


def test_a_request_of_the_api_is_one_line_with_its_milliseconds(
    client: FlaskClient, bearer: Callable[..., dict[str, str]], written: Written
) -> None:
    client.get("/v1/cards?environment=sandbox&customer_id=somebody", headers=bearer("cards:read"))
    (line,) = written("api_request")
    assert line["milliseconds"] > 0
    assert (line["route"], line["status"]) == ("/v1/cards", 200)
    assert "somebody" not in json.dumps(line)


@pytest.mark.parametrize(
    ("method", "path", "event"),
    [("GET", "/no-such-page", "unknown_path"), ("POST", "/webhooks/otu", "hint_at_unknown_path")],
)
def test_the_request_id_of_an_unknown_path_is_found_in_the_log(
    app: Flask, written: Written, method: str, path: str, event: str
) -> None:
    answer = app.test_client().open(path, method=method)
    assert answer.status_code == 404
    (line,) = written(event)
    assert line["request_id"] == answer.json["request_id"] == answer.headers["X-Request-ID"]  # type: ignore[index]
    assert path not in json.dumps(line)


@pytest.mark.parametrize("ask", ["an unknown path", "a wrong signature", "no key", "a wrong method"])
def test_of_a_flood_few_lines_are_written_and_an_answer_has_a_request_id_only_if_the_log_has_it(
    app: Flask, written: Written, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    first = iter([True])
    monkeypatch.setattr(RateLimiter, "lets_pass", lambda _: next(first, False))  # all within one second
    client = app.test_client()
    ways: dict[str, Callable[[], Any]] = {
        "an unknown path": lambda: client.get("/no-such-page"),
        "a wrong signature": lambda: client.post("/webhooks/ottu", json={"signature": "0" * 64}),
        "no key": lambda: client.get("/v1/cards"),
        "a wrong method": lambda: client.put("/webhooks/ottu"),
    }
    answers = [ways[ask]() for _ in range(9)]
    promised = [answer.json["request_id"] for answer in answers if "request_id" in answer.json]
    assert promised == [line["request_id"] for line in written(None)]
    assert promised == [answers[0].headers["X-Request-ID"]]
    assert all(answer.headers["X-Request-ID"] for answer in answers)


@pytest.mark.parametrize("level", ["warning"])
def test_an_answer_promises_no_line_that_the_level_of_the_log_leaves_out(
    app: Flask, bearer: Callable[..., dict[str, str]], written: Written
) -> None:
    wrong, stranger = (app.test_client().get("/v1/cards", headers=headers) for headers in (bearer("cards:read"), {}))
    assert (wrong.status_code, stranger.status_code) == (422, 401)
    assert "request_id" not in (wrong.json or {})
    (line,) = written(None)
    assert line["request_id"] == (stranger.json or {})["request_id"]


def test_while_the_database_is_away_one_line_tells_so_and_one_that_it_is_over_and_answers_promise_only_lines_that_are_there(
    make_app: Callable[..., Flask],
    bearer: Callable[..., dict[str, str]],
    written: Written,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(responses, "_database_away", Episode("database_away", clock=lambda: now[0]))
    client = make_app(engine=db.make_engine(AWAY)).test_client()
    key = bearer()
    answers = [client.get("/v1/cards", headers=key) for _ in range(9)]
    assert {answer.status_code for answer in answers} == {503}
    promised = [answer.json["request_id"] for answer in answers if "request_id" in (answer.json or {})]
    now[0] += responses.QUIET_SECONDS
    client.get("/livez")
    (told,) = written("database_away")
    assert (told["request_id"], told["why"]) == (promised[0], "connection refused")
    assert set(promised) <= {line.get("request_id") for line in written(None)}
    assert written("database_away_ended") == []  # it may come again at once
    now[0] += 1
    client.get("/livez")
    (over,) = written("database_away_ended")
    assert over["repeated"] == 8
