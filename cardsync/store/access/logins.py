"""The processes' logins: made, or corrected, from the address that a process will connect with. Safe to repeat.

A password is never in a statement, so no statement log can hold one: the statement holds the verifier, which is what PostgreSQL
would store anyway. Only what a login lacks is done, since an owner may not be allowed to do it: then a superuser runs what
``cardsync db roles --sql`` prints.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from sqlalchemy import URL, Connection, text

from cardsync.db.session import CONNECT_TIMEOUT_S, LOGIN, ROLE_PREFIX
from cardsync.errors import Misconfigured
from cardsync.store.access import privileges
from cardsync.store.access.role_names import named

# Two deployments at once alter the same row of the roles' catalogue: one of them waits for the other and is then refused. It
# tries again, and finds the role made. Rejected: an advisory lock, with which any login could stop this.
TRIES: Final = 5
_MADE_MEANWHILE: Final = (psycopg.errors.InternalError_, psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation)

_KNOWN = text("""
    SELECT rolcreatedb, rolcreaterole, rolcanlogin,
           rolsuper OR rolname = current_user OR pg_has_role(rolname, current_user, 'MEMBER') AS is_owner
    FROM pg_roles WHERE rolname = :name
""")
_MEMBER_OF = text("""
    SELECT o.rolname FROM pg_auth_members AS m JOIN pg_roles AS r ON r.oid = m.member JOIN pg_roles AS o ON o.oid = m.roleid
    WHERE r.rolname = :name AND o.rolname = ANY(:roles)
""")
_SETTINGS = text("""
    SELECT setting FROM pg_db_role_setting AS s JOIN pg_roles AS r ON r.oid = s.setrole
    JOIN pg_database AS d ON d.oid = s.setdatabase, unnest(s.setconfig) AS setting
    WHERE r.rolname = :name AND d.datname = current_database()
""")


def ensure(connection: Connection, address: URL, role: str, prefix: str = ROLE_PREFIX) -> None:
    """Let ``address``'s user log in with its password, as a member of ``role`` and of no other role of ours.

    Raises ``Misconfigured`` if the address lacks a name or password, or names an owner or superuser: an operator who puts the
    owner's address there by mistake would otherwise be locked out. And if this login may not do what is lacking.
    """
    driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
    for tries_left in reversed(range(TRIES)):
        try:
            with connection.begin_nested():
                for statement in statements(connection, address, role, prefix):
                    driver.execute(statement)
            return
        except _MADE_MEANWHILE:
            if not tries_left:
                raise
        except psycopg.errors.InsufficientPrivilege:
            if not lacking(connection, address, role, prefix) and _signs_in(driver, address):
                return  # a superuser made it as it must be
            raise Misconfigured(
                f"this login may not make the user of the address for {named(role, prefix)}, or put it right: have a superuser "
                f"run what `cardsync db roles --sql` prints with the same options"
            ) from None


def statements(
    connection: Connection, address: URL, role: str, prefix: str = ROLE_PREFIX
) -> Iterator[sql.SQL | sql.Composed]:
    """What makes the login, or puts it right. The password is set in any case, since no login can see which one it has.

    Raises ``Misconfigured`` as ``ensure`` does.
    """
    name, password = address.username, address.password
    if not name or not password:
        raise Misconfigured(f"the address for {named(role, prefix)} needs a user and a password")
    driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
    known = connection.execute(_KNOWN, {"name": name}).one_or_none()
    if known is not None and known.is_owner:
        raise Misconfigured(
            f"the user of the address for {named(role, prefix)} owns the database: give the process one of its own"
        )
    login = sql.Identifier(name)
    missing = lacking(connection, address, role, prefix)
    if known is None:
        yield sql.SQL("CREATE ROLE {}").format(login)
    verifier = driver.pgconn.encrypt_password(str(password).encode(), name.encode(), b"scram-sha-256").decode()
    yield sql.SQL("ALTER ROLE {} LOGIN INHERIT PASSWORD {}").format(login, sql.Literal(verifier))
    yield from missing


def lacking(connection: Connection, address: URL, role: str, prefix: str = ROLE_PREFIX) -> list[sql.Composed]:
    """What the login lacks, or has too much of, beside its password."""
    driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
    name = address.username or ""
    known = connection.execute(_KNOWN, {"name": name}).one_or_none()
    login, found = sql.Identifier(name), []
    if known is not None and (known.rolcreatedb or known.rolcreaterole):  # an owner without them may not even name them
        found.append(sql.SQL("ALTER ROLE {} NOCREATEDB NOCREATEROLE").format(login))
    ours = [named(one, prefix) for one in privileges.ROLES]
    member_of = set(connection.execute(_MEMBER_OF, {"name": name, "roles": ours}).scalars())
    wanted = named(role, prefix)
    found += [sql.SQL("REVOKE {} FROM {}").format(sql.Identifier(one), login) for one in sorted(member_of - {wanted})]
    if wanted not in member_of:
        found.append(sql.SQL("GRANT {} TO {}").format(sql.Identifier(wanted), login))
    # Where a pooler passes no options on, a session has what its login was given (``db.session``).
    here = sql.Identifier(driver.info.dbname)
    settings = (one.partition("=") for one in connection.execute(_SETTINGS, {"name": name}).scalars())
    has = {(setting.lower(), value) for setting, _, value in settings}
    for setting, value in LOGIN.items():
        if (setting, value) not in has:
            found.append(
                sql.SQL("ALTER ROLE {} IN DATABASE {} SET {} = {}").format(
                    login, here, sql.Identifier(setting), sql.Literal(value)
                )
            )
    return found


def _signs_in(driver: psycopg.Connection[Any], address: URL) -> bool:
    """Whether that user can sign in with that password, where we are signed in ourselves."""
    given = {
        "user": address.username or "",
        "password": str(address.password),
        "connect_timeout": str(CONNECT_TIMEOUT_S),
    }
    ours = {name: value for name, value in driver.info.get_parameters().items() if name != "options"}
    try:
        psycopg.connect(make_conninfo(**{**ours, **given})).close()
    except psycopg.Error:
        return False
    return True
