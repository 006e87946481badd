"""Rows as one parameter: what a statement reads of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, text

from cardsync.core.events import body_hash
from cardsync.core.spool_format import WaitingRow
from cardsync.store.given_rows import GIVEN, as_parameter

ROW = WaitingRow(
    body_hash=body_hash(b"one"),
    status="ignored",
    kind="payment",
    ignored_because="no card",
    scheme="standard",
    key_id="key",
    environment="sandbox",
    customer_id="cust-1",
    session_id="s" * 40,
)


def given(engine: Engine, *rows: WaitingRow) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(text(f"{GIVEN} ORDER BY place"), {"rows": as_parameter(rows)}))


def test_rows_come_back_in_their_order_with_the_ids_of_their_bodies(engine: Engine) -> None:
    rows = [
        replace(ROW, body_hash=body_hash(str(n).encode()), reference_number=f"é {n}", order_no=f"o {n}")
        for n in range(20)
    ]
    found = given(engine, *rows)
    assert [bytes(row.hash) for row in found] == [row.body_hash for row in rows]
    assert [row.event_id for row in found] == [row.event_id for row in rows]
    assert [row.reference_number for row in found] == [row.reference_number for row in rows]
    assert [row.order_no for row in found] == [row.order_no for row in rows]


def test_one_payment_is_known_again_in_another_body_and_no_other_one_is(engine: Engine) -> None:
    others = [
        replace(ROW, environment="production"),
        replace(ROW, customer_id="cust-2"),
        replace(ROW, session_id="t" * 40),
    ]
    first, again, *different = (row.payment for row in given(engine, ROW, replace(ROW, status="pending"), *others))
    assert first == again
    assert len({bytes(payment) for payment in (first, *different)}) == 4


@pytest.mark.parametrize("part", ["environment", "customer_id", "session_id"])
def test_a_body_that_lacks_a_part_of_its_payment_is_of_none(engine: Engine, part: str) -> None:
    assert given(engine, replace(ROW, **{part: None}))[0].payment is None
