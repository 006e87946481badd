"""A receipt of an erasure is read as it was written, and only if a key of ours sealed it."""

from __future__ import annotations

import datetime as dt
import json
import uuid

import pytest

from cardsync.core import erasure_receipt
from cardsync.core.erasure_receipt import Receipt
from cardsync.errors import MalformedBody

SECRET, OLDER = b"a secret of the tests, 32 bytes.", b"an older one of the tests, also."
MOMENT = dt.datetime(2026, 11, 25, 10, 20, 30, 123456, tzinfo=dt.UTC)
DONE = Receipt(
    erasure_id=uuid.UUID(int=7),
    customer_id="cust/1 é",
    requested_by="support",
    requested_at=MOMENT,
    finished_at=MOMENT + dt.timedelta(minutes=2),
)
OPEN = Receipt(
    erasure_id=uuid.UUID(int=8), customer_id="c", requested_by="api: x", requested_at=MOMENT, finished_at=None
)


@pytest.mark.parametrize("receipt", [DONE, OPEN])
def test_it_is_read_as_it_was_written_also_with_an_older_key(receipt: Receipt) -> None:
    line = erasure_receipt.line(receipt, OLDER)
    assert "\n" not in line
    assert erasure_receipt.read(line, [SECRET, OLDER]) == receipt
    assert erasure_receipt.read(line.encode() + b"\r\n", [OLDER]) == receipt


def test_the_same_moment_in_another_offset_is_the_same_receipt() -> None:
    kuwait = dt.timezone(dt.timedelta(hours=3))
    moved = Receipt(
        erasure_id=DONE.erasure_id,
        customer_id=DONE.customer_id,
        requested_by=DONE.requested_by,
        requested_at=DONE.requested_at.astimezone(kuwait),
        finished_at=MOMENT.astimezone(kuwait) + dt.timedelta(minutes=2),
    )
    assert erasure_receipt.line(moved, SECRET) == erasure_receipt.line(DONE, SECRET)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("customer_id", "somebody else"),
        ("finished_at", "2027-01-01T00:00:00+00:00"),
        ("erasure_id", str(uuid.UUID(int=9))),
        ("requested_by", "x"),
        ("requested_at", "2020-01-01T00:00:00+00:00"),
        ("seal", "0" * 64),
        ("seal", None),
        ("customer_id", None),
        ("finished_at", "2026-11-25T10:22:30"),
    ],
)
def test_a_receipt_that_somebody_changed_is_refused(name: str, value: object) -> None:
    changed = {**json.loads(erasure_receipt.line(DONE, SECRET)), name: value}
    with pytest.raises(MalformedBody):
        erasure_receipt.read(json.dumps(changed), [SECRET])


@pytest.mark.parametrize("line", ["", "null", "[]", "{}", "7", "{", b"\xff\xfe", "x" * 5_000, "[" * 4_000])
def test_what_is_no_receipt_is_refused(line: str | bytes) -> None:
    with pytest.raises(MalformedBody):
        erasure_receipt.read(line, [SECRET])


def test_a_receipt_of_another_deployment_is_refused() -> None:
    with pytest.raises(MalformedBody):
        erasure_receipt.read(erasure_receipt.line(DONE, OLDER), [SECRET])
