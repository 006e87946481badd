"""A notification that waits outside the database comes back as the row that it was, or is told to be none."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from cardsync.core.events import body_hash, event_id
from cardsync.core.waiting import read_waiting, write_waiting
from cardsync.errors import MalformedBody

NOW = dt.datetime(2026, 11, 24, 10, 0, tzinfo=dt.UTC)
HASH = body_hash(b"a body")
ROW = {"event_id": str(event_id(HASH)), "body_hash": HASH.hex(), "customer_id": "مرحبا 💳", "facts": {"agreements": []}}


def test_a_row_comes_back_as_it_was_with_the_time_of_its_arrival() -> None:
    assert read_waiting(write_waiting(ROW, NOW)) == {**ROW, "received_at": "2026-11-24T10:00:00+00:00"}


def test_the_id_is_a_uuid_of_version_8_that_follows_from_the_body() -> None:
    made = event_id(HASH)
    assert (made.version, made.variant) == (8, "specified in RFC 4122")
    assert made == event_id(body_hash(b"a body")) != event_id(body_hash(b"another"))
    assert made.hex[:12] == HASH.hex()[:12]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"[" * 100_000,
        json.dumps({"version": 2, "received_at": NOW.isoformat(), "row": ROW}).encode(),
        json.dumps({"version": 1, "received_at": "yesterday", "row": ROW}).encode(),
        json.dumps({"version": 1, "received_at": 7, "row": ROW}).encode(),
        json.dumps({"version": 1, "received_at": NOW.isoformat(), "row": None}).encode(),
        json.dumps({"version": 1, "received_at": NOW.isoformat(), "row": {**ROW, "body_hash": "00" * 31}}).encode(),
        json.dumps(
            {"version": 1, "received_at": NOW.isoformat(), "row": {**ROW, "event_id": str(event_id(b"1" * 32))}}
        ).encode(),
        write_waiting(ROW, NOW)[:-10],
    ],
    ids=lambda content: repr(content[:24]),
)
def test_what_is_not_whole_is_told(content: bytes) -> None:
    with pytest.raises(MalformedBody):
        read_waiting(content)
