"""The third question: how many customers a second does ``cardsync customers import`` make known, and in how much memory?

A CSV of invented customers in no order, imported by the command as a user runs it, into an empty database; then again, which
changes nothing; and beside it the way before COPY (``arrays``). The database counts what is there; the kernel says what the
process held at most.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks import figures, stack
from benchmarks.checkouts import HERE, ROOT, Checkout
from benchmarks.stack import Ground

STRIDE: Final = 7_919_000_003  # a prime: each customer once, far from the one before
ARRAYS: Final = (sys.executable, str(ROOT / "benchmarks" / "arrays.py"))
OURS, AGAIN, BEFORE = "cardsync customers import", "the same file again", "arrays, without COPY"


class LostCustomersError(Exception):
    """Not every customer of the file is in its table."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The file's lines, and how often it is read."""

    lines: int = 300_000
    rounds: int = 3
    against: Checkout | None = None


def run(ground: Ground, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure. Raises ``LostCustomersError``."""
    path = ground.folder / "customers.csv"
    _write(path, plan.lines)
    rounds: dict[str, list[dict[str, float]]] = {}
    for number in range(1, plan.rounds + 1):
        made = [
            ground.database(f"imports_{number}", schema_of=HERE),
            ground.database(f"arrays_{number}", schema_of=HERE),
        ]
        ours, before = made
        arguments = ("customers", "import", str(path), "--json")
        ways = [
            (OURS, ours, HERE, HERE.command(*arguments)),
            (AGAIN, ours, HERE, HERE.command(*arguments)),
            (BEFORE, before, HERE, (*ARRAYS, before, str(path))),
        ]
        if plan.against:
            made.append(ground.database(f"against_{number}", schema_of=plan.against))
            ways.append((plan.against.name, made[-1], plan.against, plan.against.command(*arguments)))
        for name, database_url, of, command in ways:
            environment = stack.environment_of(ground.settings(database_url), of)
            found = _measure(ground, command, environment, plan.lines)
            stored = stack.value(database_url, "SELECT count(*) FROM cardsync.customers")
            if stored != plan.lines:
                raise LostCustomersError(f"{name}: {plan.lines} lines, {stored} customers")
            rounds.setdefault(name, []).append(found)
            say(f"round {number} of {plan.rounds}: {name}: {found['per_second']:,.0f} lines a second")
        for database_url in made:  # 10 million customers take two gigabytes
            ground.postgres.drop_database(urlsplit(database_url).path[1:])
    return {
        "plan": {"lines": plan.lines, "rounds": plan.rounds, "file_bytes": path.stat().st_size},
        "ways": {name: {"rounds": r, **_summary(r)} for name, r in rounds.items()},
        "ratios": {name: figures.ratio(rounds[OURS], r) for name, r in rounds.items() if name not in (OURS, AGAIN)},
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
    peak = 0.0
    began = time.monotonic()
    with (
        log.open("wb") as output,
        subprocess.Popen(arguments, env=environment, stdout=output, stderr=output) as child,
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


def show(console: Console, found: dict[str, Any]) -> None:
    """Print the figures as a table."""
    plan = found["plan"]
    console.print(
        f"\nImports: {plan['lines']:,} lines ({plan['file_bytes'] / 1e6:,.0f} MB), rounds in turn: {plan['rounds']}."
    )
    table = Table("", box=SIMPLE)
    for name in ("lines a second", "seconds", "peak MB", "cardsync is"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in found["ways"].items():
        cells = (f"{row['per_second']:,.0f}", f"{row['seconds']:,.1f}", f"{row['peak_megabytes']:,.0f}")
        table.add_row(name, *cells, figures.as_times(found["ratios"].get(name)))
    console.print(table)
