"""A batch of the ring: the text of the insert comes back as the rows that it was made of."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from cardsync.core.events import body_hash
from cardsync.core.kept_batches import read_batch, write_batch
from cardsync.core.kept_bodies import KeptBody
from cardsync.core.spool_format import WaitingRow
from cardsync.errors import MalformedBody
from cardsync.store.given_rows import as_parameter

NOW = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)


def row(name: str, **more: object) -> WaitingRow:
    facts = {"customer_id": f"customer of {name}\n\u2028", "environment": "sandbox", **more}
    return WaitingRow(
        body_hash=body_hash(name.encode()), status="pending", kind="payment", scheme="standard", key_id="key", **facts
    )  # type: ignore[arg-type]


def test_the_rows_come_back_dated() -> None:
    rows = [row("one", signature_hash=b"s" * 32), row("two", vouched=True)]
    line = write_batch(as_parameter(rows), [None, None], received_at=NOW)
    assert line.count(b"\n") == 1
    assert read_batch(line) == [replace(one, received_at=NOW) for one in rows]


def test_a_row_that_has_a_date_keeps_it() -> None:
    earlier = row("one", received_at=NOW - dt.timedelta(minutes=7))
    line = write_batch(as_parameter([earlier, row("two")]), [None, None], received_at=NOW)
    assert read_batch(line) == [earlier, row("two", received_at=NOW)]


def test_a_body_that_is_passed_on_comes_back_with_its_row() -> None:
    rows = [row("one"), row("two", kept=KeptBody("application/json", "encrypted"))]
    line = write_batch(as_parameter(rows), [one.kept for one in rows], received_at=NOW)
    assert read_batch(line) == [replace(one, received_at=NOW) for one in rows]


@pytest.mark.parametrize("damage", [lambda line: line[:-20], lambda line: line.replace(b"one", b"two"), lambda _: b""])
def test_a_damaged_batch_is_none(damage: object) -> None:
    line = write_batch(as_parameter([row("one")]), [None], received_at=NOW)
    with pytest.raises(MalformedBody):
        read_batch(damage(line))  # type: ignore[operator]
