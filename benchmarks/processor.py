"""Processor time of the processes that are measured, as the kernel counts it: user and system, all of their children within.

The rule: time is taken from the processes themselves and not from the clock. So it says what a hint costs also where others use
the same cores.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import psutil


@contextlib.contextmanager
def metered(roots: Mapping[str, int]) -> Iterator[dict[str, float]]:
    """Yield a dict that has, after the block, the seconds of each part: of its process ``roots[part]`` and all below it."""
    found: dict[str, float] = {}
    before = {part: _seconds(pid) for part, pid in roots.items()}
    yield found
    found.update({part: _seconds(pid) - before[part] for part, pid in roots.items()})


def _seconds(pid: int) -> float:
    """Of a process, those of its descendants that live, and those that ended and were waited for."""
    root = psutil.Process(pid)
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # then its parent has it among its ended children
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total
