"""The processes ``cardsync worker`` and ``cardsync beat``: in the foreground until SIGTERM or SIGINT.

When it is told to stop, a worker finishes the tasks that run and takes no new one; the time-outs of calls and statements bound
that. The pool is threads, because tasks mostly wait for Ottu and PostgreSQL. Rejected: processes; we tried a prefork worker on
Redis, and it exits when the broker restarts.
"""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from types import FrameType
from typing import Final, NamedTuple

import structlog
from celery import Celery
from celery.apps import worker as celery_worker
from celery.signals import setup_logging, worker_ready, worker_shutting_down
from celery.worker import state as celery_state
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from cardsync import db
from cardsync.broker import refuse_cluster
from cardsync.core import connections
from cardsync.db.connection_watchdog import WatchdogThread
from cardsync.episodes import Episode
from cardsync.errors import Misconfigured
from cardsync.ottu import OttuClient
from cardsync.settings import Settings
from cardsync.store.access.secret_keys import fingerprint_key
from cardsync.store.ops.deployment import deployment_name
from cardsync.threads import VitalThread, end_process
from workers import roll_call
from workers.app import QUEUES, create_app, queue_name
from workers.courier import CourierThread
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.kinds import WorkerContext, kinds
from workers.heart import Heart, Pulse, this_process
from workers.lateness import Lateness, LatenessThread
from workers.leader import STANDBY_SECONDS, Leadership, TickScheduler
from workers.listener import Listener
from workers.own_ticks import OwnTicks
from workers.tasks import add_tasks

log = structlog.get_logger(__name__)

DATABASE_POLL_SECONDS: Final = 1.0
# How long closing may take after the last task. It takes a second, unless the broker is frozen.
CLOSE_SECONDS: Final = 4.0
REFUSED_SECONDS: Final = 5.0  # until a broker that refused is tried again

_no_database = Episode("waiting_for_database")
_broker_refuses = Episode("broker_refuses", level="error")


class Engines(NamedTuple):
    """A worker's engines, which hold no more connections together than it may."""

    work: Engine
    listener: Engine
    courier: Engine


def make_engines(settings: Settings) -> Engines:
    """Make them. Connects lazily."""
    most = connections.of_worker(settings.worker_threads, settings.database_connections)
    uncapped = connections.of_worker(settings.worker_threads, None)
    place, half = settings.database(), uncapped.work // 2
    return Engines(
        # Half, and as many more for a moment: no transaction is long.
        work=db.make_engine(place, name="cardsync worker", pool_size=half, most=most.work),
        listener=db.make_engine(
            settings.database(direct=True),
            name="cardsync listener",
            pool_size=1,
            most=most.listener,
            autocommit=True,
        ),
        courier=db.make_engine(place, name="cardsync courier", pool_size=1, most=most.courier),
    )


def run_worker(settings: Settings) -> None:
    """Work until told to stop. Raises ``Misconfigured`` for a database that cannot be used, or of another secret key.

    Where no broker is set it hears nothing: the rows are the jobs, and it runs the schedule itself.
    """
    has_broker = settings.broker_url is not None
    engines = make_engines(settings)
    engine = engines.work
    watchdog = WatchdogThread(*engines, place=settings.database())
    if has_broker:
        refuse_cluster(settings)  # and a file that cannot be read: now, not once the database answers
    stopping = _stop_event()
    found = _wait_for_database(engine, settings, stopping)
    if found is None:
        return
    key, deployment = found
    # In KSA payments may be asked about, if address and credentials are set; cards may not.
    ottu = OttuClient(settings) if settings.ottu_cards_api == "enabled" or settings.ottu_can_be_called else None
    app = create_app(settings, deployment)
    lists = ottu if settings.ottu_cards_api == "enabled" else None
    context = WorkerContext(settings, engine, lists, deployment, key, inquiries=ottu)
    dispatcher = Dispatcher(engine, kinds(context), threads=settings.worker_threads)
    add_tasks(app, context, dispatcher.wake)
    if has_broker:
        roll_call.answer_in_background(settings, deployment)
    listener = Listener(engines.listener, dispatcher.wake)
    courier = CourierThread(engines.courier, settings.key_ring())
    ticks = OwnTicks(app) if has_broker else OwnTicks(app, unheard_seconds=0.0)
    lateness = LatenessThread(Lateness(engine, content_days=settings.inbox_content_days), ticks.is_on)
    most = connections.of_worker(settings.worker_threads, settings.database_connections).all
    heart = Heart(engine, this_process("worker"), connections=most)
    setup_logging.connect(_keep_our_logging)
    celery_worker.safe_say = _say_nothing
    _end_in_time(context.lists.lease_seconds, dispatcher)
    log.info("worker_started", threads=settings.worker_threads)
    if ottu is None:
        log.warning("no_inquiries", because="no address of Ottu's or no credentials are set: unconfirmed cards stay so")
    queues = [queue_name(queue, deployment) for queue in QUEUES]
    try:
        dispatcher.start()
        ticks.start()
        heart.start()
        if has_broker:
            _consume(app, queues, stopping)
        else:
            stopping.wait()
    finally:
        lateness.close()
        heart.close()
        ticks.close()
        listener.close()
        courier.close()
        dispatcher.close()
        if ottu is not None:
            ottu.close()
        watchdog.close()
        engine.dispose()
    log.info("worker_stopped")


def _consume(app: Celery, queues: list[str], stopping: threading.Event) -> None:
    """Take messages until told to stop.

    Celery waits for a broker that is away, and gives up on one that refuses: a right that the user lacks, a queue of another
    type, a Redis that was demoted. That may be put right while the worker runs, as for the database, so it begins again. The
    dispatcher works all the while.
    """
    gave_up = GaveUp()
    logging.getLogger("celery.worker").addFilter(gave_up)
    worker_ready.connect(_note_that_it_takes_us, weak=False)
    while not _is_told_to_stop(stopping):
        worker = app.Worker(
            pool="threads",
            # Celery's own threads: for ticks, and for the bells that wake the dispatcher, whose threads do what takes time.
            concurrency=connections.TASK_THREADS,
            queues=queues,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,  # events of Celery's, with an exchange of their own; those of the connection stay
            quiet=True,
        )
        worker.start()
        if _is_told_to_stop(stopping):
            return
        _broker_refuses.goes_on(error=gave_up.error, again_every_seconds=REFUSED_SECONDS, advice="cardsync doctor")
        stopping.wait(REFUSED_SECONDS)


class GaveUp(logging.Filter):
    """Keeps the kind of the error at which Celery gave up, in place of its line, which has a page of frames every five seconds.

    The error's own text is left out: it may name the user.
    """

    error: str | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Let all other lines pass."""
        if record.levelno < logging.CRITICAL or record.exc_info is None or record.exc_info[0] is None:
            return True
        self.error = record.exc_info[0].__name__
        return False


def _note_that_it_takes_us(**_: object) -> None:
    """Celery has declared its queues and begins to take messages."""
    _broker_refuses.is_over()


def _is_told_to_stop(stopping: threading.Event) -> bool:
    """By our own signal handler, or by Celery's, which takes its place while it runs."""
    return stopping.is_set() or celery_state.should_stop is not None or celery_state.should_terminate is not None


def run_beat(settings: Settings) -> None:
    """Send the schedule's ticks while leading, until told to stop. Any number of beats may run."""
    place = settings.database()
    engine = db.make_engine(place, name="cardsync beat", pool_size=3, most=connections.BEAT, autocommit=True)
    watchdog = WatchdogThread(engine, place=place)
    _refuse_unusable(engine)
    leadership = Leadership(engine)
    stopping = _stop_event()
    _end_when_stuck(stopping)
    pulse = Pulse()
    most = connections.of_beat(settings.database_connections)
    heart = Heart(engine, this_process("beat"), pulse=pulse, connections=most)
    refuse_cluster(settings)  # and a file that cannot be read: now, not once it leads
    scheduler: TickScheduler | None = None
    log.info("beat_started")
    heart.start()
    lateness = LatenessThread(Lateness(engine, content_days=settings.inbox_content_days), leadership.leads)
    while not stopping.is_set():
        pulse.turn()
        wait_seconds = STANDBY_SECONDS
        if leadership.holds():
            if scheduler is not None and scheduler.is_elsewhere:
                scheduler.app.pool.force_close_all()
                scheduler = None
            scheduler = scheduler or _scheduler(engine, settings)
            wait_seconds = STANDBY_SECONDS if scheduler is None else scheduler.tick()
        stopping.wait(min(wait_seconds, STANDBY_SECONDS))
    lateness.close()
    heart.close()
    leadership.release()
    watchdog.close()
    engine.dispose()
    log.info("beat_stopped")


def _deployment(engine: Engine) -> str:
    with engine.connect() as connection:
        return deployment_name(connection)


def _scheduler(engine: Engine, settings: Settings) -> TickScheduler | None:
    """The schedule of this deployment; ``None`` if the database is away just now."""
    try:
        made = TickScheduler(create_app(settings, _deployment(engine), publisher=True))
        _no_database.is_over()
        return made
    except SQLAlchemyError as error:
        _no_database.goes_on(error=type(error).__name__, why=db.why(error))
        return None


def _refuse_unusable(engine: Engine) -> None:
    """Raise ``Misconfigured`` for a server that answers and cannot be used; one that is away may come back."""
    try:
        engine.connect().close()
    except SQLAlchemyError as error:
        if (why := db.unusable(error)) is not None:
            raise Misconfigured(why) from None
        log.warning("database_away_at_start", error=type(error).__name__, why=db.why(error))
    db.tell_of_another_schema_once_it_answers(engine)


def _keep_our_logging(**_: object) -> None:
    """Celery sets up its own logging unless a receiver is connected to this signal."""


def _say_nothing(*_: object) -> None:
    """In place of the plain text that Celery's signal handlers write among the lines of the log: ours say when it stops."""


def _end_in_time(task_seconds: float, dispatcher: Dispatcher) -> None:
    """End the process in time once it is told to stop: while closing, Celery waits for a frozen broker for ever.

    By then the work is done, or stands in the database to be done again. The thread waits from the start, and the signal handler
    only fills a queue: starting a thread inside the handler could wait for a lock that the interrupted code holds.
    """
    told: queue.SimpleQueue[None] = queue.SimpleQueue()

    def tell(**_: object) -> None:
        told.put(None)

    def watch() -> None:
        told.get()
        until = time.monotonic() + task_seconds
        dispatcher.stop()
        while (celery_state.active_requests or dispatcher.jobs) and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(CLOSE_SECONDS)
        log.warning("worker_stopped", because="the broker does not let go")
        end_process(0)

    worker_shutting_down.connect(tell, weak=False)
    VitalThread(watch, name="end-in-time").start()


def _end_when_stuck(stopping: threading.Event) -> None:
    """End the beat in time once it is told to stop, also while the database or the broker is frozen: it holds no work."""

    def watch() -> None:
        stopping.wait()
        time.sleep(CLOSE_SECONDS)
        log.warning("beat_stopped", because="the database or the broker does not answer")
        end_process(0)

    VitalThread(watch, name="end-when-stuck").start()


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


class Found(NamedTuple):
    """What a worker has to know of its database before it begins."""

    fingerprint_key: bytes
    deployment: str


def _wait_for_database(engine: Engine, settings: Settings, stopping: threading.Event) -> Found | None:
    """Wait for a migrated database, and log that; return what it says, or ``None`` if told to stop first.

    All that a start asks of the database is asked here, where the database may go away at any question.
    """
    while not stopping.is_set():
        try:
            with engine.begin() as connection:
                found = Found(fingerprint_key(connection, settings.key_ring()), deployment_name(connection))
            db.tell_of_another_schema(engine)
        except SQLAlchemyError as error:
            if (why := db.unusable(error)) is not None:
                raise Misconfigured(why) from None
            _no_database.goes_on(error=type(error).__name__, why=db.why(error))
            stopping.wait(DATABASE_POLL_SECONDS)
        else:
            _no_database.is_over()
            return found
    return None
