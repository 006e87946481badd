"""A short visit to the broker, for what is not the work itself: every step is bounded by ``SECONDS``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from kombu.connection import Connection

from cardsync.broker import BrokerAddress
from cardsync.settings import Settings

SECONDS: Final = 3.0


@contextmanager
def open_channel(settings: Settings) -> Iterator[Any]:
    """Open a connection of its own for the block. Raises what brokers' clients raise if the broker cannot be reached."""
    address = BrokerAddress.of(settings)
    options: dict[str, Any] = {"read_timeout": SECONDS, "write_timeout": SECONDS, "confirm_publish": True}
    if not address.is_amqp:
        options = {"socket_timeout": SECONDS, "socket_connect_timeout": SECONDS, "max_retries": 0}
    with Connection(  # type: ignore[no-untyped-call]
        address.url, ssl=address.tls or False, connect_timeout=SECONDS, transport_options=address.options | options
    ) as connection:
        connection.ensure_connection(max_retries=1, timeout=SECONDS)  # of several addresses, one that answers
        # It ends with the connection. Closing it first waits for an answer, which a RabbitMQ without memory does not give: that
        # error would take the place of what the block found out.
        yield connection.channel()
