"""The two kinds of broker, each with what can befall it: gone, frozen, emptied.

Valkey is an embedded server that is really killed and really stopped. RabbitMQ is one that runs already, for other tests too:
it is reached through a proxy that is cut and frozen in its place, in a virtual host of this run's own where one can be made.
"""

from __future__ import annotations

import contextlib
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote, urlsplit

import pytest
import redis
from kombu.connection import Connection
from kombu.exceptions import OperationalError

from cardsync.dev.servers.valkey import EmbeddedValkey
from tests.e2e.proxy import TcpProxy
from workers.app import QUEUES, queue_name

CONTROL_SECONDS: Final = 180  # for `rabbitmqctl`, which starts a virtual machine of its own
SECONDS: Final = 60  # a broker that is there answers at once, if the machine is not busy
DOCS: Final = Path(__file__).parents[2] / "docs" / "deployment"


class Broker(Protocol):
    """A broker that a test can harm; ``secrets`` are texts that no output may show."""

    kind: str
    url: str
    secrets: tuple[str, ...]
    deployment: str  # whose queues these are; the system that uses the broker says it
    administrator: str

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

    def share(self) -> None:
        """Let ``url`` have the rights that the docs ask for and no others; ``administrator`` may do all, as it could before."""

    def names(self) -> set[str]:
        """What there is by name: keys, or queues and exchanges."""

    def is_consumed(self, queue: str) -> bool:
        """Whether a worker takes the messages of a queue in which some were."""

    def refusals(self) -> list[str]:
        """What ``url`` was refused since ``share``, as far as the broker notes it."""


class Valkey:
    """The embedded server."""

    kind = "valkey"

    def __init__(self, server: EmbeddedValkey) -> None:
        self._server = server
        self.url = self.administrator = server.url
        self.deployment = ""
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
        return _waiting(self.url, self.deployment)

    def share(self) -> None:
        """In ``docs/deployment/brokers.md`` stands the command."""
        password = secrets.token_hex(16)
        rules = _in_docs("brokers.md", "ACL SETUSER cardsync ")
        with redis.Redis.from_url(self.administrator) as client:
            client.execute_command("ACL", "SETUSER", "cardsync", *rules.replace("PASSWORD", password).split())
        self.secrets = (*self.secrets, password)
        self.url = self.administrator.replace(f":{self._server.password}@", f"cardsync:{password}@")

    def names(self) -> set[str]:
        with redis.Redis.from_url(self.administrator) as client:
            return {key.decode() for key in client.scan_iter(count=1_000)}

    def is_consumed(self, queue: str) -> bool:
        return queue not in self.names()

    def refusals(self) -> list[str]:
        with redis.Redis.from_url(self.administrator) as client:
            return [f"{one['context']} {one['reason']} {one['object']}" for one in client.acl_log()]


class RabbitMQ:
    """A running server, behind a proxy."""

    kind = "rabbitmq"

    def __init__(self, direct_url: str, vhost: str) -> None:
        """``vhost`` is the name of a virtual host of our own, or empty."""
        parts = urlsplit(direct_url)
        self.administrator, self._vhost = direct_url, vhost
        self._users: list[str] = []
        self.deployment = ""
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
        return _waiting(self.administrator, self.deployment)

    def share(self) -> None:
        """The command stands in ``docs/deployment/systemd.md``. Skips where a user cannot be made."""
        user, password = f"cardsync-{secrets.token_hex(4)}", secrets.token_hex(16)
        rights = shlex.split(_in_docs("systemd.md", "rabbitmqctl set_permissions --vhost cardsync cardsync "))
        if not self._vhost or not _control("add_user", user, password):
            pytest.skip("to take rights away takes an administrator of RabbitMQ (rabbitmqctl)")
        self._users.append(user)
        assert _control("set_permissions", "-p", self._vhost, user, *rights)
        self.secrets = (*self.secrets, password)
        self.url = f"amqp://{user}:{password}@127.0.0.1:{self._proxy.port}{urlsplit(self.url).path}"

    def names(self) -> set[str]:
        made = (_listed("list_queues", "-p", self._vhost, "name"), _listed("list_exchanges", "-p", self._vhost, "name"))
        return {name for listed in made for name in listed if name and not name.startswith("amq.")}

    def is_consumed(self, queue: str) -> bool:
        with Connection(self.administrator, connect_timeout=SECONDS) as connection, connection.channel() as channel:  # type: ignore[no-untyped-call]
            return bool(channel.queue_declare(queue, passive=True).consumer_count)

    def refusals(self) -> list[str]:
        return []

    def remove_queues(self) -> None:
        """Leave nothing behind, and find nothing of an earlier run."""
        self._for_each_queue("queue_delete")

    def close(self) -> None:
        """End the proxy, and the users that ``share`` made."""
        self._proxy.cut()
        for user in self._users:
            _control("delete_user", user)

    def _for_each_queue(self, method: str) -> None:
        with Connection(self.administrator, connect_timeout=SECONDS) as connection:  # type: ignore[no-untyped-call]
            for queue in QUEUES:
                with contextlib.suppress(connection.channel_errors), connection.channel() as channel:
                    getattr(channel, method)(queue_name(queue, self.deployment))


def _waiting(url: str, deployment: str) -> list[str]:
    """Take every message, and give all of them back."""
    taken = []
    with Connection(url, connect_timeout=SECONDS) as connection, connection.channel() as channel:  # type: ignore[no-untyped-call]
        for queue in QUEUES:
            while message := channel.basic_get(queue_name(queue, deployment)):
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
    with _virtual_host(url) as (own_url, name):
        broker = RabbitMQ(own_url, name)
        broker.remove_queues()
        try:
            yield broker
        finally:
            broker.close()
            broker.remove_queues()


@contextlib.contextmanager
def _virtual_host(url: str) -> Iterator[tuple[str, str]]:
    name = f"cardsync-e2e-{secrets.token_hex(4)}"
    parts = urlsplit(url)
    if not _control("add_vhost", name):
        yield url, ""
        return
    try:
        own_url = parts._replace(path=f"/{quote(name, safe='')}").geturl()
        permitted = _control("set_permissions", "-p", name, parts.username or "guest", ".*", ".*", ".*")
        # `rabbitmqctl` may speak to another server.
        yield (own_url, name) if permitted and _answers(own_url) else (url, "")
    finally:
        _control("delete_vhost", name)


def _control(*arguments: str) -> bool:
    ran = _rabbitmqctl(*arguments)
    return ran is not None and ran.returncode == 0


def _listed(*arguments: str) -> list[str]:
    ran = _rabbitmqctl("--no-table-headers", *arguments)
    assert ran is not None, arguments
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def _rabbitmqctl(*arguments: str) -> subprocess.CompletedProcess[str] | None:
    program = shutil.which("rabbitmqctl") or "/usr/sbin/rabbitmqctl"
    command = [program, "-q", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=CONTROL_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None


def _in_docs(page: str, beginning: str) -> str:
    """The rest of the line that begins so."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    (found,) = [line.removeprefix(beginning) for line in lines if line.startswith(beginning)]
    return found


def _answers(url: str) -> bool:
    try:
        with Connection(url, connect_timeout=SECONDS) as connection:  # type: ignore[no-untyped-call]
            connection.ensure_connection(max_retries=1, timeout=SECONDS)
    except (OSError, OperationalError):
        return False
    return True
