"""The roles that privileges are granted to: made where they are missing, and what is lacking of them and of their rights.

Roles belong to the whole server and are in no dump of one database. A dump that is restored into a fresh server says that all
migrations ran, and the roles that they granted rights to are not there. So every ``cardsync db upgrade`` makes what is missing,
in its turn (``migrations/env.py``), and ``cardsync doctor`` compares. What is there already is left alone: an owner who may not
make roles (without CREATEROLE) can upgrade a server where a superuser made them. ``cardsync db roles --sql`` prints what a
superuser must run for such an owner.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Final

from psycopg import sql
from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError

from cardsync.db.session import LOGIN, ROLE_PREFIX
from cardsync.errors import Misconfigured
from cardsync.store.access import change_capture, privileges
from cardsync.store.access.privileges import ROLES
from cardsync.store.access.role_names import named

# A membership does not pass these on; they hold for sessions that log in as the role itself.
TIME_OUTS: Final[Mapping[str, str]] = {"statement_timeout": "30s", "idle_in_transaction_session_timeout": "60s"}

_MISSING = text("""
    SELECT wanted FROM unnest(CAST(:roles AS text[])) WITH ORDINALITY AS w (wanted, place)
    WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) ORDER BY place
""")
_SETTINGS = text("""
    SELECT r.rolname, setting FROM pg_db_role_setting AS s JOIN pg_roles AS r ON r.oid = s.setrole, unnest(s.setconfig) AS setting
    WHERE s.setdatabase = 0 AND r.rolname = ANY(:roles)
""")
_SCHEMAS_MISSING = text("""
    SELECT wanted FROM unnest(CAST(:schemas AS text[])) AS wanted WHERE to_regnamespace(wanted) IS NULL ORDER BY 1
""")


_MAY = text("""
    SELECT rolsuper OR rolcreaterole AS make_roles,
           has_database_privilege(current_database(), 'CREATE') AS make_schemas
    FROM pg_roles WHERE rolname = current_user
""")


def missing(connection: Connection, prefix: str = ROLE_PREFIX) -> list[str]:
    """Those of our roles that the server does not have."""
    return list(connection.execute(_MISSING, {"roles": [named(role, prefix) for role in ROLES]}).scalars())


def require_rights(connection: Connection, prefix: str = ROLE_PREFIX) -> None:
    """Raise ``Misconfigured``, in one line that says who must do it, if this login may not make what the server lacks."""
    may = connection.execute(_MAY).one()
    lacks = [] if may.make_roles else missing(connection, prefix)
    if not may.make_schemas:
        lacks += [f"schema {name}" for name in _missing_schemas(connection)]
    if lacks:
        raise Misconfigured(
            f"this login may not make {', '.join(lacks)}: have a superuser run what `cardsync db roles --sql` prints"
        )


def ensure(connection: Connection, prefix: str = ROLE_PREFIX) -> list[str]:
    """Make the missing roles, and set the time-outs that they lack; return the names of those made.

    In the caller's transaction. Raises ``Misconfigured`` as ``require_rights`` does. Time-outs of roles that are another owner's
    are left as they are, since no process signs in as such a role.
    """
    require_rights(connection, prefix)
    made = missing(connection, prefix)
    for role in made:
        connection.exec_driver_sql(_make(role))
    for statement in _time_outs(connection, prefix):
        with contextlib.suppress(ProgrammingError), connection.begin_nested():
            connection.exec_driver_sql(statement)
    return made


def statements(connection: Connection, prefix: str = ROLE_PREFIX) -> Iterator[str]:
    """What a superuser runs where the owner may make neither roles nor schemas: only what this server lacks."""
    row = connection.execute(text("SELECT current_user AS login, current_database() AS database")).one()
    owner, database = sql.Identifier(row.login).as_string(), sql.Identifier(row.database).as_string()
    for role in missing(connection, prefix):
        yield _make(role)
    yield from _time_outs(connection, prefix)
    for schema in _missing_schemas(connection):
        yield f"CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {owner}"
    # It may own the schemas alone, and then comes in as everybody does, which a database that is closed ends.
    yield f"GRANT CONNECT, TEMPORARY ON DATABASE {database} TO {owner}"


def _missing_schemas(connection: Connection) -> list[str]:
    return list(connection.execute(_SCHEMAS_MISSING, {"schemas": list(privileges.SCHEMAS)}).scalars())


def _make(role: str) -> str:
    """Another database's upgrade may make it at this moment."""
    return (
        f"DO $$ BEGIN CREATE ROLE {role} NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
    )


def _time_outs(connection: Connection, prefix: str) -> Iterator[str]:
    """The settings that the roles of services lack."""
    roles = [named(role, prefix) for role in privileges.OTHERS]
    has = {(row.rolname, row.setting) for row in connection.execute(_SETTINGS, {"roles": roles})}
    for role in roles:
        for name, value in TIME_OUTS.items():
            if (role, f"{name}={value}") not in has:
                yield f"ALTER ROLE {role} SET {name} = '{value}'"


# Logins of our processes, with what they are given for this database. One that is given something for another database alone is
# a login of another deployment on this server.
_LOGINS = text("""
    SELECT r.rolname, coalesce(s.setconfig, '{}') AS settings
    FROM pg_roles AS r LEFT JOIN pg_db_role_setting AS s ON s.setrole = r.oid AND s.setdatabase = (
        SELECT oid FROM pg_database WHERE datname = current_database()
    )
    WHERE r.rolcanlogin AND NOT r.rolsuper AND EXISTS (
        SELECT FROM pg_auth_members AS m JOIN pg_roles AS o ON o.oid = m.roleid
        WHERE m.member = r.oid AND o.rolname = ANY(:processes)
    ) AND (s.setrole IS NOT NULL OR NOT EXISTS (
        SELECT FROM pg_db_role_setting AS e WHERE e.setrole = r.oid AND e.setdatabase <> 0
    ))
    ORDER BY r.rolname
""")


def lacking_settings(connection: Connection, prefix: str = ROLE_PREFIX) -> list[str]:
    """Settings that roles of services, or logins of processes, lack or have otherwise, as ``role: setting=value``."""
    roles = [named(role, prefix) for role in privileges.OTHERS]
    has = {(row.rolname, row.setting) for row in connection.execute(_SETTINGS, {"roles": roles})}
    wanted = [f"{name}={value}" for name, value in TIME_OUTS.items()]
    found = [f"{role}: {setting}" for role in roles for setting in wanted if (role, setting) not in has]
    processes = [named(role, prefix) for role in (*privileges.PROCESSES, privileges.CONSOLE)]
    for login in connection.execute(_LOGINS, {"processes": processes}):
        given = {(name.lower(), value) for name, _, value in (one.partition("=") for one in login.settings)}
        found += [f"{login.rolname}: {name}={value}" for name, value in LOGIN.items() if (name, value) not in given]
    return found


def lacking(connection: Connection, prefix: str = ROLE_PREFIX) -> list[str]:
    """What ``privileges`` lists and the database does not grant, as ``role: privilege on thing``. All roles must be there."""
    found = connection.execute(_LACKING, {"wanted": json.dumps(list(_wanted(prefix)))})
    return [f"{row.role}: {row.privilege} on {row.thing}" for row in found]


# Roles of another prefix, or of strangers, that may come into our schemas: their members read what they may.
_STRANGERS = text("""
    SELECT DISTINCT r.rolname FROM pg_namespace AS n, aclexplode(n.nspacl) AS g JOIN pg_roles AS r ON r.oid = g.grantee
    WHERE n.nspname = ANY(:schemas) AND g.grantee <> n.nspowner AND NOT r.rolname = ANY(:roles) ORDER BY 1
""")


def strangers(connection: Connection, prefix: str = ROLE_PREFIX) -> list[str]:
    """Roles that may come into our schemas and are none of ours, such as those of an earlier prefix.

    Not among them are logins that `cardsync db grant --cdc` let in.
    """
    ours = [named(role, prefix) for role in ROLES]
    found = connection.execute(_STRANGERS, {"schemas": list(privileges.SCHEMAS), "roles": ours}).scalars().all()
    known = change_capture.readers(connection) if found else set()
    return [role for role in found if role not in known]


# The functions raise for a thing that is not there, which a database at the newest migration has.
_LACKING = text("""
    SELECT w[1] AS role, w[2] AS privilege, w[3] AS thing FROM (
        SELECT ARRAY[e->>0, e->>1, e->>2, e->>3, e->>4] AS w FROM jsonb_array_elements(CAST(:wanted AS jsonb)) AS e
    ) AS wanted
    WHERE NOT CASE w[4]
        WHEN 'SCHEMA' THEN has_schema_privilege(w[1], w[3], w[2])
        WHEN 'SEQUENCE' THEN has_sequence_privilege(w[1], w[3], w[2])
        WHEN 'FUNCTION' THEN has_function_privilege(w[1], w[3], w[2])
        WHEN 'COLUMN' THEN has_column_privilege(w[1], w[3], w[5], w[2])
        ELSE has_table_privilege(w[1], w[3], w[2])
    END
""")
_PRIVILEGE: Final = re.compile(r"([A-Z]+)(?: \(([^)]*)\))?")


def _wanted(prefix: str) -> Iterator[tuple[str, str, str, str, str]]:
    """Role, privilege, thing, its kind, and the column for a privilege on one column."""
    for kind, things in privileges.KINDS:
        for thing, rights in things.items():
            for role, said in rights.items():
                for privilege, columns in _PRIVILEGE.findall(said):
                    for column in columns.split(",") if columns else ():
                        yield named(role, prefix), privilege, thing, "COLUMN", column.strip()
                    if not columns:
                        yield named(role, prefix), privilege, thing, kind, ""
