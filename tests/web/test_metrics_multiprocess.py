"""The figures of processes that have ended go when another starts, whichever host they were of; those of others stay."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

COUNTING = """
import os, socket, sys
socket.gethostname = lambda: sys.argv[2]
from pathlib import Path
from cardsync import metrics_multiprocess
metrics_multiprocess.prepare(Path(sys.argv[1]))
from cardsync.metrics import RINGS
RINGS.labels("sent").inc()  # in the parent too
if "fork" not in sys.argv or os.fork() == 0:
    RINGS.labels("sent").inc()
    print(os.getpid(), flush=True)
sys.stdin.read()
"""


class Counter:
    """A process that counts something and then waits; ``host`` is the name it believes its host to have."""

    def __init__(self, folder: Path, host: str, *more: str) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PROMETHEUS_")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", COUNTING, str(folder), host, *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert self.process.stdout is not None
        self.name = f"{host}-{int(self.process.stdout.readline())}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it; a fork of it reads to the end of its input, and ends too."""
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Counter]]:
    """Two processes of other hosts."""
    counters = [Counter(tmp_path, host) for host in ("container-a", "container-b")]
    yield counters
    for counter in counters:
        counter.close()


def figures(folder: Path) -> set[str]:
    """The processes whose figures are there."""
    return {path.stem.split("_", 1)[1] for path in (folder / "metrics").glob("counter_*.db")} - {"ended"}


def test_a_replaced_containers_figures_go_and_a_living_ones_stay(tmp_path: Path, started: list[Counter]) -> None:
    first, second = started
    assert figures(tmp_path) == {first.name, second.name}
    first.kill()
    third = Counter(tmp_path, "container-c")
    started.append(third)
    assert figures(tmp_path) == {second.name, third.name}
    assert not list((tmp_path / "metrics").glob(f"{first.name}*"))


def test_a_fork_outlives_its_parents_figures_with_its_own(tmp_path: Path, started: list[Counter]) -> None:
    forked = Counter(tmp_path, "container-c", "fork")
    started.append(forked)
    assert forked.name != f"container-c-{forked.process.pid}"
    forked.kill()
    started.append(Counter(tmp_path, "container-d"))
    assert forked.name in figures(tmp_path)


READING = """
import sys
from pathlib import Path
from cardsync import metrics_multiprocess
metrics_multiprocess.prepare(Path(sys.argv[1]))
from cardsync.web.ops.metrics import _counters
print(_counters().decode())
"""


def rings(folder: Path) -> float:
    """What a further process shows of all of them."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PROMETHEUS_")}
    done = subprocess.run(
        [sys.executable, "-c", READING, str(folder)], env=environment, capture_output=True, text=True, check=True
    )
    (line,) = (one for one in done.stdout.splitlines() if one.startswith('cardsync_rings_total{outcome="sent"}'))
    return float(line.split()[1])


def test_a_counter_never_falls_when_a_process_ends_or_another_takes_its_place(
    tmp_path: Path, started: list[Counter]
) -> None:
    assert rings(tmp_path) == 4  # two of each
    for counter in started:
        counter.kill()
    assert rings(tmp_path) == 4
    started.append(Counter(tmp_path, "container-c"))
    assert rings(tmp_path) == 6
    started[-1].kill()
    assert [rings(tmp_path), rings(tmp_path)] == [6, 6]
