"""The shared fixtures keep their word: a database of one's own, with the schema and truly committed rows."""

from __future__ import annotations

import psycopg
import pytest
import redis
from sqlalchemy import Engine, text

from cardsync.dev.servers.valkey import EmbeddedValkey


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_has_a_database_of_its_own(database_url: str, turn: int) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE only_mine (n int)")  # fails in the second turn if the first is seen


def test_rows_of_the_engine_are_seen_by_other_connections(engine: Engine, database_url: str) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE public.seen AS SELECT 1 AS n"))
    with psycopg.connect(database_url) as other:
        assert other.execute("SELECT n FROM public.seen").fetchall() == [(1,)]


def test_the_broker_answers(valkey: EmbeddedValkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        assert client.ping()


def test_rabbitmq_is_found_or_its_absence_is_told(rabbitmq_url: str) -> None:
    assert rabbitmq_url.startswith("amqp")
