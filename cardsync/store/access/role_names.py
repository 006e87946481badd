"""The names that our roles have on one server, and what released migrations say of roles and schemas, said for that server.

Roles belong to the whole server. Two deployments on one server that share them share their logins too: a login of staging's
that may read tokens may read production's. So each deployment may have names of its own (``CARDSYNC_ROLE_PREFIX``). Code and
migrations write the names with the usual prefix; here they get the deployment's.

A released migration is never edited, and the first ones make roles and a schema without a look at what is there. An owner
without CREATEROLE, or without CREATE on the database, is refused that even where a superuser made them before. So these
statements are left out (``roles.ensure`` makes what is missing, before the migrations), or look first.
"""

from __future__ import annotations

import re
from typing import Final

from cardsync.db.session import ROLE_PREFIX

_OURS: Final = re.compile(rf"\b{ROLE_PREFIX}(web|worker|console|reader|charger|deleter)\b")
# As migrations 0001, 0004 and 0023 write them.
_MAKES_ROLE: Final = re.compile(
    r"DO \$\$ BEGIN\s+CREATE ROLE \w+ NOLOGIN;\s+EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;[^\n]*\s+END \$\$"
)
_SETS_ROLE: Final = re.compile(r"^\s*ALTER ROLE \w+ SET \w+ = '\w+'", re.MULTILINE)
_MAKES_SCHEMA: Final = re.compile(r"\bCREATE SCHEMA (?:IF NOT EXISTS )?(\w+)")
_NOTHING: Final = "DO $$ BEGIN END $$"
_MAKE_SCHEMA: Final = r"DO $$ BEGIN IF to_regnamespace('\1') IS NULL THEN CREATE SCHEMA \1; END IF; END $$"


def named(role: str, prefix: str) -> str:
    """The name on this server of a role whose usual name is ``role``."""
    return prefix + role.removeprefix(ROLE_PREFIX)


def renamed(statements: str, prefix: str) -> str:
    """Statements that name our roles, with the names that they have on this server. Safe to repeat."""
    return _OURS.sub(lambda found: named(found[0], prefix), statements)


def for_this_server(statements: str, prefix: str) -> str:
    """What a migration sends, for a server that has our roles already, and perhaps our schemas. Safe to repeat."""
    without = _SETS_ROLE.sub(_NOTHING, _MAKES_ROLE.sub(_NOTHING, statements))
    if "DO $$ BEGIN IF to_regnamespace" not in without:
        without = _MAKES_SCHEMA.sub(_MAKE_SCHEMA, without)
    return renamed(without, prefix)
