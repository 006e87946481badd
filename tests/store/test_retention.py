"""Retention: each kind of row goes by its own rule, in bounded batches, the oldest first, and beside other runs."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from sqlalchemy import Engine, text

from cardsync.store import retention
from cardsync.store.retention import What
from tests.factories import CustomerFactory, EventFactory
from tests.store.rows import change, one


def ago(days: float) -> dt.datetime:
    return dt.datetime.now(dt.UTC) - dt.timedelta(days=days)


def forget(engine: Engine, what: What, *, older_days: int = 30, limit: int = 100) -> int:
    with engine.begin() as connection:
        return retention.forget(connection, what, older_days=older_days, limit=limit)


def hint(days: float, **given: Any) -> Any:
    return EventFactory(received_at=ago(days), **(given or {"settled": True})).event_id


def test_content_goes_and_the_hashes_stay(engine: Engine) -> None:
    hint(
        31, settled=True, session_id="s", reference_number="r", order_no="o", result="success", signature_hash=bytes(32)
    )
    hint(29)
    assert forget(engine, "content") == 1
    row = one(
        engine,
        "SELECT customer_id, session_id, reference_number, order_no, result FROM cardsync.events WHERE shed_at IS NOT NULL",
    )
    assert row == (None, None, None, None, None)
    kept = one(engine, "SELECT body_hash, signature_hash, key_id FROM cardsync.events WHERE shed_at IS NOT NULL")
    assert None not in kept
    assert forget(engine, "content") == 0


@pytest.mark.parametrize("what", ["content", "hint", "given_up"])
def test_a_pending_hint_never_goes_by_age(engine: Engine, what: What) -> None:
    hint(4_000, settled=False)
    assert forget(engine, what) == 0


def test_a_failed_hint_is_given_up_and_loses_its_token(engine: Engine) -> None:
    hint(31, status="failed")
    assert forget(engine, "given_up") == 1
    assert one(engine, "SELECT status, ignored_because, token, customer_id FROM cardsync.events") == (
        "ignored",
        "given_up",
        None,
        None,
    )
    assert forget(engine, "hint") == 1


def test_a_list_that_removed_a_card_is_kept_for_good(engine: Engine) -> None:
    customer = CustomerFactory().id
    for number, (days, removed) in enumerate([(100, 0), (100, 1), (1, 0)], start=1):
        change(
            engine,
            "INSERT INTO cardsync.observations (observation_no, customer, lane, asked_at, outcome, removed)"
            " VALUES (:number, :customer, 'hint', :at, 'changed', :removed)",
            number=number,
            customer=customer,
            at=ago(days),
            removed=removed,
        )
    assert forget(engine, "observation") == 1
    assert one(engine, "SELECT array_agg(observation_no ORDER BY 1) FROM cardsync.observations")[0] == [2, 3]


def test_old_audits_and_signatures_go(engine: Engine) -> None:
    change(
        engine, "INSERT INTO cardsync.audits (customer, drawn_at) VALUES (:c, :at)", c=CustomerFactory().id, at=ago(31)
    )
    statement = (
        "INSERT INTO cardsync.repeated_signatures (signature_hash, counted_since, strangers) VALUES (:hash, :at, 1)"
    )
    change(engine, statement, hash=bytes(32), at=ago(31))
    change(engine, statement, hash=bytes(31) + b"1", at=ago(1))
    assert (forget(engine, "audit"), forget(engine, "strangers")) == (1, 1)
    assert one(engine, "SELECT count(*) FROM cardsync.repeated_signatures")[0] == 1


def test_a_batch_is_bounded_and_takes_the_oldest(engine: Engine) -> None:
    newer = hint(40)
    hint(60)
    hint(50)
    assert forget(engine, "hint", limit=2) == 2
    assert one(engine, "SELECT event_id FROM cardsync.events")[0] == newer


def test_two_runs_at_once_take_different_rows(engine: Engine) -> None:
    for _ in range(4):
        hint(40)
    with engine.begin() as first, engine.begin() as second:
        assert retention.forget(first, "content", older_days=30, limit=3) == 3
        assert retention.forget(second, "content", older_days=30, limit=3) == 1


def test_a_batch_has_a_statement_time_out_of_its_own(engine: Engine) -> None:
    with engine.begin() as connection:
        retention.forget(connection, "hint", older_days=30)
        assert connection.execute(text("SHOW statement_timeout")).scalar_one() == "2s"


def test_ages_show_whether_forgetting_keeps_up(engine: Engine) -> None:
    day = 86_400
    with engine.connect() as connection:
        assert retention.ages(connection) == retention.Ages(0.0, 0.0)
    hint(5)
    hint(9, settled=False)
    with engine.connect() as connection:
        found = retention.ages(connection)
    assert found.row_seconds == pytest.approx(9 * day, abs=60)
    assert found.content_seconds == pytest.approx(5 * day, abs=60)


def test_a_gateway_is_forgotten_by_its_last_reader_also_while_it_is_due(engine: Engine) -> None:
    customer = CustomerFactory().id
    for pg_code, days in (("old", 2), ("older", 3), ("young", 0.5)):
        change(
            engine,
            "INSERT INTO cardsync.gateway_asks (customer, pg_code, wanted_at, due_at) VALUES (:id, :code, :at, now())",
            id=customer,
            code=pg_code,
            at=ago(days),
        )
    assert [forget(engine, "gateway", older_days=1, limit=1) for _ in range(3)] == [1, 1, 0]
    assert one(engine, "SELECT pg_code FROM cardsync.gateway_asks").pg_code == "young"
