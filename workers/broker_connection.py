"""Connections to the broker as Celery makes them: each asks for the address again, and keeps its transport.

A password in a file may be replaced while a process runs, and the broker's host with it. Celery reads the address once. So a
connection that is made, or made again, first reads it; where it is another one than before, it goes there. An address that turns
from one kind of broker into another has to wait for the process's next start, since queues are declared otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from celery.app.amqp import AMQP
from kombu.connection import Connection

from cardsync.broker import BrokerAddress
from cardsync.errors import Misconfigured

Read = Callable[[], BrokerAddress]


class FaithfulConnection(Connection):
    """A connection that keeps its transport when it goes on to the next of several addresses, and follows its address.

    kombu would take the transport that it has itself for the scheme of that address: queues without bounds, and workers that end
    with a broken message.
    """

    read_address: ClassVar[Read | None] = None
    made_for: BrokerAddress | None = None

    def switch(self, conn_str: str) -> None:
        """Go on to another address."""
        super().switch(conn_str)  # type: ignore[no-untyped-call]
        self.transport_cls = self._initial_params["transport"]

    def _establish_connection(self) -> Any:
        self._follow()
        return super()._establish_connection()  # type: ignore[no-untyped-call]

    def _follow(self) -> None:
        read, before = type(self).read_address, self.made_for
        if read is None or before is None:
            return
        try:
            address = read()
        except Misconfigured:  # it is being replaced, or wrong: the one before may still do
            return
        if address == before or not is_same_kind(address, before):
            return
        self.made_for = address
        self._initial_params["ssl"] = address.tls or False
        self.transport_options = (self.transport_options or {}) | address.options
        urls = address.url.split(";")
        self.alt = urls if len(urls) > 1 else []
        strategy: Any = self.failover_strategy
        self.cycle = strategy(self.alt) if self.alt else None
        if self.cycle is not None:
            next(self.cycle)  # the first one is taken here
        self.switch(urls[0])


def is_same_kind(one: BrokerAddress, other: BrokerAddress) -> bool:
    """Whether a process that was made for one of the two can go on with the other."""
    kinds = [(address.is_amqp, address.sentinels is None, address.tls is None) for address in (one, other)]
    return kinds[0] == kinds[1]


class Amqp(AMQP):  # type: ignore[misc]  # Celery has no types
    """Celery's part that makes connections. ``app.read_broker`` returns the broker's address; without it none is followed."""

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        read: Read | None = getattr(app, "read_broker", None)
        of_this_app = {} if read is None else {"read_address": staticmethod(read), "made_for": read()}
        self.Connection = type("FaithfulConnection", (FaithfulConnection,), of_this_app)
