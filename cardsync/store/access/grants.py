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
_LIMITS = text("""
    SELECT r.rolconnlimit, coalesce(s.setconfig, '{}') AS settings
    FROM pg_roles AS r LEFT JOIN pg_db_role_setting AS s
        ON s.setrole = r.oid AND s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
    WHERE r.rolname = :login
""")
_IS_MEMBER = text("SELECT pg_has_role(:login, :role, 'MEMBER')")


def grant(connection: Connection, login: str, role: str, *, connections: int) -> list[str]:
    """Make a login a member of ``role``, with its limits; return the statements that need a more powerful login.

    A limit that stands already is left alone: a superuser may have run what ours may not.

    Raises ``Refused`` if there is no such login, and if ours may not grant that role, unless it is granted already.
    """
    driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
    membership, *_ = statements(connection, login, role, connections=connections)
    has = connection.execute(_LIMITS, {"login": login}).one()
    standing = {("connections", str(has.rolconnlimit)), *(tuple(one.split("=", 1)) for one in has.settings)}
    limits = [
        statement for name, value, statement in _limits(driver, login, connections) if (name, value) not in standing
    ]
    try:
        with driver.transaction():
            driver.execute(membership)
    except InsufficientPrivilege:
        if not connection.execute(_IS_MEMBER, {"login": login, "role": role}).scalar_one():
            raise Refused(
                f"this login may not grant {role}: have a superuser run what the same command prints with --sql"
            ) from None
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
    return [membership, *(statement for _, _, statement in _limits(driver, login, connections))]


def require_login(can_log_in: bool | None) -> None:
    """Raise ``Refused`` for a role that cannot log in, or, where nothing is said of it, is not there."""
    if not can_log_in:
        what = "there is no role of that name" if can_log_in is None else "that role cannot log in"
        raise Refused(f"{what}; make it first: CREATE ROLE ... LOGIN")


def _limits(driver: psycopg.Connection[Any], login: str, connections: int) -> Iterator[tuple[str, str, sql.Composed]]:
    """What limits a login, its value and the statement. Its sessions are counted over all databases; the rest is this one's."""
    name, here = sql.Identifier(login), sql.Identifier(driver.info.dbname)
    limit = sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}").format(name, sql.Literal(connections))
    yield "connections", str(connections), limit
    newer = SESSION_SETTINGS_SINCE_17 if driver.info.server_version >= 170_000 else {}
    for setting, value in {**SESSION_SETTINGS, **newer, "temp_file_limit": TEMP_FILE_LIMIT}.items():
        statement = sql.SQL("ALTER ROLE {} IN DATABASE {} SET {} = {}").format(
            name, here, sql.Identifier(setting), sql.Literal(value)
        )
        yield setting, value, statement
