"""What the doctor says of the spool: whether hints can wait there, and whether they would last."""

from __future__ import annotations

from pathlib import Path

import pytest

from cardsync.cli.doctor import disk
from cardsync.settings import Settings
from cardsync.spool import Spool
from tests.test_spool import rows


def mounts(folder: Path, kind: str) -> Path:
    """A table of mounts in which a folder is on a file system of this kind, and a folder in it on another one."""
    table = folder / "mountinfo"
    escaped = str(folder.resolve()).replace(" ", r"\040")
    table.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        f"36 22 0:3 / {escaped} rw - {'xfs' if kind != 'xfs' else 'ext4'} /dev/sdb1 rw\n"
        f"37 22 0:4 / {escaped} rw,nosuid shared:7 master:1 - {kind} none rw\n"
        f"38 22 0:5 / {escaped}elsewhere rw - btrfs /dev/sdc1 rw\n",
        encoding="utf-8",
    )
    return table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "a folder"
    made.mkdir(mode=0o700)
    return made


def settings(folder: Path, **overrides: object) -> Settings:
    return Settings.model_validate({"data_dir": folder / "data", "spool_max_bytes": 4_096, **overrides})


@pytest.mark.parametrize(("kind", "status"), [("ext4", "ok"), ("tmpfs", "warning"), ("overlay", "warning")])
def test_the_disk_must_last(folder: Path, kind: str, status: str) -> None:
    check = disk.spool(settings(folder), mounts=mounts(folder, kind))
    assert (check.status, kind in check.found) == (status, True)
    assert (check.advice is None) == (status == "ok")


def test_where_the_kind_of_disk_cannot_be_told_it_says_so(folder: Path) -> None:
    check = disk.spool(settings(folder), mounts=folder / "no-such-file")
    assert check.status == "ok"
    assert "cannot be told" in check.found


def test_what_waits_and_what_was_refused_is_counted(folder: Path) -> None:
    spool = Spool(folder / "data" / "spool", max_files=9, max_bytes=2**20)
    spool.put(rows(1, 2))
    given = settings(folder, spool_max_bytes=2**20)
    assert disk.spool(given, mounts=mounts(folder, "ext4")).found.startswith("2 hints wait")
    (file,) = spool.waiting()
    spool.set_aside(file, spool.read(file)[0], "refused-23514")
    check = disk.spool(given, mounts=mounts(folder, "ext4"))
    assert (check.status, check.found.split(";")[0]) == ("warning", "1 hints were set aside")
    assert "cardsync spool list" in (check.advice or "")


def test_no_room_a_wrong_mode_and_a_folder_that_is_none_are_failures(folder: Path) -> None:
    spool = folder / "data" / "spool"
    Spool(spool, max_files=9, max_bytes=2**20).put(rows(1))
    assert disk.spool(settings(folder)).status == "failed"
    spool.chmod(0o755)
    assert "open to other users" in disk.spool(settings(folder, spool_max_bytes=2**20)).found
    for file in spool.iterdir():
        file.unlink()
    spool.rmdir()
    spool.write_text("in the way", encoding="utf-8")
    assert disk.spool(settings(folder)).status == "failed"


def test_a_disk_with_less_room_than_the_bound_is_told(folder: Path) -> None:
    check = disk.spool(settings(folder, spool_max_bytes=2**40), mounts=mounts(folder, "ext4"))
    assert check.status == "warning"


def test_a_spool_that_is_not_made_yet_is_not_made_by_looking(folder: Path) -> None:
    assert disk.spool(settings(folder), mounts=mounts(folder, "ext4")).status == "ok"
    assert not (folder / "data").exists()
