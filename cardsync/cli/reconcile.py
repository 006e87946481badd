"""``cardsync reconcile``: bring one customer, or all of them, in line with Ottu's list, in this process.

Thin: one customer is ``stories.reconcile_now``, all of them are ``stories.resync``, which counts as a sweep and goes on where an
interrupted one stopped.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click
from sqlalchemy import Engine

from cardsync import logs, metrics_multiprocess
from cardsync.cli import console
from cardsync.core.cards import ENVIRONMENTS, Environment, is_customer_id
from cardsync.core.connections import AT_WORK
from cardsync.errors import Misconfigured
from cardsync.settings import Settings
from cardsync.store import customers, freshness
from cardsync.store.access.secret_keys import fingerprint_key

if TYPE_CHECKING:  # the stories choose the place of their metrics at import, which is after the settings are read
    from cardsync.ottu import OttuClient
    from cardsync.store.ops.resyncs import Resync
    from cardsync.stories.reconcile import ReconcilePolicy
    from cardsync.stories.resync import ResyncResult, Step


@click.command()
@click.option("--environment", type=click.Choice(ENVIRONMENTS), help="The customer's environment.")
@click.option("--customer", "customer_id", help="The customer's id.")
@click.option("--all", "everybody", is_flag=True, help="All customers, in the order in which they came.")
@click.option(
    "--restart", is_flag=True, help="With --all: begin again, instead of going on with an interrupted resync."
)
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

    With --all it is a full resync: it uses the budget of calls that sweeps have, and waits for it to refill. Interrupted and
    run again, it goes on with the customers that were not looked at since it began.
    """
    if everybody == (customer_id is not None) or everybody == (environment is not None):
        raise click.UsageError("give --environment and --customer, or --all")
    if not everybody and (restart or max_wait is not None):
        raise click.UsageError("--restart and --max-wait go with --all")
    loaded = console.load("database", "secret", "ottu")
    if loaded.ottu_cards_api == "unavailable":
        raise Misconfigured("OTTU_CARDS_API is unavailable: there is no list to go by")
    metrics_multiprocess.prepare(loaded.data_dir)
    logs.configure(loaded.model_copy(update={"log_level": "error"}), "cli")
    with _reconciler(loaded) as reconciler:
        if environment is not None and customer_id is not None:
            if not is_customer_id(customer_id):
                raise click.BadParameter("must be 1 to 64 storable characters", param_hint="--customer")
            _one(reconciler, environment, customer_id, as_json)
        else:
            _all(reconciler, _threads(loaded), restart, max_wait, as_json)


def _threads(loaded: Settings) -> int:
    """Each has a connection of its own, so there are no more than a worker's threads that may hold one."""
    return min(loaded.worker_threads, AT_WORK)


@dataclass(frozen=True, slots=True)
class _Reconciler:
    """What a reconciliation needs."""

    engine: Engine
    ottu: OttuClient
    policy: ReconcilePolicy


@contextmanager
def _reconciler(loaded: Settings) -> Iterator[_Reconciler]:
    from cardsync.ottu import OttuClient
    from cardsync.stories.reconcile import ReconcilePolicy

    with console.engine(loaded, connections=_threads(loaded) + 1) as engine:
        with engine.begin() as connection:
            key = fingerprint_key(connection, loaded.key_ring())  # binds it, if this is the first to write cards
        client = OttuClient(loaded)
        try:
            yield _Reconciler(engine, client, ReconcilePolicy.of(loaded, key))
        finally:
            client.close()


def _one(reconciler: _Reconciler, environment: Environment, customer_id: str, as_json: bool) -> None:
    from cardsync.stories.reconcile_now import reconcile_now

    with reconciler.engine.begin() as connection:
        customer = customers.touch(connection, environment, customer_id).customer
    result = reconcile_now(reconciler.engine, reconciler.ottu, customer, reconciler.policy)
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
    from cardsync.stories.resync import ResyncPolicy, begin, resync

    on, resumed = begin(reconciler.engine, by=console.os_user()[:100], restart=restart)
    if resumed:
        began = console.rfc3339(on.began_at)
        console.note(f"Going on with the resync that {on.began_by} began at {began} (--restart begins again).")
    policy = ResyncPolicy(reconciler.policy, threads, max_wait)
    stopping = threading.Event()
    with console.told_to_stop(stopping), console.progress("customers", on.expected, time_to_go=False) as advance:
        shown = 0

        def told(step: Step) -> None:
            nonlocal shown
            advance(step.looked_at - shown, _remark(step))
            shown = step.looked_at

        result = resync(reconciler.engine, reconciler.ottu, policy, on, stopping=stopping, told=told)
    _report(on, resumed, result, as_json)


def _remark(step: Step) -> str:
    parts = [f"{step.calls_left} calls left"]
    if step.seconds_to_go is not None:
        parts.append(f"{console.duration(step.seconds_to_go)} to go")
    if step.waiting_because is not None:
        parts.append(f"waiting: {step.waiting_because}")
    return ", ".join(parts)


def _report(on: Resync, resumed: bool, result: ResyncResult, as_json: bool) -> None:
    facts = {"began_at": on.began_at, "resumed": resumed, "expected": on.expected, **asdict(result)}
    if as_json:
        console.print_json(facts)
    else:
        console.print_facts(facts)
    wrong = [f"{result.failed} customers failed"] if result.failed else []
    wrong += [f"{result.not_reached} not reached: {result.stopped_because}"] if result.not_reached else []
    wrong += (
        [f"removals of {result.removals_held} customers are held; see: cardsync brake show"]
        if result.removals_held
        else []
    )
    if wrong:
        console.fail("; ".join(wrong))
