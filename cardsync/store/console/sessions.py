"""Sessions of the console: opened by a link, found by their secret, and ended.

The browser holds the secret, the database its hash. A session lives for 12 hours and is not prolonged. All that the console's
login may write goes through functions that are given the secret (migration 0023), so a stolen login alone acts for no operator.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from cardsync.errors import Conflict, NotFound, NotSignedIn, Refused, RoleTooLow, SignInTooOld
from cardsync.store.console.operators import Role, may

FRESH_SECONDS: Final = (
    600  # the newest sign-in that erasing, the brake and bulk actions want; the functions have it too
)

# SQLSTATE of a refusal -> what it means (migration 0023).
_REFUSALS: Final[dict[str, type[Refused]]] = {
    "CC001": NotSignedIn,
    "CC003": RoleTooLow,
    "CC010": SignInTooOld,
    "CC023": Conflict,
    "CC404": NotFound,
    "CC409": Conflict,
    "22023": Refused,  # what the deletions' own function says of its input
    "23505": Conflict,
    "55000": Conflict,
    "P0002": NotFound,
}


@dataclass(frozen=True, slots=True)
class Operator:
    """Who is signed in. ``now`` is the database's clock, ``began_at`` the moment of the sign-in."""

    operator_id: uuid.UUID
    name: str
    role: Role
    began_at: dt.datetime
    expires_at: dt.datetime
    now: dt.datetime

    def may(self, needed: Role) -> bool:
        """Tell whether the operator's role includes ``needed``."""
        return may(self.role, needed)

    @property
    def is_fresh(self) -> bool:
        """Whether the sign-in is new enough for what wants a new one."""
        return (self.now - self.began_at).total_seconds() < FRESH_SECONDS


SENT_BEFORE: Final = "this form was sent before, and what it made was shown then"


@contextmanager
def refusals() -> Iterator[None]:
    """Raise what the console's functions refuse as an error of ours; any other error passes."""
    try:
        yield
    except DBAPIError as error:
        refusal = _REFUSALS.get(str(getattr(error.orig, "sqlstate", None)))
        if refusal is None:
            raise
        diagnosis = getattr(error.orig, "diag", None)
        said = getattr(diagnosis, "message_primary", None)
        if getattr(diagnosis, "constraint_name", None) == "operator_actions_request_key":
            said = SENT_BEFORE
        raise refusal(said or "refused") from error


_FIND = text("SELECT * FROM cardsync.console_operator(:secret)")


def find(connection: Connection, secret: bytes) -> Operator | None:
    """The operator of that session; ``None`` if it is unknown or has ended, or the operator is disabled."""
    row = connection.execute(_FIND, {"secret": secret}).one_or_none()
    return None if row is None else Operator(**row._asdict())


_OPEN = text("SELECT name FROM cardsync.open_console_session(:link, :secret, :came_from)")


def open_by_link(connection: Connection, link: bytes, secret: bytes, *, came_from: str | None) -> str | None:
    """Use a link up and begin a session; return the operator's name, ``None`` for a link that is unknown, used or too old."""
    parameters = {"link": link, "secret": secret, "came_from": came_from}
    name: str | None = connection.execute(_OPEN, parameters).scalar_one_or_none()
    return name


_CLOSE = text("SELECT cardsync.close_console_session(:secret, :everywhere, :came_from)")


def close(connection: Connection, secret: bytes, *, everywhere: bool, came_from: str | None) -> int:
    """End a session, or all sessions of its operator; return how many were ended."""
    ended: int = connection.execute(
        _CLOSE, {"secret": secret, "everywhere": everywhere, "came_from": came_from}
    ).scalar_one()
    return ended


_OPEN_BY_ISSUER = text("""
    SELECT cardsync.open_session_by_issuer(:issuer, :subject, :name, :role, :secret, :came_from)
""")


def open_by_issuer(
    connection: Connection,
    *,
    issuer: str,
    subject: str,
    name: str,
    role: Role,
    secret: bytes,
    came_from: str | None,
) -> str | None:
    """Begin a session of an operator that an issuer vouches for, with the role that it gives now.

    Returns the operator's name; ``None`` for one who was disabled here.
    """
    parameters = {
        "issuer": issuer,
        "subject": subject,
        "name": name,
        "role": role,
        "secret": secret,
        "came_from": came_from,
    }
    opened: str | None = connection.execute(_OPEN_BY_ISSUER, parameters).scalar_one_or_none()
    return opened
