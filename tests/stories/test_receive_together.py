"""Several notifications in one statement: each is what it would have been alone."""

from __future__ import annotations

from cardsync.receive import examine, write
from tests import payloads
from tests.stories.worlds import KEYS, Shop


def signed(number: int) -> bytes:
    return payloads.signed(payloads.payment("cust-1", "9999000000000001", session_id=f"{number:040x}"))


def test_new_ones_known_ones_and_ones_of_no_interest_in_one_statement(shop: Shop) -> None:
    bodies = [signed(1), payloads.signed(payloads.operation()), signed(2), signed(1)]
    known = write(shop.ingest, [examine(bodies[2], KEYS)])[0]
    receipts = write(shop.ingest, [examine(body, KEYS) for body in bodies])
    assert [r.status for r in receipts] == ["accepted", "ignored", "duplicate", "duplicate"]
    assert receipts[2].event_id == known.event_id
    assert receipts[3].event_id == receipts[0].event_id
    assert len(shop.execute("SELECT 1 FROM cardsync.events")) == 3


def test_a_failed_one_among_others_is_opened_again(shop: Shop) -> None:
    write(shop.ingest, [examine(signed(1), KEYS)])
    shop.execute("UPDATE cardsync.events SET status = 'failed', attempts = 10")
    receipts = write(shop.ingest, [examine(signed(number), KEYS) for number in (1, 2)])
    assert [(r.status, r.to_ring) for r in receipts] == [("duplicate", True), ("accepted", True)]
    assert {r.status for r in shop.execute("SELECT status FROM cardsync.events")} == {"pending"}
