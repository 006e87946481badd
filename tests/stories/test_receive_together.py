"""Several notifications in one statement: each is what it would have been alone."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

from cardsync.stories.receive import examine, store
from tests import payloads
from tests.stories.shop import KEYS, Shop


def signed(number: int) -> bytes:
    return payloads.signed(payloads.payment("cust-1", "9999000000000001", session_id=f"{number:040x}"))


def test_new_ones_known_ones_and_ones_of_no_interest_in_one_statement(shop: Shop) -> None:
    bodies = [signed(1), payloads.signed(payloads.operation()), signed(2), signed(1)]
    known = store(shop.ingest, [examine(bodies[2], KEYS)])[0]
    receipts = store(shop.ingest, [examine(body, KEYS) for body in bodies])
    assert [r.status for r in receipts] == ["accepted", "ignored", "duplicate", "duplicate"]
    assert receipts[2].event_id == known.event_id
    assert receipts[3].event_id == receipts[0].event_id
    assert len(shop.execute("SELECT 1 FROM cardsync.events")) == 3


def test_a_failed_one_among_others_is_opened_again(shop: Shop) -> None:
    store(shop.ingest, [examine(signed(1), KEYS)])
    shop.execute("UPDATE cardsync.events SET status = 'failed', attempts = 10")
    receipts = store(shop.ingest, [examine(signed(number), KEYS) for number in (1, 2)])
    assert [(r.status, r.to_ring) for r in receipts] == [("duplicate", True), ("accepted", True)]
    assert {r.status for r in shop.execute("SELECT status FROM cardsync.events")} == {"pending"}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """All statements that the driver sends on this thread; each commits by itself, and is a round trip."""
    found: list[object] = []
    here = threading.get_ident()  # a thread that a test before left behind may have a database, too
    execute = psycopg.Cursor.execute

    def note(self: psycopg.Cursor[Any], query: Any, *arguments: Any, **more: Any) -> psycopg.Cursor[Any]:
        if threading.get_ident() == here:
            found.append(query)
        return execute(self, query, *arguments, **more)

    monkeypatch.setattr(psycopg.Cursor, "execute", note)
    return found


@pytest.mark.parametrize(
    ("known", "new", "round_trips"), [(1, 0, 2), (1, 1, 2), (0, 1, 1), (0, 9, 1), (9, 9, 2)], ids=str
)
def test_new_bodies_are_one_round_trip_and_known_ones_cost_the_batch_one_more_and_not_each(
    shop: Shop, sent: list[object], known: int, new: int, round_trips: int
) -> None:
    bodies = [signed(number) for number in range(known + new)]
    store(shop.ingest, [examine(body, KEYS) for body in [*bodies[:known], signed(99)]])  # it opens the connection too
    sent.clear()
    receipts = store(shop.ingest, [examine(body, KEYS) for body in bodies])
    assert [r.status for r in receipts] == ["duplicate"] * known + ["accepted"] * new
    assert len(sent) == round_trips
