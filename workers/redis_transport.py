"""kombu's transport for Redis and Valkey, for a worker that outlives a broken message.

A message that is no JSON, or JSON of another shape, makes kombu raise in the middle of the worker's loop, which ends the worker.
Here such a message is dropped, with a line in the log. Nothing is lost with it: messages are bells, and the sweep rings again.

Redis lets no message of a list expire. So each queue is bounded, and the oldest messages make room: a broker that had no worker
for an hour must not hand over an hour of ticks.
"""

from __future__ import annotations

from queue import Empty
from typing import Any, Final

import structlog
from kombu.transport import redis

from workers.app import SWEEP

log = structlog.get_logger(__name__)

BROKEN: Final = (ValueError, TypeError, LookupError, AttributeError)  # what reading a message of any shape raises


WAITING_MAX: Final = 1_000  # bells, of a hundred events each in a flood
TICKS_MAX: Final = 20  # twelve seconds of the schedule


class Channel(redis.Channel):
    """A channel whose queues are bounded, and that passes over what it cannot read, which is out of its queue by then."""

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        super()._put(queue, message, **kwargs)  # type: ignore[no-untyped-call]  # kombu has half its types
        key = self._q_for_pri(queue, self._get_message_priority(message, reverse=False))  # type: ignore[no-untyped-call]
        most = TICKS_MAX if queue.endswith(f".{SWEEP}") else WAITING_MAX
        with self.conn_or_acquire() as client:
            client.ltrim(key, 0, most - 1)  # the newest stand first

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]  # kombu has half its types
        except BROKEN as error:
            log.warning("broken_message_dropped", error=type(error).__name__)
            raise Empty from None  # as if nothing had come: the loop goes on


class SentinelChannel(Channel, redis.SentinelChannel):
    """Such a channel to the server that the sentinels name."""


class Transport(redis.Transport):
    """The transport with these channels."""

    Channel = Channel


class SentinelTransport(redis.SentinelTransport):
    """The same by way of sentinels: each connection that is made, or made again, asks them which server is the master."""

    Channel = SentinelChannel
