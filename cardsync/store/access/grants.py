"""What a login of another service is granted: one of our roles, and the limits that a membership does not pass on.

Identifiers are quoted by the driver, and no statement is built by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Connection, text

from cardsync.errors import Refused

# Members of a role do not inherit its settings, so each login gets them. A login may change these in its own session: they stop
# mistakes. What stops intent stands below them. `transaction_timeout` is PostgreSQL 17's: a long transaction of short statements
# holds back vacuum and the next migration.
SESSION_SETTINGS: Final = {"statement_timeout": "30s", "idle_in_transaction_session_timeout": "60s"}
SESSION_SETTINGS_SINCE_17: Final = {"transaction_timeout": "10min"}
# A login cannot change these two. Three services with 20 sessions leave 40 of PostgreSQL's usual 100 to cardsync; a pool of
# SQLAlchemy's usual size takes 15. The limit on temporary files counts for each session: 20 of them take 10 GB at most.
CONNECTIONS: Final = 20
TEMP_FILE_LIMIT: Final = "512MB"

_CAN_LOG_IN = text("SELECT rolcanlogin FROM pg_roles WHERE rolname = :login")


def grant(connection: Connection, login: str, role: str, *, connections: int) -> list[str]:
    """Make a login a member of ``role``, with its limits; return the statements that need a more powerful login.

    Raises ``Refused`` if there is no such login.
    """
    driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
    membership, *limits = statements(connection, login, role, connections=connections)
    driver.execute(membership)
    left = []
    for statement in limits:
        try:
            with driver.transaction():
                driver.execute(statement)
        except InsufficientPrivilege:
            left.append(statement.as_string(driver))
    return left


def statements(connection: Connection, login: str, role: str, *, connections: int) -> list[sql.Composed]:
    """The membership and then the limits. Raises ``Refused`` if there is no such login."""
    require_login(connection.execute(_CAN_LOG_IN, {"login": login}).scalar_one_or_none())
    driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
    membership = sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(login))
    return [membership, *_limits(driver, login, connections)]


def require_login(can_log_in: bool | None) -> None:
    """Raise ``Refused`` for a role that cannot log in, or, where nothing is said of it, is not there."""
    if not can_log_in:
        what = "there is no role of that name" if can_log_in is None else "that role cannot log in"
        raise Refused(f"{what}; make it first: CREATE ROLE ... LOGIN")


def _limits(driver: psycopg.Connection[Any], login: str, connections: int) -> Iterator[sql.Composed]:
    """The statements that limit a login. Its sessions are counted over all databases; the rest holds in this one."""
    name, here = sql.Identifier(login), sql.Identifier(driver.info.dbname)
    yield sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}").format(name, sql.Literal(connections))
    newer = SESSION_SETTINGS_SINCE_17 if driver.info.server_version >= 170_000 else {}
    for setting, value in {**SESSION_SETTINGS, **newer, "temp_file_limit": TEMP_FILE_LIMIT}.items():
        yield sql.SQL("ALTER ROLE {} IN DATABASE {} SET {} = {}").format(
            name, here, sql.Identifier(setting), sql.Literal(value)
        )
