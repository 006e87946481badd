"""A pipeline is one transaction: all of it or nothing, with SQLAlchemy's errors and events, and a clean connection afterwards."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from cardsync.db import Pipeline, pipelined
from cardsync.errors import Superseded
from tests.waiting import until

_ADD = text("INSERT INTO public.kept (id, word) VALUES (:id, :word) RETURNING id, word AS said")
_CHANGE = text("UPDATE public.kept SET word = :word WHERE word <> :word AND id > 0::bigint")
_ALL = text("SELECT id FROM public.kept ORDER BY id")
_FAIL = text("SELECT 1 / :none")


@pytest.fixture(autouse=True)
def kept(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE public.kept (id bigint UNIQUE DEFERRABLE INITIALLY DEFERRED, word text CHECK (word <> ''))"
            )
        )


def ids(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.execute(_ALL).scalars())


def sessions(engine: Engine) -> set[int]:
    with engine.connect() as connection:
        return set(connection.execute(text("SELECT pid FROM pg_stat_activity")).scalars())


def run(engine: Engine, work: Callable[[Pipeline], object]) -> None:
    with pipelined(engine) as pipeline:
        work(pipeline)


def add_all(pipeline: Pipeline, *rows: tuple[int, str]) -> None:
    for number, word in rows:
        pipeline.execute(_ADD, {"id": number, "word": word})


def test_answers_are_read_in_any_order_and_also_after_the_commit(engine: Engine) -> None:
    with pipelined(engine) as pipeline:
        first = pipeline.execute(_ADD, {"id": 1, "word": "one"})
        changed = pipeline.execute(_CHANGE, {"word": "two"})
        second = pipeline.execute(_ADD, {"id": 2, "word": "two"})
        found = pipeline.execute(_ALL)
        assert list(found.scalars()) == [1, 2]
        assert first.one().said == "one"
        assert changed.rowcount == 1
    assert second.one_or_none().id == 2
    assert ids(engine) == [1, 2]


def test_statements_that_wait_for_their_answers_are_in_the_same_transaction(engine: Engine) -> None:
    def add(pipeline: Pipeline) -> None:
        pipeline.execute(_ADD, {"id": 1, "word": "one"})
        assert list(pipeline.connection.execute(_ALL).scalars()) == [1]
        assert pipeline.execute(_ALL).scalar_one() == 1
        raise Superseded("too late")

    with pytest.raises(Superseded):
        run(engine, add)
    assert ids(engine) == []


_VALUES = text("""
    SELECT cast(:numbers AS bigint[]), cast(:words AS text[]), cast(:ids AS uuid[]), cast(:hashes AS bytea[]),
        cast(:moments AS timestamptz[]), cast(:none AS int[])
""")


def test_arrays_arrive_as_they_were_given(engine: Engine) -> None:
    moment = dt.datetime(2026, 11, 1, 12, 30, 15, 123456, tzinfo=dt.UTC)
    words = ["", "NULL", 'a "quoted" one', "back\\slash", "{1,2}", "a, b", " blank ", "كلمة", "line\nbreak"]
    given = {
        "numbers": [1, -2, 2**40],
        "words": words,
        "ids": [uuid.UUID(int=7)],
        "hashes": [b"", b"\x00\\\xff"],
        "moments": [moment],
        "none": [],
    }
    with pipelined(engine) as pipeline:
        found = pipeline.execute(_VALUES, given).one()
    assert list(found) == list(given.values())


def test_an_error_where_nobody_reads_lets_nothing_be_committed(engine: Engine) -> None:
    with pytest.raises(IntegrityError):
        run(engine, lambda pipeline: add_all(pipeline, (1, "one"), (2, ""), (3, "three")))
    assert ids(engine) == []


def test_an_error_of_the_commit_itself_is_sqlalchemys(engine: Engine) -> None:
    with pytest.raises(IntegrityError) as caught:
        run(engine, lambda pipeline: add_all(pipeline, (1, "one"), (1, "again")))
    assert getattr(caught.value.orig, "sqlstate", None) == "23505"
    assert ids(engine) == []


def test_an_error_is_raised_where_the_next_answer_is_read(engine: Engine) -> None:
    def fail(pipeline: Pipeline) -> None:
        pipeline.execute(_FAIL, {"none": 0})
        pipeline.execute(_ALL).all()
        raise AssertionError("the error was not raised")

    with pytest.raises(DBAPIError, match="division by zero"):
        run(engine, fail)


def test_the_server_ends_a_transaction_whose_client_stands_still(engine: Engine) -> None:
    """Once an answer is read the server counts for how long it waits for its client: rows are not kept locked for ever."""

    def stand_still(pipeline: Pipeline) -> None:
        add_all(pipeline, (1, "one"))
        pipeline.execute(text("SET LOCAL idle_in_transaction_session_timeout = 100"))
        session = pipeline.execute(text("SELECT pg_backend_pid()")).scalar_one()
        until(lambda: session not in sessions(engine), "the server ends the session")
        add_all(pipeline, (2, "two"))

    with pytest.raises(OperationalError):
        run(engine, stand_still)
    assert ids(engine) == []


def test_the_connection_goes_back_as_it_was(engine: Engine) -> None:
    for _ in range(3):
        with pytest.raises(DBAPIError), pipelined(engine) as pipeline:
            pipeline.execute(_FAIL, {"none": 0})
        with engine.begin() as connection:
            connection.execute(_ADD, {"id": 9, "word": "nine"})
            connection.rollback()
        with engine.connect() as connection:
            connection.execute(_ADD, {"id": 9, "word": "nine"})
        assert ids(engine) == []
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_a_connection_that_died_is_told_and_the_next_one_works(engine: Engine) -> None:
    mine = text("SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(OperationalError) as caught:
        run(engine, lambda pipeline: pipeline.execute(mine))
    assert caught.value.connection_invalidated
    assert ids(engine) == []


def test_whoever_listens_hears_each_statement_and_the_commit_before_it_is_sent(engine: Engine) -> None:
    heard: list[str] = []

    def statement(_connection: Any, _cursor: Any, said: str, *_: Any) -> None:
        heard.append(said.split()[0])

    def commit(_connection: Any) -> None:
        heard.append("commit")
        raise Superseded("killed here")

    event.listen(engine, "before_cursor_execute", statement)
    event.listen(engine, "commit", commit)
    with pytest.raises(Superseded), pipelined(engine) as pipeline:
        pipeline.execute(_ADD, {"id": 1, "word": "one"})
    assert heard == ["INSERT", "commit"]
    event.remove(engine, "commit", commit)
    assert ids(engine) == []
