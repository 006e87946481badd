"""Whose erasure is done: the newest one of each person, from a moment on, and bounded."""

from __future__ import annotations

import datetime as dt

import pytest
from sqlalchemy import Engine

from cardsync.store.deletions import erased
from tests.store.rows import change

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)


def hours(count: float) -> dt.datetime:
    return NOW - dt.timedelta(hours=count)


def erase(engine: Engine, customer_id: str, *, requested: float, finished: float | None) -> None:
    """An erasure that was asked for and done that number of hours ago; ``None`` is one that is under way."""
    change(
        engine,
        """INSERT INTO cardsync.erasures (customer_id, status, requested_by, requested_at, finished_at, due_at)
           VALUES (:who, :status, 'support', :requested, :finished, :due)""",
        who=customer_id,
        status="pending" if finished is None else "done",
        requested=hours(requested),
        finished=None if finished is None else hours(finished),
        due=hours(0) if finished is None else None,
    )


def done_since(engine: Engine, since: float) -> dict[str, erased.Erased]:
    with engine.connect() as connection:
        return dict(erased.done_since(connection, hours(since)))


def test_only_what_is_done_and_done_since_then_is_told(engine: Engine) -> None:
    erase(engine, "before", requested=50, finished=49)
    erase(engine, "since", requested=50, finished=10)
    erase(engine, "at that moment", requested=30, finished=24)
    erase(engine, "under way", requested=2, finished=None)
    assert set(done_since(engine, 24)) == {"since", "at that moment"}


def test_of_several_erasures_of_one_person_the_newest_counts(engine: Engine) -> None:
    erase(engine, "twice", requested=20, finished=19)
    erase(engine, "twice", requested=5, finished=4)
    erase(engine, "twice", requested=1, finished=None)  # and one that is not done yet
    assert done_since(engine, 24) == {"twice": erased.Erased(hours(5), hours(4))}


def test_of_too_many_the_newest_are_told(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erased, "AT_MOST", 2)
    for age in (3, 1, 2):
        erase(engine, f"{age} hours ago", requested=age + 1, finished=age)
    assert set(done_since(engine, 24)) == {"1 hours ago", "2 hours ago"}


def test_one_that_is_being_finished_is_told_once_it_is_committed(engine: Engine) -> None:
    erase(engine, "person", requested=3, finished=None)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE cardsync.erasures SET status = 'done', due_at = NULL, finished_at = clock_timestamp()"
        )
        assert done_since(engine, 24) == {}
    assert set(done_since(engine, 24)) == {"person"}
