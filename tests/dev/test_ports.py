"""Ports for servers of tests and of ``cardsync dev``: no two processes get the same one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cardsync.dev.servers import ports
from cardsync.dev.servers.ports import BLOCK, PORTS, PortBlocks

BLOCKS = len(PORTS) // BLOCK
SECONDS = 60  # a deadline: only a bug takes so long
SHOW = """
import pathlib, sys
from cardsync.dev.servers.ports import PortBlocks

blocks = PortBlocks(pathlib.Path(sys.argv[1]))
print(*[blocks.next() for _ in range(int(sys.argv[2]))], flush=True)
sys.stdin.read()
"""


def start(folder: Path, number: int) -> tuple[subprocess.Popen[str], list[int]]:
    """A process that takes so many ports, and holds them until its input ends; and the ports."""
    process = subprocess.Popen(
        [sys.executable, "-c", SHOW, str(folder), str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, [int(port) for port in process.stdout.readline().split()]


@pytest.fixture
def blocks_in() -> Iterator[Callable[[Path], PortBlocks]]:
    """Blocks of this process. It would hold their locks to its end: a thousand open files, which later tests would then miss."""
    made: list[PortBlocks] = []

    def make(folder: Path) -> PortBlocks:
        made.append(PortBlocks(folder))
        return made[-1]

    yield make
    for blocks in made:
        for lock in blocks._locks:
            lock.release()


def test_a_process_gives_every_port_out_once(tmp_path: Path, blocks_in: Callable[[Path], PortBlocks]) -> None:
    mine = blocks_in(tmp_path)
    given = [mine.next() for _ in PORTS]
    assert sorted(given) == list(PORTS)


def test_processes_share_no_port_and_what_one_held_comes_back_when_it_ends(
    tmp_path: Path, blocks_in: Callable[[Path], PortBlocks]
) -> None:
    first, held = start(tmp_path, BLOCK + 1)
    second, others = start(tmp_path, BLOCK + 1)
    mine = blocks_in(tmp_path)
    given = [mine.next() for _ in range((BLOCKS - 4) * BLOCK)]
    assert len({*held, *others}) == 2 * (BLOCK + 1)
    assert not {*held, *others} & {*given}
    assert len({*given}) == len(given)

    first.communicate(timeout=SECONDS)
    back = {mine.next() for _ in range(2 * BLOCK)}
    second.communicate(timeout=SECONDS)
    assert {*held} < back


def test_with_no_block_left_any_port_is_better_than_none(
    tmp_path: Path, blocks_in: Callable[[Path], PortBlocks]
) -> None:
    mine, other = blocks_in(tmp_path), blocks_in(tmp_path)
    for _ in PORTS:
        mine.next()
    assert other.next() in PORTS


def test_a_folder_that_cannot_be_used_costs_only_the_promise(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert PortBlocks(tmp_path / "file").next() in PORTS
    assert ports.is_free(ports.free_port())
