"""Figures out of rounds: medians, the spread beside them, ratios pair by pair, and the machine they belong to.

The rule: absolute figures of a busy machine say little, so contenders are measured in turn (A B C, C B A, ...) and each
round of one is set against the same round of the other. The ratio shown is the median of those, with the lowest and highest.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final, TypeVar

from benchmarks.load import Measured

PACKAGES: Final = ("granian", "sqlalchemy", "psycopg", "flask", "celery", "ottu-py", "django", "gunicorn")
Figures = dict[str, float]
Contender = TypeVar("Contender")


def of_round(measured: Measured) -> Figures:
    """One round in figures; times in milliseconds, processor time for one hint."""
    return {
        "per_second": measured.acknowledged / measured.seconds,
        "p50_ms": percentile(measured.latencies, 0.50) * 1_000,
        "p99_ms": percentile(measured.latencies, 0.99) * 1_000,
        "max_ms": max(measured.latencies) * 1_000,
        **{f"{part}_processor_ms": s / measured.acknowledged * 1_000 for part, s in measured.processor.items()},
    }


def in_turn(contenders: Sequence[Contender], rounds: int) -> Iterator[tuple[int, Contender]]:
    """Yield the number of each round and its contenders, every second round in the opposite order: A B, B A, A B, ...

    So a machine that gets slower or quicker meanwhile favours neither.
    """
    for number in range(1, rounds + 1):
        for contender in contenders if number % 2 else reversed(contenders):
            yield number, contender


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def medians(rounds: Sequence[Figures]) -> Figures:
    """Each figure's median over the rounds, and the lowest and highest rate."""
    found = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
    rates = [r["per_second"] for r in rounds]
    return {**found, "lowest_per_second": min(rates), "highest_per_second": max(rates)}


def ratio(rounds: Sequence[Figures], others: Sequence[Figures], name: str = "per_second") -> Figures:
    """How many times the other's figure, round by round: the median, the lowest, the highest."""
    pairs = [a[name] / b[name] for a, b in zip(rounds, others, strict=True)]
    return {"median": statistics.median(pairs), "lowest": min(pairs), "highest": max(pairs)}


def as_times(found: Figures | None) -> str:
    """A ratio with its spread, as a table shows it."""
    return f"{found['median']:.2f} x ({found['lowest']:.2f} to {found['highest']:.2f})" if found else ""


def machine(postgres_version: str, settings: Mapping[str, str]) -> dict[str, Any]:
    """What the figures belong to. The load is that of the minute before: others' work shows in every figure."""
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "postgresql": postgres_version,
        "postgresql_settings": dict(settings),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except ModuleNotFoundError:
        return None
