"""The third question: how fast does forgetting clear old rows, and do those who send hints feel it?

``cardsync web`` takes hints at a steady rate on one connection; in every second round a process of its own forgets old rows
meanwhile, run after run without a pause (a real one rests four seconds of five). Rounds with and without it are set against
each other pair by pair. At the end the table must hold every hint that was acknowledged, and no young row more.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

# Run as a file it is the process that forgets; Python then looks beside it for the package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import bodies, figures, stack
from benchmarks.checkouts import HERE
from benchmarks.figures import Figures
from benchmarks.load import Measured, Pace
from benchmarks.stack import Ground, Running
from cardsync import db
from cardsync.settings import Settings
from cardsync.stories.forget import ForgetPolicy, forget

WARM_UP: Final = 100
KINDS: Final = ("content", "hint")
ROWS_A_SECOND: Final = 60_000  # of each kind: more than was ever cleared here
FIRST_RUN_SECONDS: Final = 2.0  # a round begins when the process that forgets is at it


class LostError(Exception):
    """The table does not hold what was acknowledged, or there was nothing left to forget in the middle of a round."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The number of pairs of rounds, the seconds of a round, and the hints in each second."""

    rounds: int = 6
    seconds: float = 3.0
    per_second: float = 100.0
    workers: int = 2

    @property
    def rows(self) -> int:
        """Old rows of each kind to begin with: more than all rounds together clear."""
        return round(ROWS_A_SECOND * self.rounds * (self.seconds + FIRST_RUN_SECONDS))


def run(ground: Ground, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure. Raises ``LostError`` or ``NotAcknowledgedError``."""
    database_url = ground.database("forgetting", schema_of=HERE)
    say(f"putting {2 * plan.rows:,} old notifications into the inbox")
    _put_old_rows(database_url, plan.rows)
    alone: list[Figures] = []
    beside: list[Figures] = []
    with stack.web(ground, ground.settings(database_url), workers=plan.workers) as (_, port):
        acknowledged = _send(port, WARM_UP, plan, "warm-up").acknowledged
        for number in range(1, plan.rounds + 1):
            hints = round(plan.seconds * plan.per_second)
            first = _send(port, hints, plan, f"alone-{number}")
            command = (sys.executable, str(Path(__file__).resolve()), database_url)
            with Running(ground.folder, f"forget-{number}", command, {}) as forgetting:
                forgetting.wait_for_line("hint")
                second = _send(port, hints, plan, f"beside-{number}")
                forgetting.wait_for_output(_has_each_kind)
            alone.append(figures.of_round(first))
            beside.append({**figures.of_round(second), **_cleared(forgetting)})
            acknowledged += first.acknowledged + second.acknowledged
            rate = sum(beside[-1][kind] for kind in KINDS)
            say(f"round {number} of {plan.rounds}: {rate:,.0f} rows a second forgotten")
    ground.valkey.flush()
    stored = stack.value(
        database_url, "SELECT count(*) FROM cardsync.events WHERE received_at > now() - interval '1 day'"
    )
    if stored != acknowledged:
        raise LostError(f"{acknowledged} acknowledged, {stored} stored")
    return {
        "plan": {"rounds": plan.rounds, "seconds": plan.seconds, "per_second": plan.per_second, "rows": plan.rows},
        "rows": {"acknowledged": acknowledged, "stored": stored},
        "alone": {"rounds": alone, **figures.medians(alone)},
        "beside": {"rounds": beside, **figures.medians(beside)},
        "ratios": {name: figures.ratio(beside, alone, name) for name in ("p50_ms", "p99_ms")},
    }


def _put_old_rows(database_url: str, rows: int) -> None:
    """As many settled notifications whose row is to go as such whose content is, of a realistic width; then a quiet table."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        for days in (100, 60):
            connection.execute(
                """
                INSERT INTO cardsync.events (
                    body_hash, received_at, status, kind, environment, customer_id, session_id, reference_number, result,
                    state, payment_type, scheme, key_id, card_id, settled_at, shed_at
                )
                SELECT sha256(convert_to(%(days)s || '-' || n, 'UTF8')),
                       now() - make_interval(days => %(days)s, secs => -n / 100.0),
                       'done', 'payment', 'production', 'customer-' || n %% 50000, repeat(md5(n::text), 2), md5(n::text),
                       'success', 'paid', 'one_off', 'standard', '0123456789ab', gen_random_uuid(), now(),
                       CASE WHEN %(days)s > 90 THEN now() END
                FROM generate_series(1, %(rows)s) AS n
                """,
                {"days": days, "rows": rows},
            )
        connection.execute("VACUUM ANALYZE cardsync.events")
        connection.execute("CHECKPOINT")


def _send(port: int, count: int, plan: Plan, seed: str) -> Measured:
    """Send ``count`` hints on the beat of the clock, one at a time."""
    requests = bodies.posts("/webhooks/ottu", bodies.notifications(count, seed=f"forgetting-{seed}"))
    pace, measured = Pace(("127.0.0.1", port)), Measured()
    began = time.perf_counter()
    try:
        for number, request in enumerate(requests):
            time.sleep(max(0.0, began + number / plan.per_second - time.perf_counter()))
            sent_at, answered_at = pace.send(request)
            measured.latencies.append(answered_at - sent_at)
    finally:
        pace.close()
    measured.acknowledged, measured.seconds = count, time.perf_counter() - began
    return measured


def _cleared(forgetting: Running) -> Figures:
    """Rows a second of each kind that the process cleared. Raises ``LostError`` if it had nothing left to do."""
    runs = _runs(forgetting.output())
    cleared = {kind: sum(run[kind] for run in runs) for kind in KINDS}
    if 0 in cleared.values() or any(sum(run[kind] for kind in KINDS) == 0 for run in runs):
        raise LostError("there was nothing left to forget: begin with more rows")
    seconds = sum(run["seconds"] for run in runs)
    return {kind: count / seconds for kind, count in cleared.items()}


def _has_each_kind(output: str) -> bool:
    """Of one run alone a kind may be missing: on a busy machine its batch is put off, or its time is over before its turn."""
    runs = _runs(output)
    return all(any(run[kind] for run in runs) for kind in KINDS)


def _runs(output: str) -> list[dict[str, float]]:
    """What each run cleared; a line that is not at its end is left out."""
    return [json.loads(line) for line in output.splitlines(keepends=True) if line.endswith("\n")]


def _forget_for_ever(database_url: str) -> None:
    """Forget, run after run, a line for each, until ended."""
    engine, policy = db.make_engine(database_url), ForgetPolicy.of(Settings())
    while True:
        began = time.perf_counter()
        forgotten = forget(engine, policy)
        seconds = time.perf_counter() - began
        print(json.dumps({**{kind: forgotten[kind] for kind in KINDS}, "seconds": seconds}), flush=True)


def show(console: Console, found: dict[str, Any]) -> None:
    """Print the figures as a table."""
    plan, beside = found["plan"], found["beside"]
    console.print(
        f"\nForgetting beside {plan['per_second']:g} hints a second: {plan['rounds']} pairs of rounds of"
        f" {plan['seconds']:g} s. Medians (lowest to highest)."
    )
    table = Table("", box=SIMPLE)
    for name in ("p50 ms", "p99 ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for label, row in (("hints alone", found["alone"]), ("while old rows are forgotten", beside)):
        table.add_row(label, f"{row['p50_ms']:.1f}", f"{row['p99_ms']:.1f}")
    table.add_row("ratio", *(figures.as_times(found["ratios"][name]) for name in ("p50_ms", "p99_ms")))
    console.print(table)
    console.print(f"{beside['content']:,.0f} rows a second shed their content, {beside['hint']:,.0f} a second went.")


if __name__ == "__main__":
    _forget_for_ever(sys.argv[1])
