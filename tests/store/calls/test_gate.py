"""The gate's row: one process at a time passes it, a word is kept only if it says something new, and all opens by itself."""

from __future__ import annotations

import math

import pytest
from sqlalchemy import Connection, Engine

from cardsync.core.call_budget import LANES, Lane
from cardsync.core.circuit_breaker import Word
from cardsync.errors import CallsPaused
from cardsync.store.calls import gate
from tests.store.rows import beside, change, one, wait_until_blocked

pytestmark = pytest.mark.usefixtures("still_clock")  # a busy machine may need longer than waits of two seconds


def hear(engine: Engine, word: Word | None, who: int = 1, **given: float) -> None:
    with engine.begin() as connection:
        gate.heard(connection, word, who=who, **given)


def let_through(connection: Connection, lane: Lane, *, who: int, may_probe: bool = True) -> None:
    passing = gate.lock(connection)()
    refused = passing.refusal(lane, who, may_probe=may_probe)
    if refused is not None:
        raise refused
    gate.save(connection, passing.after_a_call(who, call_seconds=15))


def may_call(engine: Engine, lane: Lane = "hint", who: int = 1, *, may_probe: bool = True) -> bool:
    try:
        with engine.begin() as connection:
            let_through(connection, lane, who=who, may_probe=may_probe)
    except CallsPaused:
        return False
    return True


def state(engine: Engine) -> gate.GateState:
    with engine.connect() as connection:
        return gate.state(connection)


def later(engine: Engine, seconds: float) -> None:
    """Let time pass: shift every moment of the row back."""
    moments = (
        "paused_until",
        "pace_since",
        "pace_next_at",
        "breaker_opened_at",
        "breaker_shut_until",
        "breaker_failed_at",
    )
    shifted = ", ".join(f"{m} = {m} - make_interval(secs => :seconds)" for m in moments)
    change(engine, f"UPDATE cardsync.gate SET {shifted}", seconds=seconds)


def go_down(engine: Engine) -> None:
    for who in (1, 2, 3):
        hear(engine, "failed", who)


def test_an_open_gate_lets_every_lane_through_and_writes_nothing(engine: Engine) -> None:
    before = one(engine, "SELECT xmin::text FROM cardsync.gate")
    assert may_call(engine)
    assert may_call(engine, "sweep")
    assert one(engine, "SELECT xmin::text FROM cardsync.gate") == before
    assert (state(engine).reason, state(engine).calls_per_second) == (None, None)


def test_a_call_waits_for_the_one_that_is_being_counted(engine: Engine) -> None:
    with engine.begin() as connection:
        let_through(connection, "hint", who=1)
        with beside(engine, lambda c: let_through(c, "hint", who=2)) as second:
            wait_until_blocked(engine)
            connection.commit()
            second()


def test_a_success_takes_no_lock_while_no_failure_is_remembered(engine: Engine) -> None:
    with engine.begin() as holder:
        let_through(holder, "hint", who=1)
        hear(engine, "answered")
        hear(engine, "rejected")
        hear(engine, None)


@pytest.mark.parametrize("given", [{}, {"retry_after_seconds": 60.0}])
def test_a_429_pauses_for_as_long_as_ottu_asked(engine: Engine, given: dict[str, float]) -> None:
    hear(engine, "throttled", **given)
    seconds = given.get("retry_after_seconds", gate.THROTTLED_PAUSE_SECONDS)
    assert (state(engine).reason, may_call(engine, "deletion")) == ("throttled", False)
    later(engine, seconds)
    assert state(engine).reason is None
    assert may_call(engine)
    assert not may_call(engine)  # the pace is limited


@pytest.mark.parametrize("seconds", [-5.0, 1e9])
def test_no_answer_of_ottus_pauses_for_less_than_nothing_or_for_ever(engine: Engine, seconds: float) -> None:
    hear(engine, "throttled", retry_after_seconds=seconds)
    until = state(engine).paused_until
    if seconds < 0:
        assert until is None
    else:
        left = one(engine, "SELECT extract(epoch FROM paused_until - clock_timestamp())::float8 FROM cardsync.gate")[0]
        assert left <= gate.LONGEST_PAUSE_SECONDS


def test_three_customers_in_a_row_open_the_breaker_and_one_does_not(engine: Engine) -> None:
    for _ in range(5):
        hear(engine, "failed", 1)
    assert state(engine).reason is None
    go_down(engine)
    assert (state(engine).reason, may_call(engine, who=9)) == ("down", False)


def test_an_open_breaker_lets_one_probe_through_and_its_success_opens_the_gate(engine: Engine) -> None:
    go_down(engine)
    later(engine, 3)
    assert may_call(engine, who=7)
    assert not may_call(engine, who=8)
    assert may_call(engine, who=7)  # its next page
    hear(engine, "answered", 7)
    assert may_call(engine, who=8)


def test_a_call_that_may_not_probe_waits_for_one_that_may(engine: Engine) -> None:
    go_down(engine)
    later(engine, 30)
    assert not may_call(engine, "deletion", may_probe=False)
    with engine.connect() as connection:
        assert gate.waits_for_a_probe(connection)
    assert may_call(engine)


def test_routine_calls_are_none_while_paused_one_as_a_probe_and_any_number_otherwise(engine: Engine) -> None:
    def at_once() -> float:
        with engine.connect() as connection:
            return gate.routine_calls_at_once(connection)

    assert at_once() == math.inf
    go_down(engine)
    assert at_once() == 0
    later(engine, 30)
    assert at_once() == 1


def operator_pauses(engine: Engine, by: str | None = "Amal") -> None:
    change(
        engine,
        "UPDATE cardsync.gate SET operator_paused_by = cast(:by AS text),"
        " operator_paused_at = CASE WHEN cast(:by AS text) IS NOT NULL THEN clock_timestamp() END",
        by=by,
    )


def test_an_operator_s_pause_stops_every_lane_and_ends_by_an_operator_s_word_alone(engine: Engine) -> None:
    operator_pauses(engine)
    assert not any(may_call(engine, lane) for lane in LANES)
    later(engine, 365 * 86_400)
    hear(engine, "answered")
    assert not may_call(engine, "deletion")
    seen = state(engine)
    assert seen.operator_pause is not None
    assert (seen.reason, seen.paused_until, seen.operator_pause.by) == ("operator", None, "Amal")
    with engine.connect() as connection:
        assert gate.routine_calls_at_once(connection) == 0
        assert gate.seconds_to_wait(connection, "deletion") == gate.OPERATOR_WAIT_SECONDS
    operator_pauses(engine, by=None)
    assert all(may_call(engine, lane) for lane in LANES)
    assert (state(engine).reason, state(engine).operator_pause) == (None, None)


def test_what_calls_under_way_say_during_an_operator_s_pause_is_heard_and_does_not_end_it(engine: Engine) -> None:
    operator_pauses(engine)
    go_down(engine)
    later(engine, 30)
    assert not may_call(engine)  # not even as the breaker's probe
    assert (state(engine).reason, state(engine).breaker) == ("operator", "down")
    hear(engine, "answered", 7)
    hear(engine, "throttled", 7, retry_after_seconds=60)
    assert state(engine).reason == "operator"
    operator_pauses(engine, by=None)
    assert state(engine).reason == "throttled"
