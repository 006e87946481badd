"""Locks and private files: who holds a lock, what a killed holder leaves, and who may read what is written."""

from __future__ import annotations

import multiprocessing
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cardsync.files import Lock, LockHeld, is_locked, make_private_folder, write_private

SECONDS = 60  # a deadline: only a bug takes so long
HOLDER = """
import sys
from pathlib import Path
from cardsync.files import Lock
lock = Lock.take(Path(sys.argv[1]), write_holder=True)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_is_held_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    assert not path.exists()
    with Lock.take(path, write_holder=True) as lock:
        assert is_locked(path)
        with pytest.raises(LockHeld) as held:
            Lock.take(path)
        assert held.value.holder == str(os.getpid())
        assert is_locked(path)  # neither the look nor the attempt took it away
    lock.release()
    assert not is_locked(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_kernel_releases_the_lock_of_a_killed_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockHeld, match=f"process {holder.pid}$"):
            Lock.take(path)
        holder.kill()
    Lock.take(path).release()


def test_without_its_holders_id_the_lock_file_stays_empty(tmp_path: Path) -> None:
    with Lock.take(tmp_path / "lock"), pytest.raises(LockHeld, match="process unknown"):
        Lock.take(tmp_path / "lock")
    assert (tmp_path / "lock").stat().st_size == 0


def test_with_patience_a_lock_is_taken_once_it_is_released(tmp_path: Path) -> None:
    first = Lock.take(tmp_path / "lock")
    later = threading.Timer(0.1, first.release)
    later.start()
    with Lock.take(tmp_path / "lock", patience_seconds=SECONDS):
        assert is_locked(tmp_path / "lock")
    later.join()


def test_a_lock_file_that_its_holder_removed_is_made_again(tmp_path: Path) -> None:
    """Else two would hold "the" lock: one on the removed file, one on a new file of that name."""
    path = tmp_path / "lock"
    first = Lock.take(path)

    def end() -> None:
        path.unlink()
        first.release()

    later = threading.Timer(0.1, end)
    later.start()
    with Lock.take(path, patience_seconds=SECONDS):
        assert is_locked(path)
    later.join()


def test_of_many_processes_one_at_a_time_holds_a_lock_that_its_holders_remove(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=count_alone, args=(tmp_path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(SECONDS)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "90"


def count_alone(folder: Path) -> None:
    """Thirty times: read a number and write it back one higher, alone."""
    for _ in range(30):
        with Lock.take(folder / "lock", patience_seconds=SECONDS):
            count = folder / "count"
            count.write_text(str(int(count.read_text() if count.exists() else "0") + 1))
            (folder / "lock").unlink()


def test_a_private_file_is_replaced_as_a_whole_and_its_mode_is_never_wider(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)
    (tmp_path / "secret.new").write_text("half of one, from a process that was killed")
    with path.open() as reader:
        write_private(path, "new ä")
        assert reader.read() == "old"
    assert path.read_text(encoding="utf-8") == "new ä"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["secret"]


def test_a_private_folder_is_its_owners_and_an_existing_one_keeps_its_mode(tmp_path: Path) -> None:
    make_private_folder(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o770)
    make_private_folder(shared)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o770
