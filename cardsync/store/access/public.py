"""What PostgreSQL lets every login of the server do in our database, unless somebody takes it away.

A role of ours that may only read views still belongs to PUBLIC, and PUBLIC may by default: connect, make temporary tables and
large objects and write messages into the write-ahead log (each fills the disk, and ``temp_file_limit`` counts none of them), and
take any number of advisory locks: one session that takes some ten thousand uses up the server's shared memory for locks, and from
then on **no session can be opened, and statements fail that need one more lock, in every database of the server**.

``cardsync db close`` takes all that from PUBLIC in this database and gives our roles what they use. It is a command of its own
and no part of a migration, because a merchant may keep tables of its own in the same database: those applications may need what
is taken, and must be given it by name first. The functions belong to PostgreSQL's superuser, so only a superuser can take them;
the owner of the database can take the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql
from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError

from cardsync.db.session import ROLE_PREFIX
from cardsync.store.access import privileges
from cardsync.store.access.role_names import named

# Functions of pg_catalog by name, with all their signatures. No code of ours calls any.
TAKEN_FUNCTIONS: Final = (
    "lo_creat",
    "lo_create",
    "lo_from_bytea",
    "lo_put",  # one that was made before grows to 4 TB
    "lo_truncate",
    "lo_truncate64",
    "lowrite",
    "pg_export_snapshot",  # a file for each call, until the transaction ends
    "pg_logical_emit_message",
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_advisory_xact_lock",
    "pg_advisory_xact_lock_shared",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
    "pg_try_advisory_xact_lock",
    "pg_try_advisory_xact_lock_shared",
)

_OPEN = text("""
    SELECT what FROM (
        SELECT 1 AS place, 'connect' AS what FROM pg_database AS d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) AS g
        WHERE d.datname = current_database() AND g.grantee = 0 AND g.privilege_type = 'CONNECT'
        UNION
        SELECT 2, 'make temporary tables' FROM pg_database AS d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) AS g
        WHERE d.datname = current_database() AND g.grantee = 0 AND g.privilege_type = 'TEMPORARY'
        UNION
        SELECT 3, 'make tables in the schema public' FROM pg_namespace AS n, aclexplode(n.nspacl) AS g
        WHERE n.nspname = 'public' AND g.grantee = 0 AND g.privilege_type = 'CREATE'
        UNION
        SELECT CASE WHEN p.proname LIKE 'lo%' THEN 4 WHEN p.proname LIKE '%advisory%' THEN 6 ELSE 5 END,
               CASE WHEN p.proname LIKE 'lo%' THEN 'make large objects'
                    WHEN p.proname LIKE '%advisory%' THEN 'take advisory locks'
                    ELSE 'write into the log of changes or export snapshots' END
        FROM pg_proc AS p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS g
        WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY(:functions)
          AND g.grantee = 0 AND g.privilege_type = 'EXECUTE'
    ) AS found ORDER BY place
""")

_FUNCTIONS = text("""
    SELECT p.oid::regprocedure::text FROM pg_proc AS p
    WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY(:functions) ORDER BY 1
""")

# Logins that come in as PUBLIC alone. Only direct rights and inherited memberships count, as in PostgreSQL's own check.
_LOSING = text("""
    SELECT r.rolname FROM pg_roles AS r, pg_database AS d
    WHERE d.datname = current_database() AND r.rolcanlogin AND NOT r.rolsuper AND r.oid <> d.datdba
      AND NOT EXISTS (
          SELECT FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) AS g
          WHERE g.grantee <> 0 AND g.privilege_type = 'CONNECT' AND pg_has_role(r.oid, g.grantee, 'USAGE')
      )
      AND NOT EXISTS (SELECT FROM pg_roles AS o WHERE o.rolname = ANY(:roles) AND pg_has_role(r.oid, o.oid, 'USAGE'))
    ORDER BY 1
""")


@dataclass(frozen=True, slots=True)
class Closed:
    """What closing came to: what PUBLIC may do still, and the logins that may not connect any more."""

    still_open: tuple[str, ...]
    shut_out: tuple[str, ...]


def open_to_all(connection: Connection) -> tuple[str, ...]:
    """What every login of the server may do in this database, in words; empty once it is closed."""
    return tuple(connection.execute(_OPEN, {"functions": list(TAKEN_FUNCTIONS)}).scalars())


def statements(connection: Connection, prefix: str = ROLE_PREFIX) -> list[str]:
    """What closes this database, one statement each, the grants first. Safe to repeat."""
    database = sql.Identifier(connection.execute(text("SELECT current_database()")).scalar_one()).as_string()
    functions: Sequence[str] = connection.execute(_FUNCTIONS, {"functions": list(TAKEN_FUNCTIONS)}).scalars().all()
    return [
        f"GRANT CONNECT ON DATABASE {database} TO {', '.join(_named(privileges.ROLES, prefix))}",
        f"GRANT TEMPORARY ON DATABASE {database} TO {named(privileges.WORKER, prefix)}",  # an import stages its rows in one
        f"REVOKE CONNECT, TEMPORARY ON DATABASE {database} FROM PUBLIC",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        # The release before takes advisory locks, and runs beside this one during an update.
        *(
            f"GRANT EXECUTE ON FUNCTION {function} TO {', '.join(_named(privileges.PROCESSES, prefix))}"
            for function in functions
            if "advisory" in function
        ),
        *(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC" for function in functions),
    ]


def _named(roles: Sequence[str], prefix: str) -> list[str]:
    return [named(role, prefix) for role in roles]


def close(connection: Connection, prefix: str = ROLE_PREFIX) -> Closed:
    """Close this database as far as the caller's login may. PostgreSQL passes over what it may not, with a warning."""
    shut_out = tuple(connection.execute(_LOSING, {"roles": _named(privileges.ROLES, prefix)}).scalars())
    for statement in statements(connection, prefix):
        # Without any right on a thing PostgreSQL refuses: a superuser has closed that one before.
        with contextlib.suppress(ProgrammingError), connection.begin_nested():
            connection.exec_driver_sql(statement.replace("%", "%%"))
    return Closed(open_to_all(connection), shut_out)
