"""The tasks: a few lines each; a message says that there is work, or that a tick has come, and nothing else.

A lost message costs a moment: the dispatcher looks by itself (``workers.dispatch``), and the next tick is a second away.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import structlog
from celery import Celery

from cardsync.core.brake import Limits
from cardsync.feed_watch import FeedWatch
from cardsync.store import feed
from cardsync.store.seals import CHAINS
from cardsync.stories.ask_agreement import ask_agreements
from cardsync.stories.audit import AuditPolicy, audit
from cardsync.stories.carry_out import carry_out
from cardsync.stories.erase import ERASURES_AT_ONCE, advance
from cardsync.stories.filtered_lists import FilteredListPolicy
from cardsync.stories.forget import ForgetPolicy, forget
from cardsync.stories.inquire import Inquiries, InquiryPolicy, inquire_due
from cardsync.stories.release_deletions import watch_askers
from cardsync.stories.seal import Sealer
from cardsync.stories.sweep import SweepPolicy, sweep
from cardsync.stories.tell_calendar import tell_calendar
from workers.app import (
    ASK_AGREEMENTS,
    DEPLOYMENT_HEADER,
    FORGET_OLD,
    INQUIRE_DUE,
    RUN_SWEEP,
    TELL_CALENDAR,
    WORK,
)
from workers.border import at_the_border
from workers.dispatch.kinds import WorkerContext

log = structlog.get_logger(__name__)


def add_tasks(app: Celery, context: WorkerContext, wake: Callable[[], None]) -> None:
    """Register the tasks on ``app``, bound to this worker's context; ``wake`` tells its dispatcher that there is work."""
    sweeps = SweepPolicy.of(context.settings)
    ages = ForgetPolicy.of(context.settings)
    audits = AuditPolicy.of(context.settings)
    ring = context.settings.key_ring()
    current, *older = ring.keys
    sealers = [Sealer(chain, current.secret, older_secrets=tuple(key.secret for key in older)) for chain in CHAINS]
    feed_watch = FeedWatch(context.settings.data_dir)
    brake_limits = Limits(context.settings.removal_brake_share, context.settings.removal_brake_floor)
    of_a_task = partial(_of_a_task, deployment=context.deployment)

    @app.task(name=WORK, bind=True, shared=False)  # type: ignore[untyped-decorator]  # Celery has no types
    def work(task: Any) -> None:
        with of_a_task(task):
            wake()

    @app.task(name=RUN_SWEEP, bind=True, shared=False)  # type: ignore[untyped-decorator]  # Celery has no types
    def run_sweep(task: Any) -> None:
        with of_a_task(task):
            sweep(context.engine, sweeps, fraction=random.random())  # noqa: S311
            advance(context.engine, ERASURES_AT_ONCE)
            audit(context.engine, audits)
            wake()
            for sealer in sealers:
                sealer.seal(context.engine)
            with context.engine.begin() as connection:
                feed_watch.look(partial(feed.head, connection))
            watch_askers(context.engine, context.settings)
            carry_out(context.engine, brake_limits, ring)

    @app.task(name=FORGET_OLD, bind=True, shared=False)  # type: ignore[untyped-decorator]  # Celery has no types
    def forget_old(task: Any) -> None:
        with of_a_task(task):
            forget(context.engine, ages)

    _add_lifecycle(app, context)
    if context.inquiries is not None:
        _add_inquiries(app, context, context.inquiries, wake)


def _add_lifecycle(app: Celery, context: WorkerContext) -> None:
    @app.task(name=TELL_CALENDAR, bind=True, shared=False)  # type: ignore[untyped-decorator]  # Celery has no types
    def tell_of_expiries(task: Any) -> None:
        with _of_a_task(task, deployment=context.deployment):
            tell_calendar(context.engine)

    ottu = context.ottu
    if ottu is None:
        return
    asks = FilteredListPolicy.of(context.settings, context.fingerprint_key)

    @app.task(name=ASK_AGREEMENTS, bind=True, shared=False)  # type: ignore[untyped-decorator]  # Celery has no types
    def ask_about_agreements(task: Any) -> None:
        with _of_a_task(task, deployment=context.deployment):
            ask_agreements(context.engine, ottu, asks, jitter=random.random())  # noqa: S311


def _add_inquiries(app: Celery, context: WorkerContext, ottu: Inquiries, wake: Callable[[], None]) -> None:
    policy = InquiryPolicy.of(context.settings, context.fingerprint_key)

    @app.task(name=INQUIRE_DUE, bind=True, shared=False)  # type: ignore[untyped-decorator]  # Celery has no types
    def inquire_payments(task: Any) -> None:
        with _of_a_task(task, deployment=context.deployment):
            if inquire_due(context.engine, ottu, policy, jitter=random.random()):  # noqa: S311
                wake()


@contextmanager
def _of_a_task(task: Any, *, deployment: str) -> Iterator[None]:
    """Put the task's id on every log line, and let no failure pass.

    A message of another deployment is logged. Its work is done all the same: it names nothing of the other one's.
    """
    with structlog.contextvars.bound_contextvars(task_id=task.request.id), at_the_border(task.name):
        sender = (task.request.headers or {}).get(DEPLOYMENT_HEADER, deployment)
        if sender != deployment:
            log.warning("message_of_another_deployment", task=task.name, deployment=str(sender)[:40])
        yield
