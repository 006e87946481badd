"""The tasks: a few lines each, arguments are ids only, they call stories.

A lost message is rung for again by the sweep; a doubled one finds nothing left to do.
"""

from __future__ import annotations

import random
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from celery import Celery
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from cardsync.audit import AuditPolicy, audit
from cardsync.bells import Bells
from cardsync.delete import DeletePolicy, Deletes, delete
from cardsync.erase import ERASURES_AT_ONCE, advance
from cardsync.forget import ForgetPolicy, forget
from cardsync.process import HintPolicy, process
from cardsync.reconcile import Lists, ReconcilePolicy, reconcile
from cardsync.settings import Settings
from cardsync.sweep import SweepPolicy, sweep
from workers.app import DELETE_CARD, FORGET_OLD, PROCESS_EVENTS, RECONCILE_CUSTOMER, RUN_SWEEP

log = structlog.get_logger(__name__)


class Ottu(Lists, Deletes, Protocol):
    """Both calls."""


@dataclass(frozen=True, slots=True)
class Hands:
    """What a worker works with. ``ottu`` is ``None`` where Ottu offers no API for cards (KSA)."""

    settings: Settings
    engine: Engine
    ottu: Ottu | None
    bells: Bells


def add_tasks(app: Celery, hands: Hands) -> None:
    """Register the tasks on ``app``, bound to this worker's hands."""
    hints = HintPolicy(hands.settings.secret_bytes(), believed=hands.settings.ottu_cards_api == "unavailable")
    lists = ReconcilePolicy.of(hands.settings)
    deletions = DeletePolicy.of(hands.settings)
    sweeps = SweepPolicy.of(hands.settings)
    ages = ForgetPolicy.of(hands.settings)
    audits = AuditPolicy.of(hands.settings)

    @app.task(name=PROCESS_EVENTS, bind=True)  # type: ignore[untyped-decorator]  # Celery has no types
    def process_events(task: Any, event_ids: list[str]) -> None:
        with _at_the_border(task):
            due = process(hands.engine, [uuid.UUID(i) for i in event_ids], hints, jitter=random.random())  # noqa: S311
            hands.bells.ring_customers(due)

    @app.task(name=RECONCILE_CUSTOMER, bind=True)  # type: ignore[untyped-decorator]  # Celery has no types
    def reconcile_customer(task: Any, customer: int) -> None:
        if hands.ottu is None:
            return
        with _at_the_border(task):
            result = reconcile(hands.engine, hands.ottu, customer, lists, jitter=random.random())  # noqa: S311
            if result.again:
                hands.bells.ring_customers([customer])
            hands.bells.ring_deletions(result.deletions)

    @app.task(name=DELETE_CARD, bind=True)  # type: ignore[untyped-decorator]  # Celery has no types
    def delete_card(task: Any, deletion_id: str) -> None:
        with _at_the_border(task):
            result = delete(hands.engine, hands.ottu, uuid.UUID(deletion_id), deletions, jitter=random.random())  # noqa: S311
            if result.customer is not None:
                hands.bells.ring_customers([result.customer])

    @app.task(name=RUN_SWEEP, bind=True)  # type: ignore[untyped-decorator]  # Celery has no types
    def run_sweep(task: Any) -> None:
        with _at_the_border(task):
            due = sweep(hands.engine, sweeps, fraction=random.random())  # noqa: S311
            hands.bells.ring_events(due.event_ids)
            hands.bells.ring_customers(due.customers)
            hands.bells.ring_deletions(due.deletions)
            hands.bells.ring_deletions(advance(hands.engine, ERASURES_AT_ONCE))
            hands.bells.ring_customers(audit(hands.engine, audits))

    @app.task(name=FORGET_OLD, bind=True)  # type: ignore[untyped-decorator]  # Celery has no types
    def forget_old(task: Any) -> None:
        with _at_the_border(task):
            forget(hands.engine, ages)


@contextmanager
def _at_the_border(task: Any) -> Iterator[None]:
    """Every line that a task logs carries its id; no failure gets past here, and the row that it left is still due.

    Celery would log the failure's text. A database's can quote a row, and a row can hold a token: types and places only.
    """
    with structlog.contextvars.bound_contextvars(task_id=task.request.id):
        try:
            yield
        except DBAPIError as error:
            sqlstate = getattr(error.orig, "sqlstate", None)
            log.warning("task_failed", task=task.name, error=type(error).__name__, sqlstate=sqlstate)
        except Exception as error:  # noqa: BLE001  (a process's border)
            frames = traceback.extract_tb(error.__traceback__)
            where = [f"{f.filename}:{f.lineno} {f.name}" for f in frames[-8:]]
            log.error("task_failed", task=task.name, error=type(error).__name__, where=where)
