"""The processes ``cardsync worker`` and ``cardsync beat``: in the foreground until SIGTERM or SIGINT.

A worker finishes what runs, which is bounded by the time-outs of calls and statements, and takes nothing new. The pool is
threads: the work waits on Ottu and PostgreSQL, and (tried) a prefork worker on Redis exits when the broker restarts.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from types import FrameType
from typing import Final

import structlog
from celery.signals import setup_logging, worker_shutting_down
from celery.worker import state as celery_state
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from cardsync import db
from cardsync.ottu import OttuClient
from cardsync.reconcile import ReconcilePolicy
from cardsync.settings import Settings
from cardsync.store.secret import check_secret
from workers.app import QUEUES, create_app
from workers.bells import Ringer
from workers.leader import STANDBY_SECONDS, Leadership, TickScheduler
from workers.listener import Listener
from workers.tasks import Hands, add_tasks

log = structlog.get_logger(__name__)

DATABASE_POLL_SECONDS: Final = 1.0
# After the last task: what closing may take. It takes a second, unless the broker is frozen.
CLOSE_SECONDS: Final = 4.0


def run_worker(settings: Settings) -> None:
    """Work until told to stop. Raises ``Misconfigured`` if the database was made with another secret key."""
    assert settings.database_url is not None
    engine = db.make_engine(
        settings.database_url.get_secret_value(),
        name="cardsync worker",
        pool_size=settings.worker_threads + 1,
    )
    stopping = _stop_event()
    if not _wait_for_database(engine, settings, stopping):
        return
    ottu = OttuClient(settings) if settings.ottu_cards_api == "enabled" else None
    bells = Ringer(create_app(settings, publisher=True))
    app = create_app(settings)
    add_tasks(app, Hands(settings, engine, ottu, bells))
    listener = Listener(
        db.make_engine(
            settings.database_url.get_secret_value(), name="cardsync listener", pool_size=1, autocommit=True
        ),
        bells.ring_deletions,
    )
    setup_logging.connect(_keep_our_logging)
    _end_in_time(ReconcilePolicy.of(settings).lease_seconds)
    log.info("worker_started", threads=settings.worker_threads)
    worker = app.Worker(
        pool="threads",
        concurrency=settings.worker_threads,
        queues=list(QUEUES),
        without_gossip=True,
        without_mingle=True,
        quiet=True,
    )
    try:
        worker.start()
    finally:
        listener.close()
        bells.close()
        if ottu is not None:
            ottu.close()
        engine.dispose()
    log.info("worker_stopped")


def run_beat(settings: Settings) -> None:
    """Send the schedule's ticks while leading, until told to stop. Any number of beats may run."""
    assert settings.database_url is not None
    engine = db.make_engine(
        settings.database_url.get_secret_value(), name="cardsync beat", pool_size=1, autocommit=True
    )
    leadership = Leadership(engine)
    stopping = _stop_event()
    _end_when_stuck(stopping)
    scheduler = TickScheduler(create_app(settings, publisher=True))
    log.info("beat_started")
    while not stopping.is_set():
        wait_seconds = scheduler.tick() if leadership.holds() else STANDBY_SECONDS
        stopping.wait(min(wait_seconds, STANDBY_SECONDS))
    leadership.release()
    engine.dispose()
    log.info("beat_stopped")


def _keep_our_logging(**_: object) -> None:
    """Celery sets up logging of its own unless somebody listens to this signal."""


def _end_in_time(task_seconds: float) -> None:
    """End the process in time once it is told to stop: Celery, closing, waits for a frozen broker for ever.

    By then the work is done, or in the database to be done again. A thread that waits from the start, and a queue that may
    be filled inside a signal's handler: starting a thread there could wait for a lock that the interrupted code holds.
    """
    told: queue.SimpleQueue[None] = queue.SimpleQueue()

    def tell(**_: object) -> None:
        told.put(None)

    def watch() -> None:
        told.get()
        until = time.monotonic() + task_seconds
        while celery_state.active_requests and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(CLOSE_SECONDS)
        log.warning("worker_stopped", because="the broker does not let go")
        os._exit(0)

    worker_shutting_down.connect(tell, weak=False)
    threading.Thread(target=watch, name="end-in-time", daemon=True).start()


def _end_when_stuck(stopping: threading.Event) -> None:
    """End the beat in time once it is told to stop, also while the database or the broker is frozen: it holds no work."""

    def watch() -> None:
        stopping.wait()
        time.sleep(CLOSE_SECONDS)
        log.warning("beat_stopped", because="the database or the broker does not answer")
        os._exit(0)

    threading.Thread(target=watch, name="end-when-stuck", daemon=True).start()


def _stop_event() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stopping = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()
        # Celery's worker sets handlers of its own, but late in its start; it looks here before it takes any work.
        celery_state.should_stop = 0

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return stopping


def _wait_for_database(engine: Engine, settings: Settings, stopping: threading.Event) -> bool:
    """Wait for a migrated database, saying so; false if told to stop first."""
    said = 0.0
    while not stopping.is_set():
        try:
            with engine.begin() as connection:
                check_secret(connection, settings.secret_bytes())
        except SQLAlchemyError as error:
            if time.monotonic() - said > 10 * DATABASE_POLL_SECONDS:
                log.warning("waiting_for_database", error=type(error).__name__)
                said = time.monotonic()
            stopping.wait(DATABASE_POLL_SECONDS)
        else:
            return True
    return False
