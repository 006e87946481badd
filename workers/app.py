"""The Celery app and the beat schedule, for RabbitMQ (quorum queues) and Redis or Valkey alike.

Two ways of use, with other time-outs: a *consumer* (worker) waits for messages as long as it takes; a *publisher* (web, worker's
own bells, beat) must never wait, since a frozen broker would otherwise hold it for minutes. Tried with both brokers: with
``retry=False`` alone a publish to a dead broker takes 6 s, to a frozen one over 75 s.

Old messages are dropped by the broker: RabbitMQ after a time (the message's ``expiration``), Redis beyond a length
(``workers.redis_transport``). Rejected: Celery's ``expires``, which the sender's clock stamps and the worker's clock judges. A
worker whose host was a minute ahead dropped every bell, without a line.

Queues and messages carry the deployment's name (``store.ops.deployment``): two deployments on one broker do not take each other's
bells. Queues of before (those without a name, and ``inbox``, ``customers`` and ``deletions``) hold nothing but bells, and may be
deleted.

All that we make in a broker begins with ``cardsync``, because others may use it too: queues are reached by their names alone, and
so need no exchange and, in Redis, no table of bindings. Nothing of Celery's own is used that has a name there: events and
remote control.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from celery import Celery
from kombu.entity import Queue

from cardsync.broker import BrokerAddress
from cardsync.errors import Misconfigured
from cardsync.settings import Settings

# What each queue is for; ``queue_name`` puts the deployment's name in between.
BELLS: Final = "bells"
SWEEP: Final = "sweep"
QUEUES: Final = (BELLS, SWEEP)
DEPLOYMENT_HEADER: Final = "cardsync_deployment"

WORK: Final = "cardsync.work"
RUN_SWEEP: Final = "cardsync.sweep"
FORGET_OLD: Final = "cardsync.forget"
INQUIRE_DUE: Final = "cardsync.inquire"
TELL_CALENDAR: Final = "cardsync.calendar"
ASK_AGREEMENTS: Final = "cardsync.agreements"

PUBLISH_SECONDS: Final = 1.0
HEARTBEAT_SECONDS: Final = 10  # a half-open connection is noticed within twice this
# A message that kills its worker this often is dropped by the broker; its row is still there, and counts its own attempts.
DELIVERY_LIMIT: Final = 20
# Redis hands a dead worker's message on only after this; the dispatcher looks long before.
VISIBILITY_SECONDS: Final = 300


@dataclass(frozen=True, slots=True)
class Tick:
    """What the beat asks for every so often; a message that is older than ``expires_seconds`` is dropped by the broker."""

    name: str
    task: str
    every_seconds: float
    expires_seconds: float


TICKS: Final = (
    Tick("sweep", RUN_SWEEP, 1.0, 10.0),  # a broker that was away must not hand over an hour of ticks
    Tick("forget", FORGET_OLD, 5.0, 5.0),
    Tick("inquire", INQUIRE_DUE, 5.0, 5.0),  # what waits here waits for minutes
    Tick("agreements", ASK_AGREEMENTS, 1.0, 10.0),  # a reader waits five seconds for an answer
    Tick("calendar", TELL_CALENDAR, 5.0, 5.0),  # a thousand cards each time; after a day's first minutes it finds none
)


def queue_name(queue: str, deployment: str) -> str:
    """The name in the broker of one of ``QUEUES``."""
    return f"cardsync.{deployment}.{queue}"


def create_app(settings: Settings, deployment: str, *, publisher: bool = False) -> Celery:
    """Make the app for this process's broker. It connects when it is used, not here. Raises ``Misconfigured``."""
    # Without a broker the app holds the tasks and the schedule alone, and nothing connects.
    broker = BrokerAddress.of(settings) if settings.broker_url is not None else BrokerAddress("memory://", None, True)
    is_amqp = broker.is_amqp
    names = {queue: queue_name(queue, deployment) for queue in QUEUES}
    app = Celery("cardsync", set_as_current=False, amqp="workers.broker_connection:Amqp")
    if settings.broker_url is not None:
        app.read_broker = lambda: BrokerAddress.of(settings)
    app.conf.update(
        broker_url=broker.url,
        broker_use_ssl=broker.tls,
        broker_transport=_transport(broker),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_heartbeat=HEARTBEAT_SECONDS if is_amqp else 0,
        broker_pool_limit=2,
        task_queues=[queue_of(name, quorum=is_amqp) for name in names.values()],
        task_default_queue=names[BELLS],
        task_default_exchange="",  # the nameless one: else Celery makes one for each queue that has none
        task_create_missing_queues=False,
        task_routes={
            WORK: {"queue": names[BELLS]},
            **{tick.task: {"queue": names[SWEEP]} for tick in TICKS},
        },
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        # An exception that got this far is logged; its row is still due. Redelivery by the broker would only loop.
        task_acks_on_failure_or_timeout=True,
        worker_consumer="workers.consumer:PlainConsumer",
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        beat_schedule={tick.name: _beat(tick, deployment) for tick in TICKS},
    )
    app.conf.broker_transport_options = broker.options | _transport_options(is_amqp=is_amqp, publisher=publisher)
    if publisher:
        app.conf.update(broker_connection_timeout=PUBLISH_SECONDS, task_publish_retry=False)
    return app


def is_elsewhere(app: Celery) -> bool:
    """Whether the broker's address was changed since the app was made."""
    try:
        return bool(app.read_broker().url != app.conf.broker_url)
    except Misconfigured:
        return False


def _beat(tick: Tick, deployment: str) -> dict[str, Any]:
    options = {"expiration": tick.expires_seconds, "headers": {DEPLOYMENT_HEADER: deployment}}
    return {"task": tick.task, "schedule": tick.every_seconds, "options": options}


def queue_of(name: str, *, quorum: bool) -> Queue:
    """The queue of that name as all processes declare it: a broker refuses it to who declares it otherwise."""
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT} if quorum else None
    return Queue(name, routing_key=name, queue_arguments=arguments)  # type: ignore[no-untyped-call]  # kombu has half its types


def _transport(broker: BrokerAddress) -> str | None:
    """Our own for Redis; ``None`` for what the address says."""
    if broker.is_amqp:
        return None
    return f"workers.redis_transport:{'Transport' if broker.sentinels is None else 'SentinelTransport'}"


def _transport_options(*, is_amqp: bool, publisher: bool) -> dict[str, Any]:
    """Bounded waits for publishers; for consumers only what notices a dead connection."""
    once: dict[str, Any] = {"max_retries": 0, "interval_start": 0, "interval_step": 0, "interval_max": 0}
    if is_amqp:
        options: dict[str, Any] = {"confirm_publish": True}
        if publisher:
            options |= once | {"read_timeout": PUBLISH_SECONDS, "write_timeout": PUBLISH_SECONDS}
        return options
    options = {
        "visibility_timeout": VISIBILITY_SECONDS,
        "socket_keepalive": True,
        "health_check_interval": HEARTBEAT_SECONDS,
        # Waiting for messages is not bounded by this, but a command to a server that vanished is: else it would wait for ever.
        "socket_timeout": HEARTBEAT_SECONDS,
        "socket_connect_timeout": HEARTBEAT_SECONDS,
    }
    if publisher:
        options |= once | {"socket_timeout": PUBLISH_SECONDS, "socket_connect_timeout": PUBLISH_SECONDS}
    return options
