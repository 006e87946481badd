"""What waited on disk becomes rows: in order, exactly once in effect, and a bad record holds up no other."""

from __future__ import annotations

import datetime as dt
import errno
import json
import threading
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from cardsync import db
from cardsync.ciphers import KeyRing
from cardsync.core.spool_format import WaitingRow, as_json
from cardsync.errors import Misconfigured, SpoolUnusable
from cardsync.spool import Spool, names
from cardsync.store.access.secret_keys import check_secret
from cardsync.stories.drain import AT_ONCE, Drained, drain
from cardsync.stories.receive import Authentic, examine, store, write_to_spool
from tests import payloads
from tests.e2e.proxy import TcpProxy
from tests.factories import RING
from tests.stories.shop import KEYS, Shop
from tests.waiting import WAIT_SECONDS

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
def rung() -> list[bool]:
    return []


@pytest.fixture
def drained(shop: Shop, spool: Spool, rung: list[bool]) -> Callable[[], Drained]:
    """Drain as the web does, with its rights."""
    return lambda: drain(shop.ingest, spool, keys=RING, kept=None, ring=lambda: rung.append(True), rest=go_on)


def hint(number: int, customer: str = "cust-1") -> Authentic:
    payload = payloads.payment(customer, "9999000000000001", session_id=f"{number:040x}", order_no=f"order-{number}")
    return examine(payloads.signed(payload), KEYS)


def set_all_down(spool: Spool, hints: Sequence[Authentic]) -> list[uuid.UUID]:
    return [r.event_id for r in write_to_spool(spool, hints, now=dt.datetime.now(dt.UTC))]


def waiting_row(number: int, **changes: Any) -> WaitingRow:
    return replace(hint(number).row, **{"received_at": dt.datetime.now(dt.UTC), **changes})


def event_ids(shop: Shop) -> list[uuid.UUID]:
    return [r.event_id for r in shop.execute("SELECT event_id FROM cardsync.events ORDER BY evidence_no")]


def test_they_become_rows_in_the_order_of_their_arrival_and_are_rung_for(
    shop: Shop, spool: Spool, drained: Callable[[], Drained], rung: list[bool]
) -> None:
    answered = [event_id for n in range(2 * AT_ONCE + 3) for event_id in set_all_down(spool, [hint(n)])]
    assert drained() == Drained(drained=len(answered))
    assert rung
    assert event_ids(shop) == answered
    assert spool.waiting() == []
    assert drained() == Drained()


def test_a_row_is_what_it_would_have_been_with_the_database_there(
    shop: Shop, spool: Spool, drained: Callable[[], Drained]
) -> None:
    bodies = [payloads.signed(payloads.save_card()), payloads.signed(payloads.operation())]
    set_all_down(spool, [examine(body, KEYS) for body in bodies])
    drained()
    # The token is encrypted each time with a nonce of its own.
    columns = "to_jsonb(e) - ARRAY['evidence_no', 'received_at', 'due_at', 'settled_at', 'token'] AS row"
    from_disk = shop.execute(f"SELECT {columns} FROM cardsync.events AS e ORDER BY body_hash")
    shop.execute("DELETE FROM cardsync.events")
    shop.execute("DELETE FROM cardsync.signatures")
    store(shop.ingest, [examine(body, KEYS) for body in bodies])
    assert shop.execute(f"SELECT {columns} FROM cardsync.events AS e ORDER BY body_hash") == from_disk
    assert {r.row["status"] for r in from_disk} == {"pending", "ignored"}


def test_nothing_personal_beyond_the_card_waits_on_disk(spool: Spool) -> None:
    bodies = [payloads.signed(payloads.save_card()), payloads.signed(payloads.operation())]
    set_all_down(spool, [examine(body, KEYS) for body in bodies])
    assert len(spool.waiting()) == 1
    written = [file.read_text(encoding="utf-8") for file in spool.waiting()]
    payloads.assert_nothing_personal(*written)
    assert not any(payloads.TOKEN in text or "VISA" in text for text in written)


def test_the_time_is_that_of_arrival_and_never_later_than_the_databases(
    shop: Shop, spool: Spool, drained: Callable[[], Drained]
) -> None:
    now = dt.datetime.now(dt.UTC)
    arrived = (now - dt.timedelta(hours=1), now + dt.timedelta(hours=1))
    (first, second) = (write_to_spool(spool, [hint(n)], now=at)[0].event_id for n, at in enumerate(arrived))
    drained()
    times = {r.event_id: r.received_at for r in shop.execute("SELECT event_id, received_at FROM cardsync.events")}
    assert times[first] == arrived[0]
    assert times[second] <= shop.execute("SELECT clock_timestamp() AS now")[0].now


def test_a_hint_that_waited_for_the_database_first_keeps_the_time_of_its_arrival(
    shop: Shop, spool: Spool, drained: Callable[[], Drained]
) -> None:
    written_at = dt.datetime.now(dt.UTC)
    arrived_at = written_at - dt.timedelta(seconds=1)
    write_to_spool(spool, [replace(hint(1), received_at=arrived_at)], now=written_at)
    drained()
    assert [r.received_at for r in shop.execute("SELECT received_at FROM cardsync.events")] == [arrived_at]


def test_one_that_is_known_already_or_waits_twice_is_one_event(
    shop: Shop, spool: Spool, drained: Callable[[], Drained]
) -> None:
    stored = store(shop.ingest, [hint(1)])[0].event_id
    answered = set_all_down(spool, [hint(1), hint(2)]) + set_all_down(spool, [hint(2)])
    assert answered == [stored, answered[1], answered[1]]
    assert drained() == Drained(drained=2)  # one that waits already is not written again
    assert event_ids(shop) == [stored, answered[1]]
    assert [(r.status, r.event_id) for r in store(shop.ingest, [hint(2)])] == [("duplicate", answered[1])]


def test_the_event_of_an_earlier_release_keeps_its_id(shop: Shop, spool: Spool, drained: Callable[[], Drained]) -> None:
    old = uuid.uuid4()
    store(shop.ingest, [hint(1)])
    shop.execute("UPDATE cardsync.events SET event_id = :old", old=old)
    assert store(shop.ingest, [hint(1)])[0].event_id == old
    set_all_down(spool, [hint(1)])
    assert drained() == Drained(drained=1)
    assert event_ids(shop) == [old]


def test_a_crash_between_commit_and_removal_leads_to_nothing_twice(
    shop: Shop,
    spool: Spool,
    drained: Callable[[], Drained],
    rung: list[bool],
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
    assert rung == [True]  # the row is pending still: no bell was rung for it


def test_what_cannot_be_read_or_is_refused_is_set_aside_alone(
    shop: Shop, spool: Spool, drained: Callable[[], Drained]
) -> None:
    """In one segment, and each in its own file; what stands around them is stored."""
    rows = [
        waiting_row(1),
        waiting_row(2, kind="of tomorrow"),
        waiting_row(3),
        waiting_row(4, status="done"),
        waiting_row(5),
    ]
    spool.put(rows)
    (file,) = spool.waiting()
    lines = file.read_bytes().splitlines(keepends=True)
    newer = {"version": 9, **as_json(rows[4])}
    lines[4] = json.dumps(newer).encode()
    lines[4] = f"{zlib.crc32(lines[4]):08x} ".encode() + lines[4] + b"\n"
    file.write_bytes(b"".join(lines) + b'0123 {"torn')
    assert drained() == Drained(drained=2, bad=4)
    assert event_ids(shop) == [rows[0].event_id, rows[2].event_id]
    assert spool.waiting() == []
    reasons = [names.reason_of(bad.name) for bad in spool.set_aside_files()]
    assert reasons == ["refused-23514", "refused-23514", "unreadable", "damaged"]
    assert drained() == Drained()


def test_a_segment_with_damage_gives_all_its_whole_records(
    shop: Shop, spool: Spool, drained: Callable[[], Drained]
) -> None:
    rows = [waiting_row(n) for n in range(6)]
    spool.put(rows)
    (file,) = spool.waiting()
    lines = file.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"sandbox", b"sand\nox")  # one damaged byte, and it is a line break
    file.write_bytes(b"".join(lines[:5]))  # and the last record is gone
    assert drained().drained == 4
    assert event_ids(shop) == [rows[n].event_id for n in (0, 1, 3, 4)]
    assert spool.waiting() == []


def test_a_file_that_cannot_be_opened_is_set_aside_as_it_is(
    shop: Shop, spool: Spool, drained: Callable[[], Drained]
) -> None:
    answered = set_all_down(spool, [hint(1)])
    (spool.folder / f"{1:020d}-a-1.1.0.9.segment").mkdir()
    assert drained() == Drained(drained=1, bad=1)
    assert event_ids(shop) == answered
    assert [names.reason_of(file.name) for file in spool.set_aside_files()] == ["unreadable"]


def test_a_full_disk_keeps_the_segment_with_the_bad_record_and_holds_up_no_other(
    shop: Shop, spool: Spool, drained: Callable[[], Drained], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [waiting_row(1), waiting_row(2, kind="of tomorrow"), waiting_row(3)]
    spool.put(rows[:2])
    spool.put(rows[2:])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(spool, "_draft", full)
        with pytest.raises(OSError, match="No space left"):
            drained()
    assert event_ids(shop) == [rows[0].event_id, rows[2].event_id]
    assert (len(spool.waiting()), spool.state().bad) == (1, 0)
    assert drained() == Drained(drained=1, bad=1)
    assert spool.waiting() == []


def test_files_of_older_releases_are_drained_in_their_order_and_encrypted(
    shop: Shop, spool: Spool, drained: Callable[[], Drained]
) -> None:
    """One file for each, the row in a field of its own, and no signature with one that is ignored."""
    rows = [waiting_row(n) for n in range(5)]
    spool.put(rows[3:])
    for place, row in enumerate(rows[:3]):
        fields = {"event_id": str(row.event_id), **as_json(row)}
        received_at = fields.pop("received_at")
        fields |= {"token": "9999000000000001", "facts": {"brand": "VISA"}}  # in the clear
        old = {"version": 1, "received_at": received_at, "row": fields}
        (spool.folder / f"{place + 1:020d}-0a1b2c3d-{place:08d}.hint").write_text(json.dumps(old), encoding="ascii")
    (spool.folder / f"{4:020d}-0a1b2c3d-00000004.hint").write_bytes(b'{"torn')
    assert drained() == Drained(drained=5, bad=1)
    assert event_ids(shop) == [row.event_id for row in rows]
    stored = shop.execute("SELECT token, facts::text AS facts FROM cardsync.events")
    assert not any("9999000000000001" in row.token or "VISA" in row.facts for row in stored)


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
        drain(away, spool, keys=RING, kept=None, ring=lambda: None, rest=go_on)
    shop.execute("ALTER TABLE cardsync.events RENAME TO elsewhere")
    with pytest.raises(DBAPIError):
        drained()
    shop.execute("ALTER TABLE cardsync.elsewhere RENAME TO events")
    assert spool.state().waiting == 2
    assert drained() == Drained(drained=2)
    assert event_ids(shop) == answered


def test_another_secret_keys_database_gets_nothing(shop: Shop, spool: Spool, drained: Callable[[], Drained]) -> None:
    with shop.engine.begin() as connection:
        check_secret(connection, KeyRing(b"another-key-another-key-another-key-"))
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

    assert drain(shop.ingest, spool, keys=RING, kept=None, ring=lambda: None, rest=rest) == Drained(drained=2 * AT_ONCE)
    assert all(seconds > 0 for seconds in rests)
    assert spool.state().waiting == 2 * AT_ONCE + 1  # a segment goes as a whole, once all its rows are stored
    assert drain(shop.ingest, spool, keys=RING, kept=None, ring=lambda: None, rest=go_on).drained == 2 * AT_ONCE + 1
    assert len(event_ids(shop)) == 2 * AT_ONCE + 1
    assert spool.is_empty()


def test_many_who_store_the_same_at_once_all_succeed(shop: Shop) -> None:
    """The id follows from the hash: whichever index tells first of the other's row, it is a duplicate and no error."""
    together = threading.Barrier(RACERS)

    def race(_: int) -> Counter[str]:
        found: Counter[str] = Counter()
        for n in range(RACES):
            one = hint(n)
            together.wait(WAIT_SECONDS)
            found.update(receipt.status for receipt in store(shop.ingest, [one]))
        return found

    with ThreadPoolExecutor(RACERS) as racers:
        found = sum(racers.map(race, range(RACERS)), Counter())
    assert found == {"accepted": RACES, "duplicate": RACES * (RACERS - 1)}


@pytest.fixture
def statements(shop: Shop) -> Iterator[list[str]]:
    """The statements that the web's engine sends: each is a round trip, as it commits by itself."""
    sent: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    event.listen(shop.ingest, "before_cursor_execute", note)
    yield sent
    event.remove(shop.ingest, "before_cursor_execute", note)


def test_a_hundred_hints_whose_rows_exist_already_are_drained_in_one_round_trip(
    shop: Shop, spool: Spool, drained: Callable[[], Drained], statements: list[str]
) -> None:
    hints = [hint(n) for n in range(AT_ONCE)]
    store(shop.ingest, hints)
    shop.execute("UPDATE cardsync.events SET status = 'failed', attempts = 10 WHERE evidence_no % 3 = 0")
    set_all_down(spool, hints)
    with shop.ingest.connect() as connection:
        check_secret(connection, RING)  # the first one of all writes it
    statements.clear()
    assert drained() == Drained(drained=AT_ONCE)
    assert sum("INSERT INTO cardsync.events" in statement for statement in statements) == 1
    assert len(statements) == 3  # whose database it is, and who was erased
    assert {row.status for row in shop.execute("SELECT status FROM cardsync.events")} == {"pending"}


@pytest.mark.parametrize("one_way_ms", [1.0, 2.5, 5.0])
def test_a_database_some_milliseconds_away_is_kept_up_with(
    shop: Shop, spool: Spool, rung: list[bool], one_way_ms: float
) -> None:
    """At 10 ms there and back."""
    url = shop.ingest.url
    assert url.host is not None
    assert url.port is not None
    network = TcpProxy((url.host, url.port), one_way_seconds=one_way_ms / 1_000)
    through = url.set(port=network.port).render_as_string(hide_password=False)
    far = db.make_engine(through, autocommit=True)
    hints = [hint(n) for n in range(3 * AT_ONCE)]
    store(shop.ingest, hints[: 2 * AT_ONCE])
    answered = set_all_down(spool, hints)
    assert drain(far, spool, keys=RING, kept=None, ring=lambda: rung.append(True), rest=go_on) == Drained(
        drained=3 * AT_ONCE
    )
    assert rung
    assert event_ids(shop) == answered
    assert spool.is_empty()
    far.dispose()
    network.cut()


def test_altered_bodies_of_one_signature_get_an_error_and_their_neighbours_a_receipt(tmp_path: Path) -> None:
    small = Spool(tmp_path / "spool", max_files=20, max_bytes=2**20)
    genuine = payloads.payment("victim", "9999000000000001")
    altered = [
        examine(payloads.signed({**genuine, "token": payloads.card(customer_id=f"invented-{n}")}), KEYS)
        for n in range(10)
    ]
    honest = [hint(n) for n in range(100, 110)]
    batch = [one for pair in zip(altered, honest, strict=True) for one in pair]
    kept = write_to_spool(small, batch, now=dt.datetime.now(dt.UTC))
    assert [isinstance(one, SpoolUnusable) for one in kept[::2]] == [False] * 3 + [True] * 7
    assert [one.event_id for one in kept[1::2]] == [one.new.event_id for one in honest]
    assert small.state().waiting == 13


# Persons who were erased meanwhile.


def erased(shop: Shop, customer_id: str, *, requested_at: dt.datetime) -> None:
    """An erasure of this person is done."""
    shop.execute(
        """INSERT INTO cardsync.erasures (customer_id, requested_by, status, requested_at, finished_at, due_at)
           VALUES (:customer_id, 'support', 'done', :requested_at, clock_timestamp(), NULL)""",
        customer_id=customer_id,
        requested_at=requested_at,
    )


def test_a_hint_of_a_person_who_was_erased_after_it_arrived_is_dropped(
    shop: Shop, spool: Spool, drained: Callable[[], Drained]
) -> None:
    now = dt.datetime.now(dt.UTC)
    old, new = now - dt.timedelta(hours=2), now - dt.timedelta(minutes=5)
    rows = [
        waiting_row(1, received_at=old, customer_id="erased"),
        waiting_row(2, received_at=old, customer_id="another"),
        waiting_row(3, received_at=new, customer_id="erased"),
        waiting_row(4, received_at=old, customer_id="asked for"),
    ]
    erased(shop, "erased", requested_at=now - dt.timedelta(hours=1))
    shop.execute("INSERT INTO cardsync.erasures (customer_id, requested_by) VALUES ('asked for', 'support')")
    spool.put(rows)
    assert drained() == Drained(drained=3, erased=1)
    assert event_ids(shop) == [row.event_id for row in rows[1:]]
    assert spool.is_empty()
