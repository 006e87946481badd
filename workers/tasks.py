"""The tasks: a few lines each, arguments are ids only, they call stories.

A lost message is rung for again by the sweep; a doubled one finds nothing left to do.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from celery import Celery
from sqlalchemy import Engine

from cardsync.bells import Bells
from cardsync.process import HintPolicy, process
from cardsync.reconcile import Lists, ReconcilePolicy, reconcile
from cardsync.settings import Settings
from cardsync.sweep import SweepPolicy, sweep
from workers.app import PROCESS_EVENTS, RECONCILE_CUSTOMER, RUN_SWEEP

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Hands:
    """What a worker works with. ``ottu`` is ``None`` where Ottu offers no list of cards (KSA)."""

    settings: Settings
    engine: Engine
    ottu: Lists | None
    bells: Bells


def add_tasks(app: Celery, hands: Hands) -> None:
    """Register the tasks on ``app``, bound to this worker's hands."""
    hints = HintPolicy(hands.settings.secret_bytes(), believed=hands.settings.ottu_cards_api == "unavailable")
    lists = ReconcilePolicy.of(hands.settings)
    sweeps = SweepPolicy.of(hands.settings)

    @app.task(name=PROCESS_EVENTS, bind=True)  # type: ignore[untyped-decorator]  # Celery has no types
    def process_events(task: Any, event_ids: list[str]) -> None:
        with _task_id(task):
            due = process(hands.engine, [uuid.UUID(i) for i in event_ids], hints, jitter=random.random())  # noqa: S311
            hands.bells.ring_customers(due)

    @app.task(name=RECONCILE_CUSTOMER, bind=True)  # type: ignore[untyped-decorator]  # Celery has no types
    def reconcile_customer(task: Any, customer: int) -> None:
        if hands.ottu is None:
            return
        with _task_id(task):
            result = reconcile(hands.engine, hands.ottu, customer, lists, jitter=random.random())  # noqa: S311
            if result.again:
                hands.bells.ring_customers([customer])

    @app.task(name=RUN_SWEEP, bind=True)  # type: ignore[untyped-decorator]  # Celery has no types
    def run_sweep(task: Any) -> None:
        with _task_id(task):
            due = sweep(hands.engine, sweeps, fraction=random.random())  # noqa: S311
            hands.bells.ring_events(due.event_ids)
            hands.bells.ring_customers(due.customers)


@contextmanager
def _task_id(task: Any) -> Iterator[None]:
    """Every line that a task logs carries its id."""
    with structlog.contextvars.bound_contextvars(task_id=task.request.id):
        yield
