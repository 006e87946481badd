"""What is held since a backup was restored, and waits for a person; nothing where nothing is."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from cardsync.cli import console
from cardsync.cli.doctor.check import Check
from cardsync.store.ops import restores


def held(engine: Engine) -> Iterator[Check]:
    """Say what waits since the last `cardsync db restored`."""
    try:
        with engine.connect() as connection:
            found = restores.held(connection)
    except DBAPIError as error:
        if not isinstance(error.orig, InsufficientPrivilege):  # the web's login does not see why endpoints are disabled
            raise
        return
    if not found:
        return
    kinds = {
        "keys": (found.keys, "keys revoke or release"),
        "endpoints": (found.endpoints, "endpoints remove or enable"),
        "deletions": (found.deletions, "deletions replay or cancel"),
        "erasures": (found.erasures, "customers erase"),
    }
    waiting = {kind: pair for kind, pair in kinds.items() if pair[0]}
    counted = ", ".join(f"{number} {kind}" for kind, (number, _) in waiting.items())
    yield Check(
        "restored",
        "warning",
        f"held since a backup was restored ({console.rfc3339(found.restored_at)}): {counted}",
        f"look at each: cardsync {'; '.join(command for _, command in waiting.values())}",
    )
