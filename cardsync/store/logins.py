"""The processes' logins: made, or put right, from the address that a process will connect with. Safe to repeat.

A password is never in a statement: what is sent is the verifier that PostgreSQL would have stored of it anyway, so that no log
of statements holds one.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import URL, Connection, text

from cardsync.errors import Misconfigured
from cardsync.store import privileges

# Two deployments at once would both alter the same row of the roles' catalogue, and one would fail.
_LOCK = text("SELECT pg_advisory_xact_lock(cast(:key AS bigint))")
LOGINS_LOCK = 0x6C6F67696E730001  # "logins", 1

_KNOWN = text("""
    SELECT rolcreatedb, rolcreaterole,
           rolsuper OR rolname = current_user OR pg_has_role(rolname, current_user, 'MEMBER') AS is_owner
    FROM pg_roles WHERE rolname = :name
""")


def ensure(connection: Connection, address: URL, role: str) -> None:
    """Let ``address``'s user log in with its password, as a member of ``role`` and of no other role of ours.

    Raises ``Misconfigured`` if the address lacks a name or password, or names an owner or superuser: whoever deploys with the
    owner's address in that place would otherwise lock himself out.
    """
    name, password = address.username, address.password
    if not name or not password:
        raise Misconfigured(f"the address for {role} needs a user and a password")
    connection.execute(_LOCK, {"key": LOGINS_LOCK})
    known = connection.execute(_KNOWN, {"name": name}).one_or_none()
    if known is not None and known.is_owner:
        raise Misconfigured(f"the user of the address for {role} owns the database: give the process one of its own")
    driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
    login = sql.Identifier(name)
    if known is None:
        driver.execute(sql.SQL("CREATE ROLE {}").format(login))
    verifier = driver.pgconn.encrypt_password(str(password).encode(), name.encode(), b"scram-sha-256").decode()
    driver.execute(sql.SQL("ALTER ROLE {} LOGIN INHERIT PASSWORD {}").format(login, sql.Literal(verifier)))
    if known is not None and (known.rolcreatedb or known.rolcreaterole):  # an owner without them may not even name them
        driver.execute(sql.SQL("ALTER ROLE {} NOCREATEDB NOCREATEROLE").format(login))
    for one in privileges.ROLES:
        if one != role:
            driver.execute(sql.SQL("REVOKE {} FROM {}").format(sql.Identifier(one), login))
    driver.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), login))
