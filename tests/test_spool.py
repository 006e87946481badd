"""The spool's files, on a real folder: durable or refused, bounded, private, in order, whatever else lies there."""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import itertools
import multiprocessing
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cardsync.core.spool_format import ROW_BYTES, WaitingRow, read_record, write_record
from cardsync.errors import SpoolUnusable
from cardsync.spool import ABANDONED_SECONDS, BLOCK_BYTES, FOLDER, Spool, names
from cardsync.spool import room as room_module
from tests.waiting import until

SECONDS = 240  # a deadline: only a bug takes so long, and a disk may need tenths of a second for each flush
NOW = dt.datetime(2026, 11, 24, 10, 0, tzinfo=dt.UTC)


@pytest.fixture(autouse=True)
def _first_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spool knows what others wrote before its own first write, also where counting takes a busy machine long."""
    monkeypatch.setattr(room_module, "FIRST_COUNT_SECONDS", SECONDS)


def row(name: str | int, *, signature: str | None = None) -> WaitingRow:
    """A row that waits, with a signature of its own unless it shares one."""
    body = hashlib.sha256(str(name).encode()).digest()
    return WaitingRow(
        body_hash=body,
        received_at=NOW,
        status="pending",
        kind="payment",
        scheme="standard",
        key_id="key",
        signature_hash=body if signature is None else hashlib.sha256(signature.encode()).digest(),
        session_id=str(name),
    )


def rows(*numbers: int | str) -> list[WaitingRow]:
    return [row(n) for n in numbers]


def make(folder: Path, *, max_files: int = 100, max_bytes: int = 2**20) -> Spool:
    return Spool(folder / FOLDER, max_files=max_files, max_bytes=max_bytes)


def contents(spool: Spool) -> list[str]:
    """What waits, by the name of each row."""
    found = (record.content for file in spool.waiting() for record in spool.read(file))
    return [str(read_record(content).session_id) for content in found if content is not None]


def lying(spool: Spool) -> list[str]:
    return sorted(file.name for file in spool.folder.iterdir())


def test_hints_wait_in_the_order_of_their_arrival(tmp_path: Path) -> None:
    first, second = make(tmp_path), make(tmp_path)
    first.put(rows(1, 2))
    second.put(rows(3))
    first.put(rows(4))
    assert contents(first) == contents(second) == ["1", "2", "3", "4"]


def test_no_other_user_may_read_them_whatever_the_umask(tmp_path: Path) -> None:
    spool = make(tmp_path / "data")
    before = os.umask(0)
    try:
        spool.put(rows(1))
    finally:
        os.umask(before)
    assert stat.S_IMODE(spool.folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in spool.waiting()] == [0o600]


def test_a_batch_is_one_file_flushed_before_it_has_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    flush, rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        steps.append("flush folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "flush file")
        flush(descriptor)

    def note_rename(self: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(self, target)

    spool = make(tmp_path)
    spool.put(rows(0))
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", note_rename)
    spool.put(rows(1, 2, 3))
    assert steps == ["flush file", "rename", "flush folder"]


@pytest.mark.parametrize("failing", ["fsync", "open"])
def test_a_full_disk_is_told_and_leaves_nothing_of_what_was_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    spool = make(tmp_path, max_files=4)
    spool.put(rows(1))
    real: Callable[..., Any] = getattr(os, failing)
    calls = iter((False, True))

    def full(*args: Any, **kwargs: Any) -> Any:
        if next(calls):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, full)
        with pytest.raises(SpoolUnusable, match="No space left"):
            spool.put(rows(2, 3, 4))
    assert contents(spool) == ["1"]
    assert len(lying(spool)) == 1
    spool.put(rows(5, 6, 2))  # what was refused takes no room, and waits nowhere
    assert contents(spool) == ["1", "5", "6", "2"]


@pytest.mark.parametrize("bounds", [{"max_files": 3}, {"max_bytes": 3 * BLOCK_BYTES}])
def test_no_more_lies_there_than_the_bounds_say_until_some_is_drained(tmp_path: Path, bounds: dict[str, int]) -> None:
    make(tmp_path, **bounds).put(rows(1))
    spool = make(tmp_path, **bounds)  # which counts what others wrote
    spool.put(rows(2))
    with pytest.raises(SpoolUnusable, match="full"):
        spool.put([row(f"{n} {'x' * 400}") for n in range(20)])
    spool.put(rows(3))
    with pytest.raises(SpoolUnusable, match="full"):
        spool.check()
    spool.remove(spool.waiting()[:1])
    spool.put(rows(5))
    assert contents(spool) == ["2", "3", "5"]


def test_what_another_process_drained_is_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, other = make(tmp_path, max_files=2), make(tmp_path, max_files=2)
    spool.put(rows(1, 2))
    other.remove(other.waiting())
    monkeypatch.setattr(room_module, "RECOUNT_SECONDS", 0.0)
    monkeypatch.setattr(room_module, "RECOUNT_REST", 0.0)
    spool.put(rows(3, 4))
    assert contents(spool) == ["3", "4"]


def test_what_other_processes_wrote_is_counted_off_the_writers_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, other = make(tmp_path, max_files=10), make(tmp_path, max_files=10)
    spool.put(rows(0))
    counted_by: list[str] = []
    scan = os.scandir

    def note(folder: Any) -> Any:
        counted_by.append(threading.current_thread().name)
        return scan(folder)

    other.put(rows(*range(1, 9)))
    monkeypatch.setattr(room_module, "COUNT_SECONDS", 0.0)
    monkeypatch.setattr(room_module, "COUNT_REST", 0.0)
    monkeypatch.setattr(os, "scandir", note)
    spool.put(rows(9))
    until(lambda: spool._room._totals.rows >= 10, "the other's rows are counted")
    assert set(counted_by) == {"spool-count"}
    with pytest.raises(SpoolUnusable, match="full"):
        spool.put(rows(10))


def test_no_write_looks_at_the_files_that_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault before: every write asked for the size of each of 30,000 files, and hints were refused meanwhile."""
    monkeypatch.setattr(room_module, "COUNT_SECONDS", 3_600.0)  # the first count is waited for; no other one is due
    spool = make(tmp_path, max_files=10_000)
    for n in range(50):
        spool.put(rows(n))
    looked: list[str] = []

    def refuse(folder: Any) -> Any:
        looked.append(str(folder))
        raise AssertionError("a write must not read the folder")

    monkeypatch.setattr(os, "scandir", refuse)
    spool.put(rows("one more"))
    assert looked == []


def test_a_folder_in_place_of_which_something_else_lies_is_told(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file", encoding="utf-8")
    spool = make(tmp_path)
    for attempt in (lambda: spool.put(rows(1)), spool.check):
        with pytest.raises(SpoolUnusable):
            attempt()


def test_a_folder_that_is_removed_is_made_again(tmp_path: Path) -> None:
    spool = make(tmp_path)
    spool.put(rows(1))
    spool.waiting()[0].unlink()
    spool.folder.rmdir()
    assert spool.waiting() == []
    assert spool.is_empty()
    assert spool.state().waiting == 0
    spool.put(rows(1, 2))  # the first one waits nowhere now, so it is written once more
    assert contents(spool) == ["1", "2"]


def test_drafts_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    spool = make(tmp_path)
    spool.put(rows(1))
    torn, fresh = spool.folder / "1-dead-1.tmp", spool.folder / "1-alive-1.tmp"
    for draft in (torn, fresh):
        draft.write_bytes(b"{")
    long_ago = time.time() - 2 * ABANDONED_SECONDS
    os.utime(torn, (long_ago, long_ago))
    assert contents(spool) == ["1"]  # neither is a hint
    spool.tidy()
    assert (torn.exists(), fresh.exists()) == (False, True)
    assert contents(spool) == ["1"]


# What is in a segment.


def test_a_hint_of_an_older_release_waits_in_its_own_place(tmp_path: Path) -> None:
    spool = make(tmp_path)
    spool.put(rows(1))
    (spool.folder / f"{1:020d}-0abcdef0-00000000.hint").write_bytes(b'{"version": 1}')
    first, second = spool.waiting()
    assert [record.content for record in spool.read(first)] == [b'{"version": 1}']
    assert first.suffix == ".hint"
    assert second.suffix == ".segment"
    assert spool.state().waiting == 2


@pytest.mark.parametrize("keep", [1.0, 0.5, 0.34, 0.0])
def test_what_a_torn_segment_lacks_is_noticed(tmp_path: Path, keep: float) -> None:
    spool = make(tmp_path)
    spool.put(rows(1, 2, 3))
    (file,) = spool.waiting()
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])
    assert len(spool.read(file)) == 3
    assert contents_that_are_whole(spool) == ["1", "2", "3"][: int(3 * keep)]


def test_a_segment_that_ends_between_two_records_lacks_the_others(tmp_path: Path) -> None:
    spool = make(tmp_path)
    spool.put(rows(1, 2, 3))
    (file,) = spool.waiting()
    file.write_bytes(file.read_bytes().splitlines(keepends=True)[0])
    assert [record.content is None for record in spool.read(file)] == [False, True, True]


def contents_that_are_whole(spool: Spool) -> list[str]:
    lines = [r.content for file in spool.waiting() for r in spool.read(file) if r.content is not None]
    return [str(read_record(line).session_id) for line in lines if line.endswith(b"\n")]


# Setting aside.


def test_what_is_set_aside_does_not_wait_and_is_counted(tmp_path: Path) -> None:
    spool = make(tmp_path)
    spool.put(rows(1, 2))
    (file,) = spool.waiting()
    spool.set_aside(file, spool.read(file)[0], "refused-23514")
    spool.set_aside(file, spool.read(file)[0], "refused-23514")  # after a crash: it is one file
    assert contents(spool) == ["1", "2"]  # it is removed when all its rows were dealt with
    state = spool.state()
    assert (state.waiting, state.bad, state.size_bytes) == (2, 1, 2 * BLOCK_BYTES)
    assert 0 <= state.oldest_seconds < 60
    assert names.reason_of(spool.set_aside_files()[0].name) == "refused-23514"


def test_what_is_restored_waits_again(tmp_path: Path) -> None:
    spool = make(tmp_path)
    spool.put(rows(1, 2, 3))
    spool.put(rows(4))
    first, second = spool.waiting()
    for record in spool.read(first)[:2]:
        spool.set_aside(first, record, "unreadable")
    spool.remove([first])
    spool.set_aside_whole(second, "unreadable")
    for name in ("0-old-1.bad", "0-odd-1.x.bad"):  # as a release before left it, and as an operator might name one
        (spool.folder / name).write_bytes(b'{"version": 1}' if "old" in name else write_record(row("odd")))
    assert spool.is_empty()
    for file in spool.set_aside_files():
        spool.restore(file)
    assert spool.set_aside_files() == []
    (old,) = (file for file in spool.waiting() if file.suffix == ".hint")
    spool.remove([old])
    assert contents(spool) == ["odd", "1", "2", "4"]


# Equal bodies and repeated signatures.


def test_an_equal_body_waits_once(tmp_path: Path) -> None:
    spool = make(tmp_path, max_files=2)
    for _ in range(5):
        spool.put([*rows(1, 2, 1)])
    assert contents(spool) == ["1", "2"]
    spool.remove(spool.waiting())
    spool.put(rows(1))  # it was drained, and may have failed since
    assert contents(spool) == ["1"]


def test_altered_bodies_of_one_signature_leave_room_for_honest_hints(tmp_path: Path) -> None:
    spool = make(tmp_path, max_files=100)
    taken = refused = 0
    for n in range(3_426):
        try:
            spool.put([row(f"altered {n}", signature="genuine")])
            taken += 1
        except SpoolUnusable:
            refused += 1
    assert (taken, refused) == (11, 3_415)  # the first body, and a tenth of the room for all later ones
    for n in range(89):
        spool.put(rows(f"honest {n}"))
    with pytest.raises(SpoolUnusable, match="full"):
        spool.put(rows("one too many"))


def test_a_flood_costs_its_honest_neighbours_in_a_batch_nothing(tmp_path: Path) -> None:
    spool = make(tmp_path, max_files=100)
    flood = [row(f"altered {n}", signature="genuine") for n in range(60)]
    batch = [one for pair in zip(flood, rows(*range(60)), strict=True) for one in pair]
    with pytest.raises(SpoolUnusable):
        spool.put(batch)
    assert spool.is_empty()
    refused = spool.put_what_fits(batch)
    assert refused == {one.event_id for one in flood[11:]}
    assert spool.state().waiting == 71
    assert spool.put_what_fits(flood[20:]) == {one.event_id for one in flood[20:]}
    assert spool.put_what_fits(flood[:5]) == frozenset()  # these wait already


def test_another_process_knows_how_many_repeats_wait(tmp_path: Path) -> None:
    first, second = make(tmp_path, max_files=100), make(tmp_path, max_files=100)
    assert first.put_what_fits([row(f"a {n}", signature="one") for n in range(11)]) == frozenset()
    assert len(second.put_what_fits([row(f"b {n}", signature="two") for n in range(11)])) == 10


def test_a_signature_is_new_again_once_nothing_waits(tmp_path: Path) -> None:
    spool = make(tmp_path, max_files=10)
    flood = [row(f"altered {n}", signature="genuine") for n in range(9)]
    assert len(spool.put_what_fits(flood)) == 7
    spool.remove(spool.waiting())
    spool.put(flood[7:9])
    assert spool.state().waiting == 2


def test_the_share_of_repeats_is_small_in_bytes_too(tmp_path: Path) -> None:
    spool = make(tmp_path, max_files=100_000, max_bytes=100 * ROW_BYTES)
    flood = [row(f"{n} {'x' * 7_000}", signature="genuine") for n in range(50)]
    assert len(spool.put_what_fits(flood)) == 50 - 11
    assert spool.state().size_bytes <= 12 * ROW_BYTES


def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_module, "REMEMBERED", 5)
    spool = make(tmp_path)
    for n in range(20):
        spool.put(rows(n))
    assert len(spool._room._bodies._kept) == len(spool._room._signatures._kept) == 5


# Several processes and threads.


def test_one_process_at_a_time_drains(tmp_path: Path) -> None:
    spool = make(tmp_path)
    spool.put(rows(1))
    with spool.alone() as first, make(tmp_path).alone() as second:
        assert (first, second) == (True, False)
    with make(tmp_path).alone() as later:
        assert later


def test_a_slow_flush_holds_up_no_other_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = make(tmp_path)
    spool.put(rows(0))
    flush, both, calls = os.fsync, threading.Barrier(2), itertools.count()

    def fsync(descriptor: int) -> None:
        if next(calls) < 2:
            both.wait(SECONDS)  # each of the two first flushes waits for the other: they are under way together
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    threads = [threading.Thread(target=spool.put, args=(rows(n),)) for n in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert not both.broken
    assert sorted(contents(spool)) == ["0", "1", "2"]


def _write_many(folder: str, count: int) -> None:
    spool = Spool(Path(folder), max_files=1_000, max_bytes=2**30)
    for number in range(count):
        spool.put(rows(f"{os.getpid()} {number:03d}"))


def test_two_processes_write_to_one_folder_and_lose_nothing(tmp_path: Path) -> None:
    spool = make(tmp_path)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(str(spool.folder), 50)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(SECONDS)
    assert [writer.exitcode for writer in writers] == [0, 0]
    found = [content.split() for content in contents(spool)]
    assert len(found) == 100
    for pid in {pid for pid, _ in found}:  # each one's in the order in which it wrote them
        assert [number for who, number in found if who == pid] == [f"{n:03d}" for n in range(50)]
