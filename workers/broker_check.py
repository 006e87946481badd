"""The check of the broker: what a worker needs to do there, tried once, so that ``doctor`` can name the right that is missing.

A connect and a sign-in say little: a user without a right, a broker above its memory alarm, and a Redis that was demoted all
sign us in. So a queue of the check's own is declared, one message goes in, and it must come out. The queue goes with the
connection. The queues of the work itself may be there already, and of another kind: they are declared as a worker does, each on a
connection of its own, since a refusal ends the channel. What is not there is made, as a worker's start would.
"""

from __future__ import annotations

import secrets
from typing import Any, Final

from amqp.exceptions import PreconditionFailed, ResourceLocked  # type: ignore[import-untyped]
from kombu.entity import Queue
from kombu.messaging import Producer

from cardsync.broker import BrokerAddress
from cardsync.settings import Settings
from workers.app import QUEUES, queue_name, queue_of
from workers.broker_channel import open_channel

# Each step, and what it needs of RabbitMQ's user.
CONFIGURE: Final = "it does not let us declare a queue: give the user the right to configure ^cardsync\\..*"
WRITE: Final = (
    "it takes no message: a memory or disk alarm, a demoted Redis, or no right to write ^(cardsync\\..*|amq\\.default)$"
)
READ: Final = "it gives no message back: give the user the right to read ^cardsync\\..*"
OTHER_KIND: Final = "is of another kind than the worker declares: a quorum queue with a delivery limit"
REFUSED: Final = "cannot be declared: give the user the right to configure ^cardsync\\..*"


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


def refused_queues(settings: Settings, deployment: str) -> dict[str, str]:
    """The worker's queues that the broker does not let us declare, and why. Raises what brokers' clients raise if it is away.

    A queue of Redis has no kind: it is a list that comes and goes with what is in it.
    """
    if not BrokerAddress.of(settings).is_amqp:
        return {}
    names = [queue_name(queue, deployment) for queue in QUEUES]
    return {name: why for name in names if (why := _why_not_declared(settings, name)) is not None}


def _why_not_declared(settings: Settings, name: str) -> str | None:
    with open_channel(settings) as channel:
        try:
            queue_of(name, quorum=True)(channel).queue_declare()  # type: ignore[no-untyped-call]
        except (PreconditionFailed, ResourceLocked):
            return OTHER_KIND
        except Exception:  # noqa: BLE001  (as above)
            return REFUSED
    return None
