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

from cardsync import log_lines, logs
from cardsync.settings import Settings

Written = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    """The lines of an event; the log is set up as the web's."""
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, write_through=True))
    logs.configure(Settings.model_construct(log_format="json", log_level="info"), "web")

    def lines(event: str) -> list[dict[str, Any]]:
        log_lines.flush()
        found = [json.loads(line) for line in output.getvalue().splitlines()]
        return [line for line in found if line["event"] == event]

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
