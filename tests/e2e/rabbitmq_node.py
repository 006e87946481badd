"""A RabbitMQ node of a test's own, beside the one that other tests use: its memory may run out, and its users lose their rights.

Rules: it listens on loopback; it is started and ended here, by its process; all that it keeps lies in one folder. Erlang's name
server may be one that runs already, so it is left alone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from kombu.connection import Connection
from kombu.exceptions import OperationalError

from cardsync.dev.servers.ports import free_port
from tests.waiting import until

# The programs themselves: Debian's own commands change to another user, who cannot read a test's folder.
PROGRAMS: Final = Path("/usr/lib/rabbitmq/bin")
START_SECONDS: Final = 240.0  # deadlines: a virtual machine starts, where others keep this one busy
CONTROL_SECONDS: Final = 180.0
USER: Final = "cardsync"
VHOST: Final = "cardsync"


class Node:
    """The node. ``url`` has a user with all rights in a virtual host."""

    kind = "rabbitmq"

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        folder.mkdir(mode=0o700)
        password = secrets.token_hex(16)
        self.url = self.administrator = f"amqp://{USER}:{password}@127.0.0.1:{self._port}/{VHOST}"
        self.secrets: tuple[str, ...] = (password,)
        self.deployment = ""
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),  # where the cookie lies, by which `rabbitmqctl` is known
            "RABBITMQ_NODENAME": f"cardsync-{secrets.token_hex(4)}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self._port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_SCHEMA_DIR": str(folder / "schema"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "config"),
            "RABBITMQ_CONFIG_FILE": str(folder / "none"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "none.config"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_LOGS": "-",
        }
        with (folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                [str(PROGRAMS / "rabbitmq-server")],
                env=self._environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        until(self._is_there, "the node takes connections", seconds=START_SECONDS)
        self._control("add_vhost", VHOST)
        self._control("add_user", USER, password)
        self.give_rights()

    def run_out_of_memory(self) -> None:
        """Raise the memory alarm: who publishes is heard no more."""
        self._control("set_vm_memory_high_watermark", "0.000001")

    def have_memory_again(self) -> None:
        """End the alarm."""
        self._control("set_vm_memory_high_watermark", "0.9")

    def take_rights_away(self) -> None:
        """Let the user sign in and do nothing; who is connected must sign in again."""
        self._control("set_permissions", "-p", VHOST, USER, "", "", "")
        self._control("close_all_connections", "--global", "rights")

    def give_rights(self, *, write: str = ".*", read: str = ".*") -> None:
        """Let the user do all, or less."""
        self._control("set_permissions", "-p", VHOST, USER, ".*", write, read)

    def close(self) -> None:
        """End the node."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _is_there(self) -> bool:
        assert self._process.poll() is None, (self._folder / "output").read_text()[-2_000:]
        with contextlib.suppress(OSError, OperationalError), Connection(f"amqp://127.0.0.1:{self._port}") as connection:  # type: ignore[no-untyped-call]
            connection.ensure_connection(max_retries=1, timeout=5)
            return True
        return False

    def _control(self, *arguments: str) -> None:
        command = [str(PROGRAMS / "rabbitmqctl"), "-q", *arguments]
        ran = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=CONTROL_SECONDS, check=False
        )
        assert ran.returncode == 0, f"{arguments[0]}: {ran.stdout}{ran.stderr}"


@contextlib.contextmanager
def node(folder: Path) -> Iterator[Node]:
    """A node until the end of the block. Skips where no RabbitMQ is installed as Debian's package does."""
    if not (PROGRAMS / "rabbitmq-server").exists():
        pytest.skip(f"a node of RabbitMQ's own needs {PROGRAMS}, which Debian's rabbitmq-server has")
    made = Node(folder)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)
