"""The two kinds of broker, each with what can befall it: gone, frozen, emptied.

Valkey is an embedded server that is really killed and really stopped. RabbitMQ is one that runs already, for other tests too:
it is reached through a proxy that is cut and frozen in its place, in a virtual host of this run's own where one can be made.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote, urlsplit

from kombu.connection import Connection
from kombu.exceptions import OperationalError

from cardsync.dev.valkey import EmbeddedValkey
from tests.e2e.proxy import TcpProxy
from workers.app import QUEUES

RABBITMQ_SECONDS: Final = 20


class Broker(Protocol):
    """A broker that a test can harm; ``secrets`` are texts that no output may show."""

    kind: str
    url: str
    secrets: tuple[str, ...]

    def go_away(self) -> None:
        """Refuse everybody."""

    def come_back(self) -> None:
        """Be there again, with what was stored."""

    def freeze(self) -> None:
        """Keep connections open and answer nobody."""

    def thaw(self) -> None:
        """Answer again."""

    def forget(self) -> None:
        """Lose every message that waits."""

    def messages(self) -> list[str]:
        """Every message that waits, all of it: headers, properties and body. They wait on."""


class Valkey:
    """The embedded server."""

    kind = "valkey"

    def __init__(self, server: EmbeddedValkey) -> None:
        self._server = server
        self.url = server.url
        self.secrets: tuple[str, ...] = (server.password,)

    def go_away(self) -> None:
        self._server.kill()

    def come_back(self) -> None:
        self._server.start()

    def freeze(self) -> None:
        self._server.pause()

    def thaw(self) -> None:
        self._server.resume()

    def forget(self) -> None:
        self._server.flush()

    def messages(self) -> list[str]:
        return _waiting(self.url)


class RabbitMQ:
    """A running server, behind a proxy."""

    kind = "rabbitmq"

    def __init__(self, direct_url: str) -> None:
        parts = urlsplit(direct_url)
        self._direct_url = direct_url
        self._proxy = TcpProxy((parts.hostname or "127.0.0.1", parts.port or 5672))
        user = f"{parts.username or 'guest'}:{parts.password or 'guest'}"
        self.url = f"amqp://{user}@127.0.0.1:{self._proxy.port}{parts.path}"
        self.secrets: tuple[str, ...] = (f":{parts.password or 'guest'}@",)

    def go_away(self) -> None:
        self._proxy.cut()

    def come_back(self) -> None:
        self._proxy.join()

    def freeze(self) -> None:
        self._proxy.freeze()

    def thaw(self) -> None:
        self._proxy.thaw()

    def forget(self) -> None:
        self._for_each_queue("queue_purge")

    def messages(self) -> list[str]:
        return _waiting(self._direct_url)

    def remove_queues(self) -> None:
        """Leave nothing behind, and find nothing of an earlier run."""
        self._for_each_queue("queue_delete")

    def close(self) -> None:
        """End the proxy."""
        self._proxy.cut()

    def _for_each_queue(self, method: str) -> None:
        with Connection(self._direct_url) as connection:  # type: ignore[no-untyped-call]
            for name in QUEUES:
                with contextlib.suppress(connection.channel_errors), connection.channel() as channel:
                    getattr(channel, method)(name)


def _waiting(url: str) -> list[str]:
    """Take every message, and give all of them back."""
    taken = []
    with Connection(url) as connection, connection.channel() as channel:  # type: ignore[no-untyped-call]
        for name in QUEUES:
            while message := channel.basic_get(name):
                taken.append(message)
        for message in taken:
            channel.basic_reject(message.delivery_tag, requeue=True)
    return [f"{m.headers} {m.properties} {m.body!r}" for m in taken]


@contextlib.contextmanager
def valkey(folder: Path) -> Iterator[Valkey]:
    """A server of its own, since it will be killed."""
    server = EmbeddedValkey(folder)
    server.start()
    try:
        yield Valkey(server)
    finally:
        server.remove()


@contextlib.contextmanager
def rabbitmq(url: str) -> Iterator[RabbitMQ]:
    """A virtual host of its own where we may make one, else the given one without our queues."""
    with _virtual_host(url) as own_url:
        broker = RabbitMQ(own_url)
        broker.remove_queues()
        try:
            yield broker
        finally:
            broker.close()
            broker.remove_queues()


@contextlib.contextmanager
def _virtual_host(url: str) -> Iterator[str]:
    name = f"cardsync-e2e-{secrets.token_hex(4)}"
    parts = urlsplit(url)
    if not _control("add_vhost", name):
        yield url
        return
    try:
        own_url = parts._replace(path=f"/{quote(name, safe='')}").geturl()
        permitted = _control("set_permissions", "-p", name, parts.username or "guest", ".*", ".*", ".*")
        yield own_url if permitted and _answers(own_url) else url  # `rabbitmqctl` may speak to another server
    finally:
        _control("delete_vhost", name)


def _control(*arguments: str) -> bool:
    program = shutil.which("rabbitmqctl") or "/usr/sbin/rabbitmqctl"
    try:
        ran = subprocess.run([program, "-q", *arguments], capture_output=True, timeout=RABBITMQ_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return ran.returncode == 0


def _answers(url: str) -> bool:
    try:
        with Connection(url, connect_timeout=2) as connection:  # type: ignore[no-untyped-call]
            connection.ensure_connection(max_retries=1, timeout=2)
    except (OSError, OperationalError):
        return False
    return True
