"""The roll call: which deployments use this broker, so that ``cardsync doctor`` can say that there is another one.

AMQP cannot list queues. So each worker, at its start, leaves one message with its deployment's name in a queue that all
deployments share, in place of the one that was there. Reading takes every message and gives all of them back. Nothing depends
on it: queues carry the deployment's name whatever stands here.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import structlog
from kombu.entity import Queue
from kombu.messaging import Producer

from cardsync.settings import Settings
from workers.broker_channel import open_channel

log = structlog.get_logger(__name__)

QUEUE: Final = "cardsync.deployments"
READ_MAX: Final = 100
FORGET_AFTER: Final = dt.timedelta(days=30)  # a deployment whose workers were not started for so long is thought gone


def answer(settings: Settings, deployment: str, *, now: dt.datetime) -> None:
    """Leave this deployment's message, in place of its old ones and of those that are forgotten."""
    with _queue(settings) as queue:
        for message in _all(queue):
            name, at = _content(message)
            if name in (None, deployment) or at is None or now - at > FORGET_AFTER:
                message.ack()
            else:
                message.requeue()
        Producer(queue.channel).publish(  # type: ignore[no-untyped-call]
            {"deployment": deployment, "at": now.isoformat()}, routing_key=QUEUE, serializer="json", delivery_mode=2
        )


def answer_in_background(settings: Settings, deployment: str) -> None:
    """The same on a thread of its own: a worker's start waits for no broker."""

    def run() -> None:
        try:
            answer(settings, deployment, now=dt.datetime.now(dt.UTC))
        except Exception as error:  # noqa: BLE001  (a thread's border; brokers' clients raise many kinds)
            log.warning("roll_call_not_answered", error=type(error).__name__)

    threading.Thread(target=run, name="roll-call", daemon=True).start()


def others(settings: Settings, deployment: str) -> dict[str, dt.datetime]:
    """The other deployments that left a message, and when their last worker started."""
    found: dict[str, dt.datetime] = {}
    with _queue(settings) as queue:
        taken = _all(queue)
        for message in taken:
            name, at = _content(message)
            if name is not None and name != deployment and at is not None:
                found[name] = max(at, found.get(name, at))
        for message in taken:
            message.requeue()
    return found


@contextmanager
def _queue(settings: Settings) -> Iterator[Any]:
    with open_channel(settings) as channel:
        queue = Queue(QUEUE, durable=True)(channel)  # type: ignore[no-untyped-call]
        queue.queue_declare()  # type: ignore[no-untyped-call]
        yield queue


def _all(queue: Any) -> list[Any]:
    taken: list[Any] = []
    while len(taken) < READ_MAX and (message := queue.get(accept=["json"])) is not None:
        taken.append(message)
    return taken


def _content(message: Any) -> tuple[str | None, dt.datetime | None]:
    """A message's deployment and time; ``None`` for what is none of ours."""
    try:
        content = message.decode()
        at = dt.datetime.fromisoformat(content["at"])
        return str(content["deployment"])[:40], at if at.tzinfo is not None else None
    except Exception:  # noqa: BLE001  (anybody may leave anything in a queue)
        return None, None
