"""The check of the broker: what a worker needs to do there, tried once, so that ``doctor`` can name the right that is missing.

A connect and a sign-in say little: a user without a right, a broker above its memory alarm, and a Redis that was demoted all
sign us in. So a queue of the check's own is declared, one message goes in, and it must come out. The queue goes with the
connection.
"""

from __future__ import annotations

import secrets
from typing import Any, Final

from kombu.entity import Queue
from kombu.messaging import Producer

from cardsync.settings import Settings
from workers.broker_channel import open_channel

# Each step, and what it needs of RabbitMQ's user.
CONFIGURE: Final = "it does not let us declare a queue: give the user the right to configure ^cardsync\\..*"
WRITE: Final = (
    "it takes no message: a memory or disk alarm, a demoted Redis, or no right to write ^(cardsync\\..*|amq\\.default)$"
)
READ: Final = "it gives no message back: give the user the right to read ^cardsync\\..*"


def trouble(settings: Settings) -> str | None:
    """What the broker does not let us do; ``None`` if all goes. Raises what brokers' clients raise if it cannot be reached."""
    with open_channel(settings) as channel:
        return _try(channel, f"cardsync.probe.{secrets.token_hex(8)}")


def _try(channel: Any, name: str) -> str | None:
    step = CONFIGURE
    try:
        queue = Queue(name, durable=False, exclusive=True)(channel)  # type: ignore[no-untyped-call]
        queue.queue_declare()  # type: ignore[no-untyped-call]
        step = WRITE
        Producer(channel).publish({}, routing_key=name, serializer="json", retry=False)  # type: ignore[no-untyped-call]
        step = READ
        message = queue.get(accept=["json"])  # type: ignore[no-untyped-call]
        if message is None:
            return READ
        message.ack()
        queue.delete()  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001  (brokers' clients raise many kinds; their texts may name the user)
        return step
    return None
