"""The ledger: what counts against the day, by lane, and when it stops counting."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from cardsync.core.call_budget import WINDOW_SECONDS
from cardsync.store.calls import ledger
from tests.store.rows import beside, change, one

pytestmark = pytest.mark.usefixtures("still_clock")  # the minute does not turn within a test


def spend(engine: Engine, lane: str, calls: int, seconds_ago: float) -> None:
    change(
        engine,
        "INSERT INTO cardsync.call_minutes VALUES"
        " (date_trunc('minute', clock_timestamp() - make_interval(secs => :ago)), :lane, :calls)",
        ago=seconds_ago,
        lane=lane,
        calls=calls,
    )


def test_calls_of_one_minute_and_lane_share_a_row(engine: Engine) -> None:
    with engine.begin() as connection:
        for lane in ("hint", "hint", "read"):
            ledger.count(connection, lane)  # type: ignore[arg-type]
    with engine.connect() as connection:
        assert ledger.spent_by_lane(connection) == {"hint": 2, "read": 1}
        assert ledger.spent(connection) == 3
    assert one(engine, "SELECT count(*) FROM cardsync.call_minutes")[0] in (2, 3)  # the minute may have turned


def test_what_left_the_window_counts_no_more_and_what_is_in_the_clocks_future_does(engine: Engine) -> None:
    spend(engine, "hint", 5, WINDOW_SECONDS + 61)
    spend(engine, "read", 2, WINDOW_SECONDS - 120)
    spend(engine, "sweep", 1, -3_600)
    with engine.connect() as connection:
        assert ledger.spent_by_lane(connection) == {"read": 2, "sweep": 1}
        assert 0 < ledger.frees_in_seconds(connection) <= 120


def test_an_empty_ledger_frees_nothing_and_has_no_rate(engine: Engine) -> None:
    with engine.connect() as connection:
        assert (ledger.spent(connection), ledger.frees_in_seconds(connection), ledger.calls_per_second(connection)) == (
            0,
            0,
            0,
        )


def test_the_rate_is_that_of_this_minute_and_the_last(engine: Engine) -> None:
    spend(engine, "hint", 600, 30)  # of this minute or of the last one, also if the minute turns now
    spend(engine, "hint", 6_000, 180)
    with engine.connect() as connection:
        assert 600 / 120 <= ledger.calls_per_second(connection) <= 600 / 60


def test_rows_are_dropped_long_after_they_left_the_window(engine: Engine) -> None:
    day = 86_400
    spend(engine, "hint", 1, (ledger.KEEP_DAYS - 1) * day)
    spend(engine, "hint", 1, (ledger.KEEP_DAYS + 1) * day)
    with engine.begin() as connection:
        ledger.forget(connection)
    assert one(engine, "SELECT count(*) FROM cardsync.call_minutes")[0] == 1


def test_two_who_count_at_once_count_two(engine: Engine) -> None:
    """They meet at one row; the gate's row, which callers hold, is not needed for the count itself to be right."""
    with engine.begin() as connection:
        ledger.count(connection, "hint")
        with beside(engine, lambda other: ledger.count(other, "hint")) as second:
            connection.commit()
            second()
    with engine.connect() as connection:
        assert ledger.spent(connection) == 2
