"""Operators of the console: invited by a link that works once, listed, and disabled.

A name is one person's for good, since the journal says who did what by it: a disabled operator's row stays, and inviting the name
again enables it. A link is 256 random bits, and only its hash is kept; it lives for 24 hours. Inviting a name again makes an
older link useless, and ends the operator's sessions.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
import uuid
from dataclasses import dataclass
from typing import Final, Literal, get_args

from sqlalchemy import Connection, text

Role = Literal["viewer", "support", "operator", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)  # each may do what those before it may

NAME_MAX: Final = 100  # characters
LINK_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class ListedOperator:
    """An operator as the list shows one: ``invited_until`` while a link waits to be used."""

    operator_id: uuid.UUID
    name: str
    role: Role
    created_at: dt.datetime
    disabled_at: dt.datetime | None
    invited_until: dt.datetime | None
    signed_in_at: dt.datetime | None
    sessions: int


def new_secret() -> bytes:
    """Random bytes for a link or a session."""
    return secrets.token_bytes(LINK_BYTES)


def may(role: Role, needed: Role) -> bool:
    """Tell whether ``role`` includes ``needed``."""
    return ROLES.index(role) >= ROLES.index(needed)


_INVITE = text("""
    SELECT cardsync.invite_operator(:name, :role, :link_hash, NULL, :actor, NULL, NULL)
""")


def invite(connection: Connection, name: str, role: Role, link: bytes, *, by: str) -> uuid.UUID:
    """Let an operator sign in with ``link``, once and within 24 hours; older links and sessions of that name end."""
    parameters = {"name": name, "role": role, "link_hash": hashlib.sha256(link).digest(), "actor": by}
    operator_id: uuid.UUID = connection.execute(_INVITE, parameters).scalar_one()
    return operator_id


_DISABLE = text("SELECT cardsync.disable_operator(:name, NULL, :actor, NULL, NULL)")


def disable(connection: Connection, name: str, *, by: str) -> bool:
    """End an operator's sessions and link, and let no new ones begin; false if there is no such operator, or it was done."""
    disabled: bool = connection.execute(_DISABLE, {"name": name, "actor": by}).scalar_one()
    return disabled


_LIST = text("""
    SELECT o.operator_id, o.name, o.role, o.created_at, o.disabled_at,
           CASE WHEN o.link_expires_at > clock_timestamp() THEN o.link_expires_at END AS invited_until, o.signed_in_at,
           (SELECT count(*) FROM cardsync.console_sessions AS s
            WHERE s.operator_id = o.operator_id AND s.ended_at IS NULL AND s.expires_at > clock_timestamp()) AS sessions
    FROM cardsync.operators AS o ORDER BY o.name COLLATE "C" LIMIT :limit
""")
SHOWN_MAX: Final = 1_000  # operators of one deployment


def listing(connection: Connection) -> list[ListedOperator]:
    """All operators by name, disabled ones too."""
    return [ListedOperator(*row) for row in connection.execute(_LIST, {"limit": SHOWN_MAX})]
