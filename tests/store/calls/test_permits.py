"""Permits: several calls are let through and bounded together, under one lock of the gate's row."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from cardsync.errors import BudgetSpent, CallsPaused
from cardsync.store.calls import gate, ledger
from cardsync.store.calls.permits import Permits

pytestmark = pytest.mark.usefixtures("still_clock")  # a busy machine may need longer than waits of two seconds


def test_an_open_gate_permits_what_the_budget_has_left_and_no_more(engine: Engine) -> None:
    with engine.begin() as connection:
        ledger.count(connection, "hint")
        permits = Permits(connection, daily_calls=10, call_seconds=15)
        assert permits.is_free
        assert permits.left("hint") == 7  # of ten, one is made and two are the deletions' reserve
        answers = [permits.ask("hint", who=who) for who in range(8)]
        assert answers[:7] == [None] * 7
        assert isinstance(answers[7], BudgetSpent)
        assert permits.ask("deletion", who=9) is None


def test_an_open_breaker_permits_one_probe_of_many(engine: Engine) -> None:
    with engine.begin() as connection:
        for who in (1, 2, 3):
            gate.heard(connection, "failed", who=who)
        closed = Permits(connection, daily_calls=1_000, call_seconds=15)
        assert not closed.is_free
        assert isinstance(closed.ask("hint", who=1), CallsPaused)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE cardsync.gate SET breaker_shut_until = clock_timestamp() - interval '1 s'")
        permits = Permits(connection, daily_calls=1_000, call_seconds=15)
        assert permits.ask("hint", who=7) is None
        assert isinstance(permits.ask("hint", who=8), CallsPaused)
        permits.save()
    with engine.begin() as connection:
        assert isinstance(Permits(connection, daily_calls=1_000, call_seconds=15).ask("hint", who=8), CallsPaused)


def test_while_the_pace_is_limited_one_call_is_permitted_and_the_next_waits(engine: Engine) -> None:
    with engine.begin() as connection:
        gate.heard(connection, "throttled", who=1, retry_after_seconds=0.0)
    with engine.begin() as connection:
        permits = Permits(connection, daily_calls=1_000, call_seconds=15)
        assert permits.ask("hint", who=1) is None
        assert isinstance(permits.ask("hint", who=2), CallsPaused)
