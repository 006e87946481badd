"""Change data capture: a publication with an explicit list of columns, and a login that may read exactly these.

A program like Debezium decodes PostgreSQL's write-ahead log and gets each committed change. What it gets is decided by the
publication that it names. A publication ``FOR ALL TABLES``, which such programs make by themselves if they may, holds every
column: tokens, names on cards, hashes of keys. This one names its columns, so a column that a later release adds is in no stream.

Rules:

- No token, fingerprint, name on a card, masked number (it may show six digits more than ``last4``), error's text, body or key.
- The columns of a table's primary key are among them: PostgreSQL refuses to update a row of a table whose publication lacks one.
- A migration that drops one of these columns takes it out of all publications first; PostgreSQL refuses it otherwise.

**The list is no wall.** REPLICATION belongs to the whole server. Who has it may decode the log by another plugin, or copy the
server (``pg_basebackup``). So the list keeps tokens out of what an honest reader gets, and
``CARDSYNC_TOKENS_AT_REST=encrypted`` keeps them out of the log itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql
from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError

from cardsync.db.session import ROLE_PREFIX
from cardsync.errors import Refused
from cardsync.store.access import grants, privileges
from cardsync.store.access.role_names import named

NAME: Final = "cardsync_cdc"  # of the publication, unless the operator says another
SCHEMA: Final = "cardsync"
# Of the tables, in the order in which they are printed. Views cannot be published, so these are the tables behind `registry`.
PUBLISHED: Final[Mapping[str, tuple[str, ...]]] = {
    "card_changes": ("seq", "at", "card_id", "customer", "change", "fields", "cause"),
    "feed_epochs": ("epoch", "began_at", "restored_to", "before_seq", "after_seq"),
    "cards": (
        *("card_id", "customer", "status", "pg_code", "pg_name", "brand", "last4"),
        *("expiry_month", "expiry_year", "expires_on", "is_expired", "is_preferred", "cvv_required", "agreements"),
        *("first_seen_at", "confirmed_at", "removed_at", "removed_because"),
    ),
    "customers": ("id", "environment", "customer_id", "reconciled_at", "dirty_since"),
    "agreements": ("environment", "agreement_id", "card_id"),
}
_ALL_COLUMNS: Final = frozenset((table, column) for table, columns in PUBLISHED.items() for column in columns)
# Amazon's PostgreSQL gives no login the attribute REPLICATION, and this role in its place.
RDS_ROLE: Final = "rds_replication"


# The publication.

_FOUND = text("""
    SELECT puballtables OR EXISTS (SELECT FROM pg_publication_namespace WHERE pnpubid = p.oid) AS is_open,
           pubinsert AND pubupdate AND pubdelete AND pubtruncate AS tells_all
    FROM pg_publication AS p WHERE pubname = :name
""")
# A table without a list of columns has all of them. A filter of rows would hide changes.
_TABLES = text("""
    SELECT n.nspname AS schema, c.relname AS table, r.prqual IS NOT NULL AS is_filtered,
           ARRAY(SELECT a.attname::text FROM pg_attribute AS a WHERE a.attrelid = r.prrelid AND a.attnum > 0
                 AND NOT a.attisdropped AND (r.prattrs IS NULL OR a.attnum = ANY(r.prattrs::int2[]))) AS columns
    FROM pg_publication AS p JOIN pg_publication_rel AS r ON r.prpubid = p.oid
    JOIN pg_class AS c ON c.oid = r.prrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE p.pubname = :name
""")


def statements(connection: Connection, name: str = NAME) -> list[str]:
    """What makes the publication, or puts it right; nothing if it is as it must be.

    Raises ``Refused`` for a publication that holds what is not ours: to put it right would take that away from somebody.
    """
    publication, tables = sql.Identifier(name).as_string(), ", ".join(_listed())
    found = connection.execute(_FOUND, {"name": name}).one_or_none()
    if found is None:
        return [f"CREATE PUBLICATION {publication} FOR TABLE {tables}"]
    rows = connection.execute(_TABLES, {"name": name}).all()
    if found.is_open or any(row.schema != SCHEMA for row in rows):
        raise Refused("the publication of that name holds other tables, or all: choose another name with --name")
    needed = []
    has = {(row.table, column) for row in rows for column in row.columns}
    if has != _ALL_COLUMNS or any(row.is_filtered for row in rows):
        needed.append(f"ALTER PUBLICATION {publication} SET TABLE {tables}")
    if not found.tells_all:
        needed.append(f"ALTER PUBLICATION {publication} SET (publish = 'insert, update, delete, truncate')")
    return needed


def _listed() -> Iterator[str]:
    return (f"{SCHEMA}.{table} ({', '.join(columns)})" for table, columns in PUBLISHED.items())


def publish(connection: Connection, name: str = NAME) -> bool:
    """Make the publication, or put it right, in the caller's transaction; false if there was nothing to do.

    Raises ``Refused`` as ``statements`` does, and if this login may not do it.
    """
    needed = statements(connection, name)
    try:
        for statement in needed:
            _execute(connection, statement)
    except ProgrammingError as error:
        if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            raise
        raise Refused(
            "this login may not make or alter that publication: have a superuser run what "
            "`cardsync db publication --sql` prints"
        ) from None
    return bool(needed)


@dataclass(frozen=True, slots=True)
class Publication:
    """A publication of this database that holds tables of ours: the columns beyond the list, and those that it lacks."""

    name: str
    beyond: tuple[str, ...]
    lacks: tuple[str, ...]


# The view says what a reader gets, also of a publication of all tables or of a schema.
_PUBLICATIONS = text("""
    SELECT pubname, tablename, attnames::text[] AS columns FROM pg_publication_tables WHERE schemaname = :schema
    ORDER BY pubname, tablename
""")


def publications(connection: Connection) -> list[Publication]:
    """All publications of this database that hold a table of ours, also those that others made."""
    found: dict[str, set[tuple[str, str]]] = {}
    for row in connection.execute(_PUBLICATIONS, {"schema": SCHEMA}):
        found.setdefault(row.pubname, set()).update((row.tablename, column) for column in row.columns)
    return [
        Publication(name, _spelled(has - _ALL_COLUMNS), _spelled(_ALL_COLUMNS - has)) for name, has in found.items()
    ]


def _spelled(columns: Collection[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(f"{SCHEMA}.{table}.{column}" for table, column in sorted(columns))


# The login.

_LOGIN = text("""
    SELECT rolcanlogin, rolsuper OR pg_has_role(r.oid, o.nspowner, 'MEMBER') AS is_owner, rolconnlimit,
           rolreplication OR EXISTS (
               SELECT FROM pg_auth_members AS m JOIN pg_roles AS g ON g.oid = m.roleid
               WHERE m.member = r.oid AND g.rolname = :rds_role
           ) AS replicates,
           EXISTS (SELECT FROM pg_roles WHERE rolname = :rds_role) AS is_rds,
           EXISTS (
               SELECT FROM pg_database AS d, aclexplode(d.datacl) AS g
               WHERE d.datname = current_database() AND g.grantee = r.oid AND g.privilege_type = 'CONNECT'
           ) AS connects,
           EXISTS (SELECT FROM aclexplode(o.nspacl) AS g WHERE g.grantee = r.oid AND g.privilege_type = 'USAGE') AS comes_in,
           EXISTS (
               SELECT FROM pg_db_role_setting AS s JOIN pg_database AS d ON d.oid = s.setdatabase
               WHERE s.setrole = r.oid AND d.datname = current_database() AND :limit = ANY(s.setconfig)
           ) AS is_limited,
           (SELECT min(one.rolname::text) FROM pg_roles AS one
            WHERE one.rolname = ANY(:roles) AND pg_has_role(r.oid, one.oid, 'MEMBER')) AS other_role
    FROM pg_roles AS r LEFT JOIN pg_namespace AS o ON o.nspname = :schema WHERE r.rolname = :login
""")
# What was granted to a role itself, and not through a membership. A column is null for a right on the whole table.
_EXPLICIT = """
    SELECT r.rolname AS role, n.nspname AS schema, c.relname AS table, a.attname AS column, g.privilege_type AS privilege
    FROM pg_namespace AS n JOIN pg_class AS c ON c.relnamespace = n.oid JOIN pg_attribute AS a ON a.attrelid = c.oid,
         aclexplode(a.attacl) AS g JOIN pg_roles AS r ON r.oid = g.grantee
    WHERE n.nspname = ANY(:schemas) AND g.grantee <> c.relowner
    UNION ALL
    SELECT r.rolname, n.nspname, c.relname, NULL, g.privilege_type
    FROM pg_namespace AS n JOIN pg_class AS c ON c.relnamespace = n.oid,
         aclexplode(c.relacl) AS g JOIN pg_roles AS r ON r.oid = g.grantee
    WHERE n.nspname = ANY(:schemas) AND g.grantee <> c.relowner
"""
_EXPLICIT_OF_ALL = text(_EXPLICIT)
_EXPLICIT_OF_LOGIN = text(f"SELECT * FROM ({_EXPLICIT}) AS found WHERE role = :login")

_Right = tuple[str, str, str | None, str]  # schema, table, column, privilege
_WANTED: Final[frozenset[_Right]] = frozenset((SCHEMA, table, column, "SELECT") for table, column in _ALL_COLUMNS)


def lacking(connection: Connection, login: str, *, connections: int, prefix: str = ROLE_PREFIX) -> list[str]:
    """What lets a login capture changes and no more: the statements that are not done yet.

    Raises ``Refused`` if there is no such login, if it owns the tables, or if it has another role of ours: the time-outs of a
    service's login would end a first copy of the tables, and such a login reads more than what is published.
    """
    names = [named(role, prefix) for role in privileges.ROLES]
    asked = {"login": login, "roles": names, "schema": SCHEMA, "rds_role": RDS_ROLE}
    row = connection.execute(_LOGIN, {**asked, "limit": f"temp_file_limit={grants.TEMP_FILE_LIMIT}"}).one_or_none()
    grants.require_login(None if row is None else row.rolcanlogin)
    assert row is not None
    if row.is_owner:
        raise Refused("that login owns the tables, or is a superuser: make one of its own for this")
    if row.other_role is not None:
        raise Refused(f"that login is a {row.other_role}: make one of its own for this")
    role = sql.Identifier(login).as_string()
    here = sql.Identifier(connection.execute(text("SELECT current_database()")).scalar_one()).as_string()
    needed = [] if row.connects else [f"GRANT CONNECT ON DATABASE {here} TO {role}"]
    needed += [] if row.comes_in else [f"GRANT USAGE ON SCHEMA {SCHEMA} TO {role}"]
    found = connection.execute(_EXPLICIT_OF_LOGIN, {"schemas": [SCHEMA], "login": login})
    if {(one.schema, one.table, one.column, one.privilege) for one in found} != _WANTED:
        needed.append(f"REVOKE ALL ON ALL TABLES IN SCHEMA {SCHEMA} FROM {role}")
        for table, columns in PUBLISHED.items():
            needed.append(f"GRANT SELECT ({', '.join(columns)}) ON {SCHEMA}.{table} TO {role}")
    if not row.replicates:
        needed.append(f"GRANT {RDS_ROLE} TO {role}" if row.is_rds else f"ALTER ROLE {role} REPLICATION")
    if row.rolconnlimit != connections:
        needed.append(f"ALTER ROLE {role} CONNECTION LIMIT {connections}")
    if not row.is_limited:
        needed.append(f"ALTER ROLE {role} IN DATABASE {here} SET temp_file_limit = '{grants.TEMP_FILE_LIMIT}'")
    return needed


def let_capture(connection: Connection, login: str, *, connections: int, prefix: str = ROLE_PREFIX) -> list[str]:
    """Let a login capture changes, in the caller's transaction; return the statements that need a more powerful login.

    Raises ``Refused`` as ``lacking`` does.
    """
    for statement in lacking(connection, login, connections=connections, prefix=prefix):
        try:
            with connection.begin_nested():
                _execute(connection, statement)
        except ProgrammingError as error:
            if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
                raise
    # PostgreSQL passes over some grants with a warning alone. So it is asked what is there now.
    return lacking(connection, login, connections=connections, prefix=prefix)


def readers(connection: Connection) -> set[str]:
    """The roles that may read published columns of our tables and nothing else of ours."""
    rights: dict[str, set[_Right]] = {}
    for one in connection.execute(_EXPLICIT_OF_ALL, {"schemas": list(privileges.SCHEMAS)}):
        rights.setdefault(one.role, set()).add((one.schema, one.table, one.column, one.privilege))
    return {role for role, has in rights.items() if has <= _WANTED}


def _execute(connection: Connection, statement: str) -> None:
    """A name may hold a percent sign, which is the driver's mark of a parameter."""
    connection.exec_driver_sql(statement.replace("%", "%%"))
