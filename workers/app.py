"""The Celery app and the beat schedule, for RabbitMQ (quorum queues) and Redis or Valkey alike.

Two ways of use, with other time-outs: a *consumer* (worker) waits for messages as long as it takes; a *publisher* (web, worker's
own bells, beat) must never wait, since a frozen broker would otherwise hold it for minutes. Tried with both brokers: with
``retry=False`` alone a publish to a dead broker takes 6 s, to a frozen one over 75 s.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from celery import Celery
from kombu.entity import Exchange, Queue

from cardsync.settings import Settings

INBOX: Final = "cardsync.inbox"
CUSTOMERS: Final = "cardsync.customers"
DELETIONS: Final = "cardsync.deletions"
SWEEP: Final = "cardsync.sweep"
QUEUES: Final = (INBOX, CUSTOMERS, DELETIONS, SWEEP)

PROCESS_EVENTS: Final = "cardsync.process_events"
RECONCILE_CUSTOMER: Final = "cardsync.reconcile_customer"
DELETE_CARD: Final = "cardsync.delete_card"
RUN_SWEEP: Final = "cardsync.sweep"
FORGET_OLD: Final = "cardsync.forget"

SWEEP_EVERY_SECONDS: Final = 1.0
SWEEP_EXPIRES_SECONDS: Final = 10.0  # a broker that was away must not hand over an hour of ticks
FORGET_EVERY_SECONDS: Final = 5.0
PUBLISH_SECONDS: Final = 1.0
HEARTBEAT_SECONDS: Final = 10  # a half-open connection is noticed within twice this
# A message that kills its worker this often is dropped by the broker; its row is still there, and counts its own attempts.
DELIVERY_LIMIT: Final = 20
# Redis hands a dead worker's message on only after this; the sweep rings long before.
VISIBILITY_SECONDS: Final = 300


def create_app(settings: Settings, *, publisher: bool = False) -> Celery:
    """Make the app for this process's broker. It connects when it is used, not here."""
    assert settings.broker_url is not None
    broker_url = settings.broker_url.get_secret_value()
    is_amqp = urlsplit(broker_url).scheme in ("amqp", "amqps")
    app = Celery("cardsync", set_as_current=False)
    app.conf.update(
        broker_url=broker_url,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_heartbeat=HEARTBEAT_SECONDS if is_amqp else 0,
        broker_pool_limit=2,
        task_queues=[_queue(name, quorum=is_amqp) for name in QUEUES],
        task_default_queue=INBOX,
        task_create_missing_queues=False,
        task_routes={
            PROCESS_EVENTS: {"queue": INBOX},
            RECONCILE_CUSTOMER: {"queue": CUSTOMERS},
            DELETE_CARD: {"queue": DELETIONS},
            RUN_SWEEP: {"queue": SWEEP},
            FORGET_OLD: {"queue": SWEEP},
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
        beat_schedule={
            "sweep": {
                "task": RUN_SWEEP,
                "schedule": SWEEP_EVERY_SECONDS,
                "options": {"expires": SWEEP_EXPIRES_SECONDS, "queue": SWEEP},
            },
            "forget": {
                "task": FORGET_OLD,
                "schedule": FORGET_EVERY_SECONDS,
                "options": {"expires": FORGET_EVERY_SECONDS, "queue": SWEEP},
            },
        },
    )
    app.conf.broker_transport_options = _transport_options(is_amqp=is_amqp, publisher=publisher)
    if publisher:
        app.conf.update(broker_connection_timeout=PUBLISH_SECONDS, task_publish_retry=False)
    return app


def _queue(name: str, *, quorum: bool) -> Queue:
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT} if quorum else None
    exchange = Exchange(name, type="direct")  # type: ignore[no-untyped-call]  # kombu has half its types
    return Queue(name, exchange, routing_key=name, queue_arguments=arguments)  # type: ignore[no-untyped-call]


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
    }
    if publisher:
        options |= once | {"socket_timeout": PUBLISH_SECONDS, "socket_connect_timeout": PUBLISH_SECONDS}
    return options
