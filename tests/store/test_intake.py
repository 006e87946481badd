"""The way into the inbox: one statement for new, known, failed and equal bodies, also against others who insert the same."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from cardsync.core.events import body_hash, event_id
from cardsync.core.spool_format import WaitingRow
from cardsync.store import intake
from cardsync.store.intake import Stored, store_rows, try_out
from tests.waiting import WAIT_SECONDS, until

LOCKS_WAITED_FOR = (
    "SELECT count(*) AS waiting FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)


def ignored(name: str, **changes: Any) -> WaitingRow:
    row = WaitingRow(
        body_hash=body_hash(name.encode()),
        status="ignored",
        kind="unknown",
        ignored_because="unknown kind",
        scheme="standard",
        key_id="key",
    )
    return replace(row, **changes)


def rows(*names: str) -> list[WaitingRow]:
    return [ignored(name) for name in names]


def store(engine: Engine, given: list[WaitingRow]) -> list[Stored]:
    with engine.connect() as connection:
        return store_rows(connection, given)


def execute(engine: Engine, statement: str, **parameters: Any) -> list[Any]:
    with engine.begin() as connection:
        result = connection.execute(text(statement), parameters)
        return list(result) if result.returns_rows else []


def make_failed(engine: Engine, name: str) -> None:
    execute(
        engine,
        """UPDATE cardsync.events SET status = 'failed', ignored_because = NULL, environment = 'sandbox', customer_id = 'c',
           facts = '{}', attempts = 10 WHERE body_hash = :body""",
        body=body_hash(name.encode()),
    )


@pytest.fixture
def statements(ingest_engine: Engine) -> Iterator[list[str]]:
    sent: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    event.listen(ingest_engine, "before_cursor_execute", note)
    yield sent
    event.remove(ingest_engine, "before_cursor_execute", note)


def test_new_known_failed_and_equal_bodies_are_one_round_trip(
    ingest_engine: Engine, engine: Engine, statements: list[str]
) -> None:
    store(ingest_engine, rows("known", "failed"))
    make_failed(engine, "failed")
    statements.clear()
    found = store(ingest_engine, rows("new", "known", "failed", "new", "another", "known"))
    assert len(statements) == 1
    assert [(one.status, one.fresh) for one in found] == [
        ("ignored", True),
        ("ignored", False),
        ("pending", False),
        ("ignored", False),
        ("ignored", True),
        ("ignored", False),
    ]
    assert found[0].event_id == found[3].event_id == event_id(body_hash(b"new"))
    assert execute(engine, "SELECT attempts FROM cardsync.events WHERE status = 'pending'") == [(0,)]
    assert len(execute(engine, "SELECT 1 FROM cardsync.events")) == 4


def test_no_rows_are_no_round_trip(ingest_engine: Engine, statements: list[str]) -> None:
    assert store(ingest_engine, []) == []
    assert statements == []


def test_a_row_of_an_earlier_release_keeps_its_own_id(ingest_engine: Engine, engine: Engine) -> None:
    store(ingest_engine, rows("old"))
    (old,) = execute(engine, "UPDATE cardsync.events SET event_id = gen_random_uuid() RETURNING event_id")
    assert [one.event_id for one in store(ingest_engine, rows("old", "old"))] == [old.event_id] * 2


def test_evidence_numbers_follow_the_order_of_arrival_and_not_that_of_the_hashes(
    ingest_engine: Engine, engine: Engine
) -> None:
    names = [f"body {n}" for n in range(50)]
    assert names != sorted(names, key=lambda name: body_hash(name.encode()))
    store(ingest_engine, rows(*names))
    numbered = execute(engine, "SELECT body_hash FROM cardsync.events ORDER BY received_at, evidence_no")
    assert [bytes(row.body_hash) for row in numbered] == [body_hash(name.encode()) for name in names]


def test_rows_that_the_database_dates_have_one_time_and_others_their_own_but_never_a_later_one(
    ingest_engine: Engine, engine: Engine
) -> None:
    now = execute(engine, "SELECT clock_timestamp() AS now")[0].now
    hour = dt.timedelta(hours=1)
    given = [*rows("a", "b"), ignored("earlier", received_at=now - hour), ignored("later", received_at=now + hour)]
    store(ingest_engine, given)
    found = execute(engine, "SELECT received_at FROM cardsync.events ORDER BY evidence_no")
    a, b, earlier, later = (row.received_at for row in found)
    assert a == b == later
    assert now <= a <= execute(engine, "SELECT clock_timestamp() AS now")[0].now
    assert earlier == now - hour


def test_one_row_that_the_database_refuses_leaves_none_of_its_batch(ingest_engine: Engine, engine: Engine) -> None:
    with pytest.raises(DBAPIError):
        store(ingest_engine, [*rows("good"), ignored("bad", kind="of tomorrow")])
    assert execute(engine, "SELECT 1 FROM cardsync.events") == []


# Two connections.


@pytest.fixture
def other(engine: Engine) -> Iterator[Connection]:
    """A second connection with an open transaction."""
    with engine.connect() as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def meanwhile(ingest_engine: Engine) -> Iterator[Callable[[list[WaitingRow]], Future[list[Stored]]]]:
    """Store on another thread."""
    with ThreadPoolExecutor(1) as thread:
        yield lambda given: thread.submit(store, ingest_engine, given)


def _until_it_waits(engine: Engine) -> None:
    """In a transaction for each look: within one, PostgreSQL shows the same sessions again."""
    until(lambda: execute(engine, LOCKS_WAITED_FOR)[0].waiting == 1, "the statement waits")


def test_a_body_that_another_transaction_inserts_meanwhile_is_found(
    engine: Engine, other: Connection, meanwhile: Any, statements: list[str]
) -> None:
    """The statement's snapshot does not see the row that it waited for: only that body is asked for once more."""
    store_rows(other, rows("theirs"))
    found = meanwhile(rows("mine", "theirs"))
    _until_it_waits(engine)
    other.commit()
    assert [one.fresh for one in found.result(WAIT_SECONDS)] == [True, False]
    assert len(statements) == 2
    assert len(execute(engine, "SELECT 1 FROM cardsync.events")) == 2


def test_a_body_whose_other_transaction_fails_is_inserted(
    engine: Engine, other: Connection, meanwhile: Any, statements: list[str]
) -> None:
    store_rows(other, rows("theirs"))
    found = meanwhile(rows("theirs"))
    _until_it_waits(engine)
    other.rollback()
    assert [one.fresh for one in found.result(WAIT_SECONDS)] == [True]
    assert len(statements) == 1


def test_a_failed_row_that_another_transaction_holds_is_not_waited_for(
    ingest_engine: Engine, engine: Engine, other: Connection
) -> None:
    store(ingest_engine, rows("failed"))
    make_failed(engine, "failed")
    other.execute(text("SELECT 1 FROM cardsync.events FOR UPDATE"))
    assert [one.status for one in store(ingest_engine, rows("failed", "new"))] == ["failed", "ignored"]


def test_two_that_store_the_same_bodies_in_opposite_orders_never_deadlock(
    ingest_engine: Engine, engine: Engine
) -> None:
    both = threading.Barrier(2)

    def race(backwards: bool) -> int:
        fresh = 0
        for n in range(30):
            given = rows(*(f"{n} {k}" for k in range(40)))
            both.wait(WAIT_SECONDS)
            fresh += sum(one.fresh for one in store(ingest_engine, given[::-1] if backwards else given))
        return fresh

    with ThreadPoolExecutor(2) as racers:
        assert sum(racers.map(race, (False, True))) == 30 * 40
    assert len(execute(engine, "SELECT 1 FROM cardsync.events")) == 30 * 40


def test_a_body_that_is_never_found_is_told_and_not_asked_for_without_end(
    ingest_engine: Engine, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_STORE", text("SELECT NULL::bytea AS body_hash WHERE cast(:rows AS text) IS NULL"))
    with pytest.raises(IntegrityError):
        store(ingest_engine, rows("lost"))
    assert len(statements) == intake.TRIES


def test_trying_out_leaves_nothing(web_engine: Engine, engine: Engine) -> None:
    with web_engine.connect() as connection:
        try_out(connection)
        connection.commit()
    assert execute(engine, "SELECT 1 FROM cardsync.events") == []
