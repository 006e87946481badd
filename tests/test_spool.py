"""The spool's files, on a real folder: durable or refused, bounded, private, in order, whatever else lies there."""

from __future__ import annotations

import errno
import multiprocessing
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cardsync import spool as module
from cardsync.errors import SpoolUnusable
from cardsync.spool import ABANDONED_SECONDS, BLOCK_BYTES, FOLDER, Spool


def make(folder: Path, *, max_files: int = 100, max_bytes: int = 2**20) -> Spool:
    return Spool(folder / FOLDER, max_files=max_files, max_bytes=max_bytes)


def contents(spool: Spool) -> list[bytes]:
    return [file.read_bytes() for file in spool.waiting()]


def names(spool: Spool) -> list[str]:
    return sorted(file.name for file in spool.folder.iterdir())


def test_hints_wait_in_the_order_of_their_arrival(tmp_path: Path) -> None:
    first, second = make(tmp_path), make(tmp_path)
    first.put([b"1", b"2"])
    second.put([b"3"])
    first.put([b"4"])
    assert contents(first) == contents(second) == [b"1", b"2", b"3", b"4"]


def test_nobody_else_may_read_them_whatever_the_umask(tmp_path: Path) -> None:
    spool = make(tmp_path / "data")
    before = os.umask(0)
    try:
        spool.put([b"1"])
    finally:
        os.umask(before)
    assert stat.S_IMODE(spool.folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in spool.waiting()] == [0o600]


def test_each_file_is_flushed_before_it_has_its_name_and_the_folder_after(
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
    spool.put([b"0"])
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", note_rename)
    spool.put([b"1", b"2"])
    assert steps == ["flush file", "rename", "flush file", "rename", "flush folder"]


@pytest.mark.parametrize("failing", ["fsync", "open"])
def test_a_full_disk_is_told_and_leaves_nothing_of_what_was_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    spool = make(tmp_path)
    spool.put([b"1"])
    real: Callable[..., Any] = getattr(os, failing)
    calls = iter((False, True))

    def full(*args: Any, **kwargs: Any) -> Any:
        if next(calls):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, full)
        with pytest.raises(SpoolUnusable, match="No space left"):
            spool.put([b"2", b"3", b"4"])
    assert contents(spool) == [b"1"]
    assert len(names(spool)) == 1
    spool.put([b"5"])
    assert contents(spool) == [b"1", b"5"]


@pytest.mark.parametrize("bounds", [{"max_files": 3}, {"max_bytes": 3 * BLOCK_BYTES}])
def test_no_more_lies_there_than_the_bounds_say_until_some_is_drained(tmp_path: Path, bounds: dict[str, int]) -> None:
    make(tmp_path, **bounds).put([b"1"])
    spool = make(tmp_path, **bounds)  # which counts what others wrote
    spool.put([b"2"])
    with pytest.raises(SpoolUnusable, match="full"):
        spool.put([b"3", b"4"])
    spool.put([b"3"])
    with pytest.raises(SpoolUnusable, match="full"):
        spool.check()
    spool.remove(spool.waiting()[:1])
    spool.put([b"5"])
    assert contents(spool) == [b"2", b"3", b"5"]


def test_a_folder_in_place_of_which_something_else_lies_is_told(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file", encoding="utf-8")
    spool = make(tmp_path)
    for attempt in (lambda: spool.put([b"1"]), spool.check):
        with pytest.raises(SpoolUnusable):
            attempt()


def test_a_folder_that_is_removed_is_made_again(tmp_path: Path) -> None:
    spool = make(tmp_path)
    spool.put([b"1"])
    spool.waiting()[0].unlink()
    spool.folder.rmdir()
    assert spool.waiting() == []
    assert spool.is_empty()
    assert spool.state().waiting == 0
    spool.put([b"2"])
    assert contents(spool) == [b"2"]


def test_drafts_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    spool = make(tmp_path)
    spool.put([b"1"])
    torn, fresh = spool.folder / "1-dead-1.tmp", spool.folder / "1-alive-1.tmp"
    for draft in (torn, fresh):
        draft.write_bytes(b"{")
    long_ago = time.time() - 2 * ABANDONED_SECONDS
    os.utime(torn, (long_ago, long_ago))
    assert contents(spool) == [b"1"]  # neither is a hint
    spool.tidy()
    assert (torn.exists(), fresh.exists()) == (False, True)
    assert contents(spool) == [b"1"]


def test_what_is_set_aside_does_not_wait_and_is_counted(tmp_path: Path) -> None:
    spool = make(tmp_path)
    spool.put([b"1", b"2"])
    spool.set_aside(spool.waiting()[0])
    assert contents(spool) == [b"2"]
    assert not spool.is_empty()
    state = spool.state()
    assert (state.waiting, state.bad, state.size_bytes) == (1, 1, 2 * BLOCK_BYTES)
    assert 0 <= state.oldest_seconds < 60


def test_one_process_at_a_time_drains(tmp_path: Path) -> None:
    spool = make(tmp_path)
    spool.put([b"1"])
    with spool.alone() as first, make(tmp_path).alone() as second:
        assert (first, second) == (True, False)
    with make(tmp_path).alone() as later:
        assert later


def _write_many(folder: str, count: int) -> None:
    spool = module.Spool(Path(folder), max_files=1_000, max_bytes=2**30)
    for number in range(count):
        spool.put([f"{os.getpid()} {number:03d}".encode()])


def test_two_processes_write_to_one_folder_and_lose_nothing(tmp_path: Path) -> None:
    spool = make(tmp_path)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(str(spool.folder), 50)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
    assert [writer.exitcode for writer in writers] == [0, 0]
    found = [content.decode().split() for content in contents(spool)]
    assert len(found) == 100
    for pid in {pid for pid, _ in found}:  # each one's in the order in which it wrote them
        assert [number for who, number in found if who == pid] == [f"{n:03d}" for n in range(50)]
