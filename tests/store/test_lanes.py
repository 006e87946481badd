"""A customer due for two reasons is due for the more urgent one, whichever came first and whoever brought it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import Connection, Engine, text

from cardsync.core.allowance import LANES, Lane
from cardsync.store import customers, operator, walks

Bring = Callable[[Connection, int, Lane], None]


def mark(connection: Connection, customer: int, lane: Lane) -> None:
    customers.mark_dirty(connection, customer, evidence_no=None, lane=lane)


def hurry(connection: Connection, customer: int, lane: Lane) -> None:
    operator.hurry(connection, customer, lane=lane)


def lane_after(engine: Engine, bring: Bring, waiting: Lane | None, coming: Lane, *, failures: int = 0) -> str | None:
    with engine.connect() as connection:  # nothing is committed
        customer = customers.touch(connection, "sandbox", "cust-1").customer
        connection.execute(
            text(
                "UPDATE cardsync.customers SET lane = :lane, failures = :failures,"
                " due_at = CASE WHEN cast(:lane AS text) IS NOT NULL THEN clock_timestamp() END"
            ),
            {"lane": waiting, "failures": failures},
        )
        bring(connection, customer, coming)
        found: str | None = connection.execute(text("SELECT lane FROM cardsync.customers")).scalar_one()
        return found


@pytest.mark.parametrize("bring", [mark, hurry])
def test_the_more_urgent_lane_stays(engine: Engine, bring: Bring) -> None:
    for urgent, first in enumerate(LANES):
        for second in LANES[urgent:]:
            assert lane_after(engine, bring, first, second) == first
            assert lane_after(engine, bring, second, first) == first


@pytest.mark.parametrize("lane", LANES)
def test_who_was_not_due_is_due_for_what_comes(engine: Engine, lane: Lane) -> None:
    assert lane_after(engine, mark, None, lane) == lane


def test_evidence_of_a_customer_for_whom_ottu_fails_is_a_retry_unless_it_is_a_deletions(engine: Engine) -> None:
    assert lane_after(engine, mark, "sweep", "hint", failures=1) == "retry"
    assert lane_after(engine, mark, "retry", "hint", failures=1) == "retry"
    assert lane_after(engine, mark, "retry", "deletion", failures=1) == "deletion"
    assert lane_after(engine, mark, "deletion", "hint", failures=1) == "deletion"


def test_a_walk_puts_nobody_behind_the_sweeps_who_is_due_for_a_better_reason(engine: Engine) -> None:
    def walk(connection: Connection, customer: int, _: Lane) -> None:
        on, _begun = walks.begin(connection, by="cli:test", restart=False)
        assert walks.make_due(connection, on, customer)

    better = LANES[: LANES.index("sweep")]
    assert [lane_after(engine, walk, lane, "sweep") for lane in better] == list(better)
    assert [lane_after(engine, walk, lane, "sweep") for lane in (None, *LANES[LANES.index("sweep") :])] == ["sweep"] * (
        len(LANES) - len(better) + 1
    )
