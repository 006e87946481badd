"""A database that has no connection left: requests get 503 and the log says why, and no real key is taken for a guess."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from cardsync.episodes import Episode
from cardsync.web import responses
from cardsync.web.rate_limits import UNKNOWN_A_SECOND, KeyGuessLimiter

QUERY = {"environment": "sandbox", "customer_id": "cust-1"}


@pytest.fixture
def full(engine: Engine, web_engine: Engine, ingest_engine: Engine) -> Iterator[Callable[[], None]]:
    """Leave no connection for the processes' logins; superusers still come in."""

    def limit(connections: int) -> None:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            name = connection.execute(text("SELECT quote_ident(current_database())")).scalar_one()
            connection.execute(text(f"ALTER DATABASE {name} CONNECTION LIMIT {connections}"))
        web_engine.dispose()
        ingest_engine.dispose()

    yield lambda: limit(0)
    limit(-1)


def test_a_database_without_a_free_connection_is_503_for_a_real_key_however_often_it_asks(
    app: Flask,
    client: FlaskClient,
    bearer: Callable[..., dict[str, str]],
    full: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = bearer()
    app.extensions["cardsync"] = replace(app.extensions["cardsync"], key_guesses=KeyGuessLimiter(clock=lambda: 0.0))
    full()
    monkeypatch.setattr(responses, "_database_away", Episode("database_away"))  # another test's may be on
    with capture_logs() as lines:
        answers = [client.get("/v1/cards", query_string=QUERY, headers=real) for _ in range(UNKNOWN_A_SECOND + 5)]
    assert {answer.status_code for answer in answers} == {503}
    assert {(answer.json or {})["code"] for answer in answers} == {"database_unavailable"}
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in answers)
    assert [line["why"] for line in lines if line["event"] == "database_away"] == ["too many connections"]
