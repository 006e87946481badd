"""What can one worker work off: hints a second that become active cards, its processor time and its statements for one hint?

A worker that has nothing to do is stopped (SIGSTOP), so that its start is no part of the figure. Hints of cards that the stand-in
for Ottu lists are stored by the web, which then ends. The worker goes on, and the time runs until the last card is active. So it
has the cores to itself, but for PostgreSQL and the stand-in; that no hint is lost is counted in the registry. Statements are
counted in the server's log in a round of their own, which is not timed; those of the sweep are among them.
"""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import psutil
import psycopg
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks import figures, stack, stand_in
from benchmarks.checkouts import HERE, Checkout
from benchmarks.figures import Figures
from benchmarks.load import drive
from benchmarks.processor import metered
from benchmarks.stack import Ground, Running

WARM_UP: Final = 100  # hints: connections are open, statements prepared
COUNTED: Final = 200  # hints of the round in which statements are counted
SEND_SECONDS: Final = 60.0
PATIENCE_SECONDS: Final = 120.0
POLL_SECONDS: Final = 0.05
_STATEMENT: Final = re.compile(rb"LOG:  (?:statement|execute [^:]*): ")
_ACTIVE: Final = "SELECT count(*) FROM registry.active_cards"


class NeverActiveError(Exception):
    """Not every hinted card became active in time."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The number of rounds, and of the hints in each."""

    rounds: int = 6
    hints: int = 1_000
    workers: int = 2
    against: Checkout | None = None


def run(ground: Ground, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure this checkout, and the other one in turn. Raises ``NeverActiveError``."""
    contenders = [_Worker(ground, of) for of in (HERE, *([plan.against] if plan.against else ()))]
    rounds: dict[str, list[Figures]] = {c.name: [] for c in contenders}
    with stand_in.running(ground) as ottu:
        requests: list[bytes] = []
        for number, contender in figures.in_turn(contenders, plan.rounds):
            if contender is (contenders if number % 2 else contenders[::-1])[0]:
                requests = _requests(ottu, WARM_UP + plan.hints, seed=f"round-{number}")
            found = contender.measure(ottu, requests, plan)
            rounds[contender.name].append(found)
            said = f"{found['per_second']:,.0f} a second, {found['worker_processor_ms']:.2f} ms of processor"
            say(f"round {number} of {plan.rounds}: {contender.name}: {said}")
        statements = {}
        requests = _requests(ottu, WARM_UP + COUNTED, seed="counted")
        for contender in contenders:
            statements[contender.name] = contender.statements(ottu, requests, replace(plan, hints=COUNTED))
            say(f"{contender.name}: {statements[contender.name]:.1f} statements for one hint")
    ours = rounds[HERE.name]
    others = {name: r for name, r in rounds.items() if name != HERE.name}
    return {
        "plan": {"rounds": plan.rounds, "hints": plan.hints, "ottu_ms": stand_in.OTTU_SECONDS * 1_000},
        "contenders": {
            name: {"rounds": r, **figures.medians(r), "statements": statements[name]} for name, r in rounds.items()
        },
        "ratios": {name: figures.ratio(ours, r) for name, r in others.items()},
        "ratios_of_processor": {name: figures.ratio(r, ours, "worker_processor_ms") for name, r in others.items()},
    }


def _requests(ottu: str, count: int, *, seed: str) -> list[bytes]:
    return [request for _, request in stand_in.save_cards(ottu, count, seed=seed)]


class _Worker:
    """One worker of a checkout on a database of its own."""

    def __init__(self, ground: Ground, of: Checkout) -> None:
        self.name = of.name
        self._ground, self._of = ground, of
        self._database = f"capacity_{of.label}"
        self._database_url = ground.database(self._database, schema_of=of)

    def measure(self, ottu: str, requests: list[bytes], plan: Plan) -> Figures:
        """Work off the hints of these requests, the warm-up first."""
        with self._waiting(ottu, requests, plan) as (worker, wanted):
            parts = {"worker": worker.pid, "postgresql": _server(self._ground)}
            with metered(parts) as seconds:
                began = time.perf_counter()
                _go_on(worker)
                self._wait_for(wanted)
                took = time.perf_counter() - began
        return {
            "per_second": plan.hints / took,
            **{f"{part}_processor_ms": spent / plan.hints * 1_000 for part, spent in seconds.items()},
        }

    def statements(self, ottu: str, requests: list[bytes], plan: Plan) -> float:
        """How many statements the server ran for one hint, transactions' begin and end among them."""
        log = self._ground.postgres.log_path
        self._say(f"ALTER DATABASE {self._database} SET log_statement = 'all'")
        with self._waiting(ottu, requests, plan) as (worker, wanted):
            before = log.stat().st_size
            _go_on(worker)
            self._wait_for(wanted)
            with log.open("rb") as lines:
                lines.seek(before)
                counted = len(_STATEMENT.findall(lines.read())) / plan.hints
        self._say(f"ALTER DATABASE {self._database} RESET log_statement")
        return counted

    @contextlib.contextmanager
    def _waiting(self, ottu: str, requests: list[bytes], plan: Plan) -> Iterator[tuple[Running, int]]:
        """A warm worker that stands still before hints; and how many cards are active when it has worked them off."""
        environment = self._ground.settings(self._database_url, OTTU_BASE_URL=ottu, OTTU_DAILY_CALLS="10000000")
        before = self._active()
        with contextlib.ExitStack() as running:
            worker = running.enter_context(stack.worker(self._ground, environment, of=self._of))
            with stack.web(self._ground, environment, workers=plan.workers, of=self._of) as (_, port):
                _send(port, requests[:WARM_UP])
                self._wait_for(before + WARM_UP)
                psutil.Process(worker.pid).send_signal(signal.SIGSTOP)
                running.callback(_go_on, worker)
                _send(port, requests[WARM_UP:])
            self._ground.valkey.flush()
            yield worker, before + len(requests)

    def _wait_for(self, wanted: int) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        with self._asking() as connection:
            while (active := self._active(connection)) < wanted:
                if time.monotonic() > deadline:
                    raise NeverActiveError(f"{active} of {wanted} cards became active")
                time.sleep(POLL_SECONDS)

    def _active(self, connection: psycopg.Connection[Any] | None = None) -> int:
        if connection is None:
            with self._asking() as own:
                return self._active(own)
        row = connection.execute(_ACTIVE).fetchone()
        assert row is not None
        return int(row[0])

    def _asking(self) -> psycopg.Connection[Any]:
        """A session that asks how far it is, and whose statements are not counted."""
        return psycopg.connect(self._database_url, autocommit=True, options="-c log_statement=none")

    def _say(self, statement: str) -> None:
        with psycopg.connect(self._ground.postgres.url, autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[call-overload]


def _send(port: int, requests: list[bytes]) -> None:
    drive(("127.0.0.1", port), requests, connections=16, seconds=SEND_SECONDS)


def _go_on(worker: Running) -> None:
    psutil.Process(worker.pid).send_signal(signal.SIGCONT)


def _server(ground: Ground) -> int:
    assert ground.postgres.pid is not None
    return ground.postgres.pid


def show(console: Console, found: dict[str, Any]) -> None:
    """Print the figures as a table."""
    plan = found["plan"]
    console.print(
        f"\nHints that one worker works off: {plan['rounds']} rounds of {plan['hints']:,} in turn, Ottu answers in"
        f" {plan['ottu_ms']:g} ms. Medians (lowest to highest); processor time in ms for one hint."
    )
    table = Table("", box=SIMPLE)
    for name in ("a second", "worker", "PG", "statements", "cardsync is", "and takes"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in found["contenders"].items():
        rate = f"{row['per_second']:,.0f} ({row['lowest_per_second']:,.0f} to {row['highest_per_second']:,.0f})"
        costs = (f"{row[f'{part}_processor_ms']:.2f}" for part in ("worker", "postgresql"))
        processor = found["ratios_of_processor"].get(name)
        less = f"1/{processor['median']:.2f} of it" if processor else ""
        table.add_row(name, rate, *costs, f"{row['statements']:.1f}", figures.as_times(found["ratios"].get(name)), less)
    console.print(table)
