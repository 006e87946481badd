"""The third question: how many customers a second does ``cardsync customers import`` make known, and in how much memory?

A CSV of invented customers in no order, imported by the command as a user runs it, into an empty database; then again, which
changes nothing; and beside it the way before COPY (``arrays``). The database counts what is there; the kernel says what the
process held at most.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import figures, stack
from benchmarks.stack import Ground

STRIDE: Final = 7_919_000_003  # a prime: each customer once, far from the one before
ARRAYS: Final = (sys.executable, str(stack.ROOT / "benchmarks" / "arrays.py"))
OURS, AGAIN, BEFORE = "cardsync customers import", "the same file again", "arrays, without COPY"


class LostCustomersError(Exception):
    """Not every customer of the file is in its table."""


@dataclass(frozen=True, slots=True)
class Plan:
    """So many lines, so often."""

    lines: int = 300_000
    rounds: int = 3


def run(ground: Ground, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure. Raises ``LostCustomersError``."""
    path = ground.folder / "customers.csv"
    _write(path, plan.lines)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in (OURS, AGAIN, BEFORE)}
    for number in range(1, plan.rounds + 1):
        ours = ground.database(f"imports_{number}", migrated=True)
        before = ground.database(f"arrays_{number}", migrated=True)
        command = (*stack.COMMAND, "customers", "import", str(path), "--json")
        for name, database_url, arguments in (
            (OURS, ours, command),
            (AGAIN, ours, command),
            (BEFORE, before, (*ARRAYS, before, str(path))),
        ):
            found = _measure(ground, arguments, ground.settings(database_url), plan.lines)
            stored = stack.value(database_url, "SELECT count(*) FROM cardsync.customers")
            if stored != plan.lines:
                raise LostCustomersError(f"{name}: {plan.lines} lines, {stored} customers")
            rounds[name].append(found)
            say(f"round {number} of {plan.rounds}: {name}: {found['per_second']:,.0f} lines a second")
        for database in (ours, before):  # 10 million customers take two gigabytes
            ground.postgres.drop_database(database.rsplit("/", 1)[-1].partition("?")[0])
    return {
        "plan": {"lines": plan.lines, "rounds": plan.rounds, "file_bytes": path.stat().st_size},
        "ways": {name: {"rounds": r, **_summary(r)} for name, r in rounds.items()},
        "ratios": {name: figures.ratio(rounds[OURS], r) for name, r in rounds.items() if name == BEFORE},
    }


def _write(path: Path, lines: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write("environment,customer_id\n")
        file.writelines(f"production,customer-{number * STRIDE % lines:09d}\n" for number in range(lines))


def _measure(
    ground: Ground, arguments: tuple[str, ...], environment: Mapping[str, str], lines: int
) -> dict[str, float]:
    """Run one process to its end: its lines a second, and the most memory that it held."""
    log = ground.folder / "imports.log"
    own = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "PYTHONPATH": str(stack.ROOT)}
    peak = 0.0
    began = time.monotonic()
    with (
        log.open("wb") as output,
        subprocess.Popen(arguments, env=own | environment, stdout=output, stderr=output) as child,
    ):
        while child.poll() is None:
            peak = max(peak, _peak_megabytes(child.pid))
            time.sleep(stack.POLL_SECONDS)
    seconds = time.monotonic() - began
    if child.returncode != 0:
        raise LostCustomersError(log.read_text(encoding="utf-8")[-2_000:])
    return {"per_second": lines / seconds, "seconds": seconds, "peak_megabytes": peak}


def _peak_megabytes(process_id: int) -> float:
    """The kernel's high-water mark of the program's memory (``wait4`` would tell that of the parent before it, too)."""
    try:
        status = Path(f"/proc/{process_id}/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found.group(1)) * 1_024 / 1e6 if found else 0.0


def _summary(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {**figures.medians(rounds), "peak_megabytes": max(r["peak_megabytes"] for r in rounds)}
