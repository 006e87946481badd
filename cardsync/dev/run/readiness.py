"""Health of the parts of ``cardsync dev``: whether they answer, and whether one has ended.

Rule: a part that ends, ends everything, with its reason. Rejected: starting it again. A process that dies here has a fault that
the developer wants to see, and a restart buries it under more lines; in a deployment the platform restarts processes, not we.
"""

from __future__ import annotations

import datetime as dt
import http.client
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Final, Protocol

from sqlalchemy import Engine, text

from cardsync.dev.servers.errors import ServiceError
from cardsync.dev.servers.service import tail
from cardsync.store.calls import gate

READY_SECONDS: Final = 120.0  # four processes start at once; on a machine with other work that takes a minute
POLL_SECONDS: Final = 0.05
ANSWER_SECONDS: Final = 2.0
LOG_LINES: Final = 6
LINE_CHARACTERS: Final = 150  # of each line: a line of JSON is long, and begins with what matters


class Part(Protocol):
    """A server or a process that ``cardsync dev`` started."""

    log_path: Path

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def pid(self) -> int | None:
        """The process id while it runs, else None."""
        ...

    @property
    def ended_how(self) -> str:
        """How it ended, in words."""
        ...


def require_running(parts: Sequence[Part]) -> None:
    """Raise ``ServiceError`` if a part has ended: which one, how, where its log is, and the log's last lines."""
    for part in parts:
        if part.pid is None:
            raise ServiceError(f"{part.name} {part.ended_how}. {last_lines(part.log_path)}")


def wait_for(name: str, answers: Callable[[], bool], parts: Sequence[Part], check: Callable[[], None]) -> None:
    """Wait until the part of this name is ready; ``check`` may raise to end the wait.

    Raises ``ServiceError`` if any part ends meanwhile, or after two minutes.
    """
    deadline = time.monotonic() + READY_SECONDS
    while not answers():
        check()
        require_running(parts)
        if time.monotonic() > deadline:
            log = next(part.log_path for part in parts if part.name == name)
            raise ServiceError(f"{name} is not ready after {READY_SECONDS:.0f} s. {last_lines(log)}")
        time.sleep(POLL_SECONDS)


def web_is_ready(port: int) -> bool:
    """Whether web says that it is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def swept_at(engine: Engine) -> dt.datetime | None:
    """When the last sweep ran. A new sweep proves three parts: beat sent it, the broker kept it, a worker ran it."""
    with engine.connect() as connection:
        return gate.state(connection).swept_at


def last_lines(log: Path) -> str:
    """Where a log is, and its last lines, indented; empty lines are left out."""
    written = [line for line in tail(log).splitlines() if line.strip()]
    lines = [f"    {line[:LINE_CHARACTERS]}" for line in written[-LOG_LINES:]]
    return "\n".join([f"Its log, {log}, ends:", *lines]) if lines else f"Its log, {log}, is empty."


def wait_at_most(seconds: float, holds: Callable[[], bool], check: Callable[[], None]) -> None:
    """Wait until the condition holds, or for that long: what follows is better with it, and right without it."""
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        check()
        time.sleep(POLL_SECONDS)


def has_card(engine: Engine) -> bool:
    """Whether the registry has an active card, so that the commands that are shown name one."""
    with engine.connect() as connection:
        return bool(connection.execute(text("SELECT EXISTS (SELECT FROM registry.active_cards)")).scalar_one())
