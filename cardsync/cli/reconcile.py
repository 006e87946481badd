"""``cardsync reconcile``: bring one customer, or all of them, in line with Ottu's list, in this process.

The rules: nobody's ticket is broken: who is being reconciled by a worker is waited for. A pass over all
customers counts as a sweep, so that the brake on removals holds for it too. Each customer is marked before it
is asked for: what an interrupted run leaves is taken up by the workers.
"""

from __future__ import annotations

import datetime as dt
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import click
from sqlalchemy import Engine

from cardsync import logs, metrics_files
from cardsync.cli import console
from cardsync.core.cards import ENVIRONMENTS, Environment, is_customer_id
from cardsync.errors import Misconfigured
from cardsync.settings import Settings
from cardsync.store import customers, freshness, gate, operator

if TYPE_CHECKING:  # the stories choose the place of their metrics at import, which is after the settings are read
    from cardsync.ottu import OttuClient
    from cardsync.reconcile import ReconcilePolicy, Result

PAGE: Final = 500  # customers read at once
POLL_SECONDS: Final = 0.1
WAIT_BEYOND_LEASE_SECONDS: Final = 5.0  # a ticket of another process ends with its lease; then it is ours to take
PAUSE_WAIT_SECONDS: Final = 120.0  # a pause that is longer than that is reported, not waited for
FAILURES_IN_A_ROW: Final = 20  # then it is not the customers: Ottu, or our credentials, are the trouble


@click.command()
@click.option("--environment", type=click.Choice(ENVIRONMENTS), help="The customer's environment.")
@click.option("--customer", "customer_id", help="The customer's id.")
@click.option("--all", "everybody", is_flag=True, help="All customers, in the order in which they came.")
@console.json_option
def reconcile(environment: Environment | None, customer_id: str | None, everybody: bool, as_json: bool) -> None:
    """Bring one customer, or all of them, in line with Ottu's list, now."""
    if everybody == (customer_id is not None) or everybody == (environment is not None):
        raise click.UsageError("give --environment and --customer, or --all")
    loaded = console.load("database", "secret", "ottu")
    if loaded.ottu_cards_api == "unavailable":
        raise Misconfigured("OTTU_CARDS_API is unavailable: there is no list to go by")
    metrics_files.prepare(loaded.data_dir)
    logs.configure(loaded.model_copy(update={"log_level": "error"}), "cli")
    with _reconciler(loaded) as reconciler:
        if environment is not None and customer_id is not None:
            if not is_customer_id(customer_id):
                raise click.BadParameter("must be 1 to 64 storable characters", param_hint="--customer")
            _one(reconciler, environment, customer_id, as_json)
        else:
            _all(reconciler, loaded.worker_threads, as_json)


@dataclass(frozen=True, slots=True)
class _Reconciler:
    """What one reconciliation needs."""

    engine: Engine
    ottu: OttuClient
    policy: ReconcilePolicy
    stopping: threading.Event

    def bring_in_line(self, customer: int, lane: customers.Lane) -> Result:
        """Mark the customer and reconcile it, or wait until another process has done so since this began."""
        with self.engine.begin() as connection:
            began = operator.moment(connection)
            customers.mark_dirty(connection, customer, evidence_no=None, lane=lane)
            operator.hurry(connection, customer, lane=lane)
        deadline = time.monotonic() + self.policy.lease_seconds + WAIT_BEYOND_LEASE_SECONDS
        while True:
            result = self._try(customer, lane, began)
            if result.outcome not in ("not_due", "superseded") or time.monotonic() > deadline:
                return result
            if self.stopping.wait(POLL_SECONDS):
                return result

    def _try(self, customer: int, lane: customers.Lane, began: dt.datetime) -> Result:
        from cardsync.reconcile import Result, reconcile

        with self.engine.begin() as connection:
            if operator.reconciled_since(connection, customer, began):
                return Result("unchanged")
            operator.hurry(connection, customer, lane=lane)
        jitter = random.random()  # noqa: S311  (spreads retries, no secret)
        return reconcile(self.engine, self.ottu, customer, self.policy, jitter=jitter)

    def wait_while_paused(self) -> bool:
        """Wait until the gate before Ottu opens; false if that takes long, or the budget is what is missing."""
        deadline = time.monotonic() + PAUSE_WAIT_SECONDS
        while time.monotonic() < deadline:
            with self.engine.connect() as connection:
                paused = gate.state(connection).paused_until is not None
                left = gate.calls_left(connection, daily_calls=self.policy.daily_calls)
            if not paused:
                return left > 0
            if self.stopping.wait(POLL_SECONDS):
                return False
        return False


@contextmanager
def _reconciler(loaded: Settings) -> Iterator[_Reconciler]:
    from cardsync.ottu import OttuClient
    from cardsync.reconcile import ReconcilePolicy

    with console.engine(loaded, connections=loaded.worker_threads) as engine:
        with engine.begin() as connection:
            gate.check_secret(connection, loaded.secret_bytes())  # binds it, if this is the first to write cards
        client = OttuClient(loaded)
        try:
            yield _Reconciler(engine, client, ReconcilePolicy.of(loaded), threading.Event())
        finally:
            client.close()


def _one(reconciler: _Reconciler, environment: Environment, customer_id: str, as_json: bool) -> None:
    with reconciler.engine.begin() as connection:
        customer = customers.touch(connection, environment, customer_id).customer
    result = reconciler.bring_in_line(customer, "read")
    if result.outcome == "paused" and reconciler.wait_while_paused():
        result = reconciler.bring_in_line(customer, "read")
    with reconciler.engine.connect() as connection:
        fresh = freshness.of(connection, environment, customer_id)
    facts = {
        "environment": environment,
        "customer_id": customer_id,
        "outcome": result.outcome,
        "reconciled_at": fresh.reconciled_at if fresh else None,
        "error": result.error,
    }
    if as_json:
        console.print_json(facts)
    else:
        console.print_facts(facts)
    if result.outcome not in ("changed", "unchanged"):
        console.fail(f"1 customer failed: {result.error or 'another process is at it'}")


@dataclass(slots=True)
class _Tally:
    """What became of a pass so far."""

    expected: int
    seen: int = 0
    changed: int = 0
    failed: int = 0
    failed_in_a_row: int = 0
    stopped_because: str | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, result: Result) -> None:
        """Count one customer, on the thread that reconciled it: an interrupted pass knows all that it did."""
        with self.lock:
            self.seen += 1
            if result.outcome in ("changed", "unchanged"):
                self.changed += result.outcome == "changed"
                self.failed_in_a_row = 0
                return
            self.failed += 1
            self.failed_in_a_row += 1
            if self.failed_in_a_row >= FAILURES_IN_A_ROW:
                self.stopped_because = f"{self.failed_in_a_row} failures in a row, the last: {result.error}"


def _all(reconciler: _Reconciler, threads: int, as_json: bool) -> None:
    with reconciler.engine.begin() as connection:
        gate.begin_pass_if_over(connection)
        tally = _Tally(operator.customers_known(connection))
    executor = ThreadPoolExecutor(threads, "reconcile")
    try:
        _pass_over_all(reconciler, executor, tally)
    except KeyboardInterrupt:
        tally.stopped_because = "interrupted"
    finally:
        reconciler.stopping.set()
        executor.shutdown(cancel_futures=True)  # what runs is bounded by its lease
    _report(reconciler, tally, as_json)


def _pass_over_all(reconciler: _Reconciler, executor: ThreadPoolExecutor, tally: _Tally) -> None:
    with console.progress("customers", tally.expected) as advance:
        after = 0
        while tally.stopped_because is None:
            with reconciler.engine.connect() as connection:
                page = customers.page_of_ids(connection, after=after, limit=PAGE)
                left = gate.calls_left(connection, daily_calls=reconciler.policy.daily_calls)
            if not page:
                return
            after = page[-1]
            for result in executor.map(lambda c: _one_of_all(reconciler, c, tally), page):
                if result is not None:
                    advance(1, f"{left} calls left")


def _one_of_all(reconciler: _Reconciler, customer: int, tally: _Tally) -> Result | None:
    """Reconcile one; ``None`` once the pass is stopped."""
    while tally.stopped_because is None:
        result = reconciler.bring_in_line(customer, "sweep")
        if result.outcome != "paused":
            tally.count(result)
            return result
        if not reconciler.wait_while_paused():
            tally.stopped_because = result.error
    return None


def _report(reconciler: _Reconciler, tally: _Tally, as_json: bool) -> None:
    with reconciler.engine.connect() as connection:
        held = operator.customers_held(connection)
        left = gate.calls_left(connection, daily_calls=reconciler.policy.daily_calls)
    facts = {
        "expected": tally.expected,
        "seen": tally.seen,
        "changed": tally.changed,
        "failed": tally.failed,
        "removals_held": held,
        "calls_left": left,
        "stopped_because": tally.stopped_because,
    }
    if as_json:
        console.print_json(facts)
    else:
        console.print_facts(facts)
    missed = max(0, tally.expected - tally.seen)
    wrong = [f"{tally.failed} customers failed"] if tally.failed else []
    wrong += [f"{missed} not reached: {tally.stopped_because}"] if tally.stopped_because else []
    wrong += [f"removals of {held} customers are held; see: cardsync brake show"] if held else []
    if wrong:
        console.fail("; ".join(wrong))
