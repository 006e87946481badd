"""What waited on disk becomes rows: in order, exactly once in effect, and one bad file holds up nobody."""

from __future__ import annotations

import datetime as dt
import errno
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from cardsync import db
from cardsync.core.waiting import write_waiting
from cardsync.drain import AT_ONCE, Drained, drain
from cardsync.errors import Misconfigured
from cardsync.receive import Authentic, examine, set_down, write
from cardsync.spool import Spool
from cardsync.store import inbox
from cardsync.store.secret import check_secret
from tests import payloads
from tests.stories.worlds import KEYS, Shop

SECRET = b"a-secret-key-of-the-tests-32-characters"


RACERS = 4
RACES = 100


def go_on(_seconds: float) -> bool:
    return False


class Crash(BaseException):
    """The process dies here."""


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", max_files=1_000, max_bytes=2**30)


@pytest.fixture
def rung() -> list[uuid.UUID]:
    return []


@pytest.fixture
def drained(shop: Shop, spool: Spool, rung: list[uuid.UUID]) -> Callable[[], Drained]:
    """Drain as the web does, with its rights."""
    return lambda: drain(shop.ingest, spool, secret=SECRET, ring=rung.extend, rest=go_on)


def hint(number: int, customer: str = "cust-1") -> Authentic:
    payload = payloads.payment(customer, "9999000000000001", session_id=f"{number:040x}")
    return examine(payloads.signed(payload), KEYS)


def set_all_down(spool: Spool, hints: Sequence[Authentic]) -> list[uuid.UUID]:
    return [r.event_id for r in set_down(spool, hints, now=dt.datetime.now(dt.UTC))]


def event_ids(shop: Shop) -> list[uuid.UUID]:
    return [r.event_id for r in shop.execute("SELECT event_id FROM cardsync.events ORDER BY evidence_no")]


def test_they_become_rows_in_the_order_of_their_arrival_and_are_rung_for(
    shop: Shop, spool: Spool, drained: Callable[[], Drained], rung: list[uuid.UUID]
) -> None:
    answered = [event_id for n in range(2 * AT_ONCE + 3) for event_id in set_all_down(spool, [hint(n)])]
    assert drained() == Drained(drained=len(answered))
    assert rung == answered
    assert event_ids(shop) == answered
    assert spool.waiting() == []
    assert drained() == Drained()


def test_a_row_is_what_it_would_have_been_with_the_database_there(
    shop: Shop, spool: Spool, drained: Callable[[], Drained]
) -> None:
    bodies = [payloads.signed(payloads.save_card()), payloads.signed(payloads.operation())]
    set_all_down(spool, [examine(body, KEYS) for body in bodies])
    drained()
    columns = "to_jsonb(e) - ARRAY['evidence_no', 'received_at', 'due_at', 'settled_at'] AS row"
    from_disk = shop.execute(f"SELECT {columns} FROM cardsync.events AS e ORDER BY body_hash")
    shop.execute("DELETE FROM cardsync.events")
    write(shop.ingest, [examine(body, KEYS) for body in bodies])
    assert shop.execute(f"SELECT {columns} FROM cardsync.events AS e ORDER BY body_hash") == from_disk
    assert {r.row["status"] for r in from_disk} == {"pending", "ignored"}


def test_nothing_personal_beyond_the_card_waits_on_disk(spool: Spool) -> None:
    bodies = [payloads.signed(payloads.save_card()), payloads.signed(payloads.operation())]
    set_all_down(spool, [examine(body, KEYS) for body in bodies])
    payloads.assert_nothing_personal(*(file.read_text(encoding="utf-8") for file in spool.waiting()))


def test_the_time_is_that_of_arrival_and_never_later_than_the_databases(
    shop: Shop, spool: Spool, drained: Callable[[], Drained]
) -> None:
    now = dt.datetime.now(dt.UTC)
    arrived = (now - dt.timedelta(hours=1), now + dt.timedelta(hours=1))
    (first, second) = (set_down(spool, [hint(n)], now=at)[0].event_id for n, at in enumerate(arrived))
    drained()
    times = {r.event_id: r.received_at for r in shop.execute("SELECT event_id, received_at FROM cardsync.events")}
    assert times[first] == arrived[0]
    assert times[second] <= shop.execute("SELECT clock_timestamp() AS now")[0].now


def test_one_that_is_known_already_or_waits_twice_is_one_event(
    shop: Shop, spool: Spool, drained: Callable[[], Drained]
) -> None:
    stored = write(shop.ingest, [hint(1)])[0].event_id
    answered = set_all_down(spool, [hint(1), hint(2)]) + set_all_down(spool, [hint(2)])
    assert answered == [stored, answered[1], answered[1]]
    assert drained() == Drained(drained=3)
    assert event_ids(shop) == [stored, answered[1]]
    assert [(r.status, r.event_id) for r in write(shop.ingest, [hint(2)])] == [("duplicate", answered[1])]


def test_the_event_of_an_earlier_release_keeps_its_id(shop: Shop, spool: Spool, drained: Callable[[], Drained]) -> None:
    old = uuid.uuid4()
    write(shop.ingest, [hint(1)])
    shop.execute("UPDATE cardsync.events SET event_id = :old", old=old)
    assert write(shop.ingest, [hint(1)])[0].event_id == old
    set_all_down(spool, [hint(1)])
    assert drained() == Drained(drained=1)
    assert event_ids(shop) == [old]


def test_a_crash_between_commit_and_removal_leads_to_nothing_twice(
    shop: Shop,
    spool: Spool,
    drained: Callable[[], Drained],
    rung: list[uuid.UUID],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = set_all_down(spool, [hint(1), hint(2)])

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(spool, "remove", crash)
        with pytest.raises(Crash):
            drained()
    assert event_ids(shop) == answered
    assert rung == []
    assert drained() == Drained(drained=2)
    assert event_ids(shop) == answered
    assert rung == answered  # the row is pending still: nobody knew of it


def test_what_cannot_be_read_or_is_refused_is_set_aside_and_holds_up_nobody(
    shop: Shop, spool: Spool, drained: Callable[[], Drained]
) -> None:
    good = [hint(1), hint(2)]
    odd = {**inbox.as_row(hint(3).new), "kind": "of tomorrow"}
    null = {**inbox.as_row(hint(4).new), "customer_id": "a\x00b"}
    answered = set_all_down(spool, good[:1])
    spool.put([write_waiting(odd, dt.datetime.now(dt.UTC)), b'{"torn', write_waiting(null, dt.datetime.now(dt.UTC))])
    answered += set_all_down(spool, good[1:])
    assert drained() == Drained(drained=2, bad=3)
    assert event_ids(shop) == answered
    assert spool.waiting() == []
    assert spool.state().bad == 3
    assert drained() == Drained()


def test_a_process_without_a_free_descriptor_blames_no_file(
    shop: Shop, spool: Spool, drained: Callable[[], Drained], monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = set_all_down(spool, [hint(1)])

    def refuse(_path: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", refuse)
        with pytest.raises(OSError, match="Too many open files"):
            drained()
    assert spool.state().bad == 0
    assert drained() == Drained(drained=1)
    assert event_ids(shop) == answered


def test_while_the_database_takes_nothing_everything_waits_on(
    shop: Shop, spool: Spool, drained: Callable[[], Drained]
) -> None:
    answered = set_all_down(spool, [hint(1), hint(2)])
    away = db.make_engine("postgresql://nobody@127.0.0.1:1/none", autocommit=True)
    with pytest.raises(DBAPIError):
        drain(away, spool, secret=SECRET, ring=lambda _: None, rest=go_on)
    shop.execute("ALTER TABLE cardsync.events RENAME TO elsewhere")
    with pytest.raises(DBAPIError):
        drained()
    shop.execute("ALTER TABLE cardsync.elsewhere RENAME TO events")
    assert len(spool.waiting()) == 2
    assert drained() == Drained(drained=2)
    assert event_ids(shop) == answered


def test_another_secret_keys_database_gets_nothing(shop: Shop, spool: Spool, drained: Callable[[], Drained]) -> None:
    with shop.engine.begin() as connection:
        check_secret(connection, b"another-key-another-key-another-key-")
    set_all_down(spool, [hint(1)])
    with pytest.raises(Misconfigured):
        drained()
    assert event_ids(shop) == []
    assert len(spool.waiting()) == 1


def test_only_one_process_drains(shop: Shop, spool: Spool, drained: Callable[[], Drained]) -> None:
    set_all_down(spool, [hint(1)])
    with spool.alone() as alone:
        assert alone
        assert drained() == Drained()
    assert drained() == Drained(drained=1)


def test_it_rests_after_each_batch_for_as_long_as_that_took_and_stops_when_told(shop: Shop, spool: Spool) -> None:
    set_all_down(spool, [hint(n) for n in range(2 * AT_ONCE + 1)])
    rests: list[float] = []

    def rest(seconds: float) -> bool:
        rests.append(seconds)
        return len(rests) == 2

    assert drain(shop.ingest, spool, secret=SECRET, ring=lambda _: None, rest=rest) == Drained(drained=2 * AT_ONCE)
    assert all(seconds > 0 for seconds in rests)
    assert len(spool.waiting()) == 1


def test_many_who_store_the_same_at_once_all_succeed(shop: Shop) -> None:
    """The id follows from the hash: whichever index tells first of the other's row, it is a duplicate and no error."""
    together = threading.Barrier(RACERS)

    def race(_: int) -> Counter[str]:
        found: Counter[str] = Counter()
        for n in range(RACES):
            one = hint(n)
            together.wait(10)
            found.update(receipt.status for receipt in write(shop.ingest, [one]))
        return found

    with ThreadPoolExecutor(RACERS) as racers:
        found = sum(racers.map(race, range(RACERS)), Counter())
    assert found == {"accepted": RACES, "duplicate": RACES * (RACERS - 1)}
