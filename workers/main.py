"""The processes ``cardsync worker`` and ``cardsync beat``: in the foreground until SIGTERM or SIGINT.

A worker finishes what runs, which is bounded by the time-outs of calls and statements, and takes nothing new. The pool is
threads: the work waits on Ottu and PostgreSQL, and (tried) a prefork worker on Redis exits when the broker restarts.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Final

import structlog
from celery.signals import setup_logging
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from cardsync import db
from cardsync.ottu import OttuClient
from cardsync.settings import Settings
from cardsync.store import gate
from workers.app import QUEUES, create_app
from workers.bells import Ringer
from workers.leader import STANDBY_SECONDS, Leadership, TickScheduler
from workers.tasks import Hands, add_tasks

log = structlog.get_logger(__name__)

DATABASE_POLL_SECONDS: Final = 1.0


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
    setup_logging.connect(_keep_our_logging)
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


def _stop_event() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stopping = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return stopping


def _wait_for_database(engine: Engine, settings: Settings, stopping: threading.Event) -> bool:
    """Wait for a migrated database, saying so; false if told to stop first."""
    said = 0.0
    while not stopping.is_set():
        try:
            with engine.begin() as connection:
                gate.check_secret(connection, settings.secret_bytes())
        except SQLAlchemyError as error:
            if time.monotonic() - said > 10 * DATABASE_POLL_SECONDS:
                log.warning("waiting_for_database", error=type(error).__name__)
                said = time.monotonic()
            stopping.wait(DATABASE_POLL_SECONDS)
        else:
            return True
    return False
