"""Start what the user has not set: the embedded PostgreSQL and Valkey, and the stand-in for Ottu, with secrets between them.

Rules: where the user has set a service, it is used and the embedded one is not started. Settings of the user's own Ottu are never
written to a file.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from cardsync import settings
from cardsync.core.webhook_keys import BoundKey
from cardsync.dev.run.directory import STAND_IN_FILE, Directory
from cardsync.dev.servers.errors import ServiceError
from cardsync.dev.servers.ports import is_free
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.dev.servers.valkey import EmbeddedValkey
from cardsync.dev.simulator import Simulator
from cardsync.dev.simulator.shoppers import ShopperEvent
from cardsync.settings import Settings

PORTS_TRIED: Final = 100
PORT_WAIT_SECONDS: Final = 5.0
PORT_POLL_SECONDS: Final = 0.02
SIMULATOR_PORT: Final = 8100
SIMULATOR_STOP_SECONDS: Final = 2.0

# Only with the stand-in. A deletion in its own checkout is found within seconds rather than minutes. That takes more calls than
# Ottu would allow, and more removals than a brake should let pass.
FOR_THE_STAND_IN: Final[dict[str, object]] = {
    "look_again_seconds": 15,
    "ottu_daily_calls": 1_000_000,
    "removal_brake_floor": 1_000_000,
}


@dataclass(slots=True)
class Provision:
    """What was started, and the settings with which other commands reach it."""

    values: dict[str, object] = field(default_factory=dict)
    postgres: EmbeddedPostgres | None = None
    valkey: EmbeddedValkey | None = None
    simulator: Simulator | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopperOptions:
    """The shoppers of the stand-in, and where it sends its notifications."""

    webhook_url: str
    customers: int
    seed: int
    on_event: Callable[[ShopperEvent], None]


def provide(
    running: ExitStack,
    given: Settings,
    directory: Directory,
    shoppers: ShopperOptions,
    start_server: Callable[[EmbeddedPostgres | EmbeddedValkey], None],
) -> Provision:
    """Start what is missing with ``start_server``; ``running`` stops it later. Raises ``ServiceError``, ``Misconfigured``."""
    own_ottu = given.ottu_credentials_set or given.ottu_base_url is not None or given.ottu_merchant_id is not None
    if own_ottu:
        settings.load("webhook", "ottu")  # if they are incomplete, say so before anything is started
    data_dir = directory.path
    if given.database_url is None:
        directory.require_one_ottu(given.ottu_url if own_ottu else None)
    secrets = directory.secrets()
    made = Provision()
    if given.secret_key is None:
        made.values["secret_key"] = secrets.secret_key
    if given.database_url is None:
        made.postgres = EmbeddedPostgres(data_dir / "postgres")
        running.callback(made.postgres.stop)
        start_server(made.postgres)
    if given.broker_url is None:
        made.valkey = EmbeddedValkey(data_dir / "valkey")
        running.callback(made.valkey.stop)
        start_server(made.valkey)
    # Those of the user's own too: a command from another shell in this directory means this database.
    made.values["database_url"] = made.postgres.url if made.postgres else _revealed(given.database_url)
    made.values["broker_url"] = made.valkey.url if made.valkey else _revealed(given.broker_url)
    if not own_ottu:
        webhook_key = next(iter(given.webhook_keys()), secrets.webhook_key)
        made.simulator = _simulator(data_dir, secrets.ottu_api_key, BoundKey.read(webhook_key).key, shoppers)
        running.callback(partial(stop_in_time, made.simulator))
        made.values |= FOR_THE_STAND_IN | {
            "ottu_base_url": made.simulator.base_url,
            "ottu_api_key": secrets.ottu_api_key,
            "ottu_webhook_keys": webhook_key,
        }
    return made


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _simulator(data_dir: Path, api_key: str, webhook_key: str, shoppers: ShopperOptions) -> Simulator:
    """Start the stand-in. Its cards are kept in a file, or the registry would find all of them gone at the next start."""
    state_file = data_dir / STAND_IN_FILE
    made = Simulator(
        seed=shoppers.seed,
        api_key=api_key,
        webhook_key=webhook_key,
        webhook_url=shoppers.webhook_url,
        port=free_port_from(SIMULATOR_PORT),
        customers=shoppers.customers,
        on_event=shoppers.on_event,
        state_file=state_file,
    )
    try:
        return made.start()
    except (ValueError, LookupError, TypeError) as error:
        raise ServiceError(f"{state_file} cannot be read ({type(error).__name__}): remove it") from error
    except OSError as error:
        raise ServiceError(f"the stand-in for Ottu cannot be started: {error.strerror or error}") from error


def stop_in_time(simulator: Simulator) -> None:
    """Stop the stand-in; do not wait long for webhooks without an answer: its threads end with us. Idempotent."""
    stopping = threading.Thread(target=simulator.stop, name="simulator-stop", daemon=True)
    stopping.start()
    stopping.join(SIMULATOR_STOP_SECONDS)


def wait_for_ports(ports: Sequence[int]) -> None:
    """Wait until these ports are free, at most ``PORT_WAIT_SECONDS``: another program may have them for good.

    A process that was killed no longer shows its command while its last threads end, and holds its port until then.
    """
    deadline = time.monotonic() + PORT_WAIT_SECONDS
    while not all(is_free(port) for port in ports) and time.monotonic() < deadline:
        time.sleep(PORT_POLL_SECONDS)


def free_port_from(wanted: int) -> int:
    """The port, or the next free one. Raises ``ServiceError``."""
    for port in range(wanted, min(wanted + PORTS_TRIED, 65_536)):
        if is_free(port):
            return port
    raise ServiceError(f"no port is free from {wanted} on")
