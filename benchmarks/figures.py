"""Figures out of rounds: medians, the spread beside them, ratios pair by pair, and the machine they belong to.

The rule: absolute figures of a busy machine say little, so contenders are measured in turn (A B C A B C ...) and each
round of one is set against the same round of the other. The ratio shown is the median of those, with the lowest and highest.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

from benchmarks.load import Measured

PACKAGES: Final = ("granian", "sqlalchemy", "psycopg", "flask", "celery", "ottu-py", "django", "gunicorn")
Figures = dict[str, float]


def of_round(measured: Measured) -> Figures:
    """One round in figures; times in milliseconds."""
    return {
        "per_second": measured.acknowledged / measured.seconds,
        "p50_ms": percentile(measured.latencies, 0.50) * 1_000,
        "p99_ms": percentile(measured.latencies, 0.99) * 1_000,
    }


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
