"""``cardsync reconcile``: bring one customer, or all of them, in line with Ottu's list, in this process.

The rules: nobody's ticket is broken: who is being reconciled by a worker is waited for. A walk over all customers counts as a
sweep, and goes on where an interrupted one stopped (``cardsync.walk``).
"""

from __future__ import annotations

import datetime as dt
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import click
from sqlalchemy import Engine

from cardsync import logs, metrics_files
from cardsync.cli import console
from cardsync.core.cards import ENVIRONMENTS, Environment, is_customer_id
from cardsync.errors import Misconfigured
from cardsync.settings import Settings
from cardsync.store import budget, customers, freshness, gate, operator
from cardsync.store.secret import check_secret

if TYPE_CHECKING:  # the stories choose the place of their metrics at import, which is after the settings are read
    from cardsync.ottu import OttuClient
    from cardsync.reconcile import ReconcilePolicy, Result
    from cardsync.store.walks import Walk
    from cardsync.walk import Step, Walked

POLL_SECONDS: Final = 0.1
WAIT_BEYOND_LEASE_SECONDS: Final = 5.0  # a ticket of another process ends with its lease; then it is ours to take
PAUSE_WAIT_SECONDS: Final = 120.0  # a pause that is longer than that is reported, not waited for


@click.command()
@click.option("--environment", type=click.Choice(ENVIRONMENTS), help="The customer's environment.")
@click.option("--customer", "customer_id", help="The customer's id.")
@click.option("--all", "everybody", is_flag=True, help="All customers, in the order in which they came.")
@click.option("--restart", is_flag=True, help="With --all: begin anew, where an interrupted pass would go on.")
@click.option(
    "--max-wait",
    type=click.FloatRange(0),
    help="With --all: seconds to wait for a call that may be made; else no bound.",
)
@console.json_option
def reconcile(
    environment: Environment | None,
    customer_id: str | None,
    everybody: bool,
    restart: bool,
    max_wait: float | None,
    as_json: bool,
) -> None:
    """Bring one customer, or all of them, in line with Ottu's list, now.

    A pass over all uses the budget of calls that sweeps have, and waits for it to refill. Interrupted and run again, it goes
    on with those whom nobody has looked at since it began.
    """
    if everybody == (customer_id is not None) or everybody == (environment is not None):
        raise click.UsageError("give --environment and --customer, or --all")
    if not everybody and (restart or max_wait is not None):
        raise click.UsageError("--restart and --max-wait go with --all")
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
            _all(reconciler, loaded.worker_threads, restart, max_wait, as_json)


@dataclass(frozen=True, slots=True)
class _Reconciler:
    """What one reconciliation needs."""

    engine: Engine
    ottu: OttuClient
    policy: ReconcilePolicy

    def bring_in_line(self, customer: int) -> Result:
        """Mark the customer and reconcile it, or wait until another process has done so since this began."""
        with self.engine.begin() as connection:
            began = operator.moment(connection)
            customers.mark_dirty(connection, customer, evidence_no=None, lane="read")
            operator.hurry(connection, customer, lane="read")
        deadline = time.monotonic() + self.policy.lease_seconds + WAIT_BEYOND_LEASE_SECONDS
        while True:
            result = self._try(customer, began)
            if result.outcome not in ("not_due", "superseded") or time.monotonic() > deadline:
                return result
            time.sleep(POLL_SECONDS)

    def _try(self, customer: int, began: dt.datetime) -> Result:
        from cardsync.reconcile import Result, reconcile

        with self.engine.begin() as connection:
            if operator.reconciled_since(connection, customer, began):
                return Result("unchanged")
            operator.hurry(connection, customer, lane="read")
        jitter = random.random()  # noqa: S311  (spreads retries, no secret)
        return reconcile(self.engine, self.ottu, customer, self.policy, jitter=jitter)

    def wait_while_paused(self) -> bool:
        """Wait until the gate before Ottu opens; false if that takes long, or the budget is what is missing."""
        deadline = time.monotonic() + PAUSE_WAIT_SECONDS
        while time.monotonic() < deadline:
            with self.engine.connect() as connection:
                wait = gate.seconds_to_wait(connection, "read")
                left = budget.calls_left(connection, daily_calls=self.policy.daily_calls, lane="read")
            if not wait:
                return left > 0
            time.sleep(POLL_SECONDS)
        return False


@contextmanager
def _reconciler(loaded: Settings) -> Iterator[_Reconciler]:
    from cardsync.ottu import OttuClient
    from cardsync.reconcile import ReconcilePolicy

    with console.engine(loaded, connections=loaded.worker_threads + 1) as engine:
        with engine.begin() as connection:
            check_secret(connection, loaded.secret_bytes())  # binds it, if this is the first to write cards
        client = OttuClient(loaded)
        try:
            yield _Reconciler(engine, client, ReconcilePolicy.of(loaded))
        finally:
            client.close()


def _one(reconciler: _Reconciler, environment: Environment, customer_id: str, as_json: bool) -> None:
    with reconciler.engine.begin() as connection:
        customer = customers.touch(connection, environment, customer_id).customer
    result = reconciler.bring_in_line(customer)
    if result.outcome == "paused" and reconciler.wait_while_paused():
        result = reconciler.bring_in_line(customer)
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


def _all(reconciler: _Reconciler, threads: int, restart: bool, max_wait: float | None, as_json: bool) -> None:
    from cardsync.walk import WalkPolicy, begin, walk

    on, resumed = begin(reconciler.engine, by=console.os_user()[:100], restart=restart)
    if resumed:
        began = console.rfc3339(on.began_at)
        console.note(f"Going on with the pass that {on.began_by} began at {began} (--restart begins anew).")
    policy = WalkPolicy(reconciler.policy, threads, max_wait)
    with _told_to_stop() as stopping, console.progress("customers", on.expected, time_to_go=False) as advance:
        shown = 0

        def told(step: Step) -> None:
            nonlocal shown
            advance(step.looked_at - shown, _remark(step))
            shown = step.looked_at

        walked = walk(reconciler.engine, reconciler.ottu, policy, on, stopping=stopping, told=told)
    _report(on, resumed, walked, as_json)


@contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second one ends the process as it would any other."""
    stopping = threading.Event()
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}

    def stop(_number: int, _frame: object) -> None:
        stopping.set()
        for kind, handler in before.items():
            signal.signal(kind, handler)

    for kind in before:
        signal.signal(kind, stop)
    try:
        yield stopping
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _remark(step: Step) -> str:
    parts = [f"{step.calls_left} calls left"]
    if step.seconds_to_go is not None:
        parts.append(f"{console.duration(step.seconds_to_go)} to go")
    if step.waiting_because is not None:
        parts.append(f"waiting: {step.waiting_because}")
    return ", ".join(parts)


def _report(on: Walk, resumed: bool, walked: Walked, as_json: bool) -> None:
    facts = {"began_at": on.began_at, "resumed": resumed, "expected": on.expected, **asdict(walked)}
    if as_json:
        console.print_json(facts)
    else:
        console.print_facts(facts)
    wrong = [f"{walked.failed} customers failed"] if walked.failed else []
    wrong += [f"{walked.not_reached} not reached: {walked.stopped_because}"] if walked.not_reached else []
    wrong += (
        [f"removals of {walked.removals_held} customers are held; see: cardsync brake show"]
        if walked.removals_held
        else []
    )
    if wrong:
        console.fail("; ".join(wrong))
