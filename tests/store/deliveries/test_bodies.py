"""What is kept of a notification to be passed on: whole, encrypted, once, before the answer; and nothing where none gets it."""

from __future__ import annotations

import datetime as dt
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from cardsync.ciphers import KeyRing, opened_body
from cardsync.core.events import body_hash, event_id
from cardsync.errors import Conflict, MalformedBody
from cardsync.spool import Spool
from cardsync.store import retention
from cardsync.store.deliveries import bodies, endpoints
from cardsync.store.deliveries.bodies import BODIES_A_SIGNATURE
from cardsync.stories import endpoints as story
from cardsync.stories import rotate
from cardsync.stories.drain import drain
from cardsync.stories.endpoints import NewEndpoint
from cardsync.stories.receive import Authentic, examine, store, write_to_spool
from tests import payloads
from tests.factories import RING
from tests.stories.shop import KEYS, Shop

NOW = dt.datetime(2026, 11, 24, 10, 0, tzinfo=dt.UTC)


def add(worker: Engine, name: str = "orders") -> None:
    story.add(worker, NewEndpoint(name, "https://orders.example.test/hook", "notifications"), RING)


def came(body: bytes, *, keep_body: bool = True) -> Authentic:
    return examine(body, KEYS, content_type="application/json; charset=utf-8", keep_body=keep_body)


def body_of(number: int, **overrides: Any) -> bytes:
    return payloads.signed(payloads.payment(f"cust-{number}", order_no=f"order-{number}", **overrides))


def kept(shop: Shop) -> list[Any]:
    return shop.execute("SELECT * FROM cardsync.kept_bodies ORDER BY received_at, event_id")


def waiting(shop: Shop) -> int:
    return shop.execute("SELECT count(*) AS n FROM cardsync.deliveries WHERE status = 'pending'")[0].n


@pytest.mark.parametrize("payload", [payloads.payment(), payloads.payment(token=None), payloads.operation()])
def test_every_authentic_notification_is_kept_byte_for_byte_once_for_each_endpoint(
    shop: Shop, payload: payloads.Payload
) -> None:
    add(shop.worker, "orders")
    add(shop.worker, "ledger")
    odd = payloads.signed(payload).replace(b": ", b" :  ", 1) + b"\n"
    receipts = [store(shop.ingest, [came(odd)])[0] for _ in range(2)]
    assert receipts[0].status in ("accepted", "ignored")
    (row,) = kept(shop)
    assert row.event_id == receipts[0].event_id == event_id(body_hash(odd))
    assert opened_body(RING, row.event_id, row.body) == odd
    assert row.content_type == "application/json; charset=utf-8"
    assert waiting(shop) == 2
    payloads.assert_nothing_personal(row.body, repr(row))
    with pytest.raises(MalformedBody):  # bound to its id
        opened_body(RING, event_id(body_hash(b"another")), row.body)


def test_nothing_is_kept_where_no_endpoint_gets_notifications(shop: Shop) -> None:
    story.add(shop.worker, NewEndpoint("feed", "https://feed.example.test", "changes"), RING)
    add(shop.worker, "removed")
    with shop.worker.begin() as connection:
        assert endpoints.remove(connection, "removed")
    assert not store(shop.ingest, [came(body_of(1))])[0].is_relaying
    assert kept(shop) == []


def test_an_endpoint_that_was_added_a_moment_ago_misses_nothing(shop: Shop) -> None:
    add(shop.worker)
    receipt = store(shop.ingest, [came(body_of(1), keep_body=False), came(body_of(2), keep_body=False)])[0]
    assert receipt.is_relaying  # the next one is sent along
    assert {opened_body(RING, row.event_id, row.body) for row in kept(shop)} == {body_of(1), body_of(2)}


def test_a_disabled_endpoint_misses_nothing_for_three_days(shop: Shop) -> None:
    add(shop.worker)
    with shop.worker.begin() as connection:
        assert endpoints.disable(connection, "orders")
    store(shop.ingest, [came(body_of(1))])
    assert waiting(shop) == 1
    shop.execute("UPDATE cardsync.endpoints SET disabled_at = disabled_at - interval '3 days'")
    store(shop.ingest, [came(body_of(2))])
    assert waiting(shop) == 1
    assert len(kept(shop)) == 1


def test_altered_copies_of_one_body_are_cut_and_others_are_not(shop: Shop) -> None:
    add(shop.worker)
    copies = [came(payloads.signed(payloads.payment(message=f"copy {n}"))) for n in range(BODIES_A_SIGNATURE + 10)]
    store(shop.ingest, copies[:20])
    store(shop.ingest, copies[20:])
    assert len(kept(shop)) == BODIES_A_SIGNATURE
    store(shop.ingest, [came(body_of(1))])
    assert len(kept(shop)) == BODIES_A_SIGNATURE + 1


def test_what_waits_on_disk_is_encrypted_and_kept_once_it_is_drained(shop: Shop, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", max_files=1_000, max_bytes=10_000_000)
    write_to_spool(spool, [came(body_of(1)), came(payloads.signed(payloads.operation()))], now=NOW)
    on_disk = b"".join(file.read_bytes() for file in spool.waiting())
    payloads.assert_nothing_personal(on_disk.decode())
    assert payloads.TOKEN.encode() not in on_disk
    add(shop.worker)
    drain(shop.ingest, spool, keys=RING, kept=None, ring=lambda: None, rest=threading.Event().wait)
    assert {opened_body(RING, row.event_id, row.body) for row in kept(shop)} == {
        body_of(1),
        payloads.signed(payloads.operation()),
    }
    assert waiting(shop) == 2


def test_what_waits_on_disk_keeps_nothing_where_no_endpoint_gets_it(shop: Shop, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", max_files=1_000, max_bytes=10_000_000)
    write_to_spool(spool, [came(body_of(1))], now=NOW)
    drain(shop.ingest, spool, keys=RING, kept=None, ring=lambda: None, rest=threading.Event().wait)
    assert kept(shop) == []


def test_large_bodies_share_the_disks_place_for_repeats(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", max_files=1_000, max_bytes=8_192 * 200)
    noise = "".join(f"{n * n * 7919 % 1_000_003:06d}" for n in range(30_000))
    copies = [came(payloads.signed(payloads.payment(message=f"{n}{noise}"))) for n in range(8)]
    receipts = [write_to_spool(spool, [copy], now=NOW)[0] for copy in copies]
    admitted = sum(not isinstance(receipt, Exception) for receipt in receipts)
    assert 1 < admitted < 4  # twenty places of 8 KiB for repeats, and each body takes more than ten
    assert not isinstance(write_to_spool(spool, [came(body_of(1))], now=NOW)[0], Exception)


def test_an_erasure_takes_the_bodies_of_a_persons_payments(shop: Shop) -> None:
    add(shop.worker)
    theirs = payloads.payment("cust-1", session_id="theirs")
    refund = payloads.operation(session_id="theirs", customer_id=None)
    others = payloads.payment("cust-2", session_id="others")
    store(shop.ingest, [came(payloads.signed(one)) for one in (theirs, refund, others)])
    with shop.worker.begin() as connection:
        assert bodies.erase(connection, "cust-1") == 2
    left = [row for row in kept(shop) if row.body is not None]
    assert [opened_body(RING, row.event_id, row.body) for row in left] == [payloads.signed(others)]
    assert {row.customer_id for row in kept(shop)} == {"cust-2", None}
    assert waiting(shop) == 1


def forget(shop: Shop, what: retention.What, days: int) -> None:
    with shop.worker.begin() as connection:
        retention.forget(connection, what, older_days=days)


def test_a_body_goes_once_all_have_it_and_its_row_stays_to_recognise_a_duplicate(shop: Shop) -> None:
    add(shop.worker)
    store(shop.ingest, [came(body_of(1))])
    shop.execute("UPDATE cardsync.kept_bodies SET kept_since = kept_since - interval '4 days'")
    forget(shop, "kept_body", 3)
    assert kept(shop)[0].body is not None  # it waits for its endpoint
    shop.execute("UPDATE cardsync.deliveries SET status = 'done', finished_at = clock_timestamp() - interval '2 days'")
    shop.execute("UPDATE cardsync.kept_bodies SET kept_since = kept_since - interval '4 days'")
    forget(shop, "kept_body", 3)
    assert kept(shop)[0].body is not None  # the days count from the end of the last delivery
    shop.execute("UPDATE cardsync.deliveries SET finished_at = finished_at - interval '2 days'")
    shop.execute("UPDATE cardsync.kept_bodies SET kept_since = kept_since - interval '4 days'")
    forget(shop, "kept_body", 3)
    assert (kept(shop)[0].body, kept(shop)[0].customer_id) == (None, None)
    store(shop.ingest, [came(body_of(1))])
    assert waiting(shop) == 0
    shop.execute("UPDATE cardsync.kept_bodies SET kept_since = kept_since - interval '90 days'")
    forget(shop, "relayed", 90)
    assert kept(shop) == shop.execute("SELECT * FROM cardsync.deliveries") == []


def test_a_rotation_encrypts_bodies_and_secrets_again(shop: Shop) -> None:
    add(shop.worker)
    store(shop.ingest, [came(payloads.signed(payloads.operation(order_no="order-1")))])
    newer = KeyRing(b"a newer secret key, of 32 bytes or more", [RING.current.secret])
    with shop.worker.begin() as connection:
        assert bodies.count_of_other_keys(connection, newer) == endpoints.count_of_other_keys(connection, newer) == 1
    with pytest.raises(Conflict, match="kept notifications"):
        rotate.retire(shop.worker, newer)
    rotate.rotate(shop.worker, newer, tell=lambda _: None)
    alone = KeyRing(b"a newer secret key, of 32 bytes or more")
    (row,) = kept(shop)
    assert json.loads(opened_body(alone, row.event_id, row.body))["order_no"] == "order-1"
    with shop.worker.begin() as connection:
        found = endpoints.show(connection, "orders")
        assert len(story.secrets_of(connection, found.endpoint_id, alone)) == 1
