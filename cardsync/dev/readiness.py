"""Whether the processes of ``cardsync dev`` do what they are there for, seen from outside."""

from __future__ import annotations

import datetime as dt
import http.client
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final

from sqlalchemy import Engine

from cardsync.dev.child import Child
from cardsync.dev.errors import ServiceError
from cardsync.dev.keeper import last_lines
from cardsync.store import gate

READY_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.05
ANSWER_SECONDS: Final = 2.0


def web_is_ready(port: int) -> bool:
    """Whether web says that it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def swept_at(engine: Engine) -> dt.datetime | None:
    """When the last sweep ran. A new one proves them all: beat sent it, the broker kept it, a worker did it."""
    with engine.connect() as connection:
        return gate.state(connection).swept_at


def wait_for(name: str, answers: Callable[[], bool], children: Iterable[Child], check: Callable[[], None]) -> None:
    """Wait until it answers; ``check`` may raise to end the wait. Raises ``ServiceError`` if a process ends meanwhile."""
    watched = list(children)
    deadline = time.monotonic() + READY_SECONDS
    while not answers():
        check()
        for child in watched:
            if child.pid is None:
                raise ServiceError(f"{child.name} {child.ended_how}{last_lines(child.log_path)}")
        if time.monotonic() > deadline:
            log = next(child.log_path for child in watched if child.name == name)
            raise ServiceError(f"{name} is not ready after {READY_SECONDS:.0f} s{last_lines(log)}")
        time.sleep(POLL_SECONDS)
