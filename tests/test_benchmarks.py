"""The benchmarks run, lose nothing, and say so. How fast it was is not asked: that is the machine's affair."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BENCH_SECONDS = 240
CONTENDERS = {"cardsync", "pgbench, the same row"}


def test_a_tiny_round_of_each_counts_every_acknowledged_hint_in_the_table() -> None:
    arguments = ["--only", "hints", "--only", "forgetting", "--rounds", "1", "--seconds", "0.5", "--json"]
    without = ["--without-django", "--without-worker"]
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), *arguments, *without]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BENCH_SECONDS, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    found = json.loads(done.stdout)
    assert set(found["machine"]["postgresql_settings"].values()) == {"on"}
    assert set(found["hints"]["contenders"]) == CONTENDERS
    for rows in (*found["hints"]["rows"].values(), found["forgetting"]["rows"]):
        assert rows["stored"] == rows["acknowledged"] > 0
    (beside,) = found["forgetting"]["beside"]["rounds"]
    assert min(beside["content"], beside["hint"]) > 0
