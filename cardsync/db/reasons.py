"""Why the database does not do what was asked, in a closed list of words: what an operator on call needs in the log line.

PostgreSQL's own words are used where it has some. No text of an error is repeated: it may quote a row, or name the address.
Errors with an SQLSTATE are told by it. A connection that was never made has none, so libpq's texts are searched for signs; they
are English, or those of the C library. A text in another language ends as ``other``, and the error's class stands beside it in
the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from psycopg import Error as DriverError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from cardsync.db.session import OldServer, UnusableServer

NO_CONNECTION_FREE: Final = "no connection became free"
OTHER: Final = "other"

# SQLSTATE, or its class of two characters, to the reason. https://www.postgresql.org/docs/current/errcodes-appendix.html
STATES: Final[dict[str, str]] = {
    "28P01": "password authentication failed",
    "28000": "login refused",
    "3D000": "no such database",
    "25006": "read-only",
    "42501": "permission denied",
    "42P01": "not migrated",
    "3F000": "not migrated",
    "40P01": "deadlock",
    "53100": "disk full",
    "53200": "out of memory",
    "53300": "too many connections",
    "55P03": "lock not free in time",
    "57014": "statement took too long",
    "57P01": "shutting down",
    "57P02": "crashed",
    "57P03": "starting up or shutting down",
    "57P05": "idle for too long",
    "08": "connection lost",
    "22": "refused a value",
    "23": "refused a row",
    "40": "try again",
    "53": "out of resources",
    "58": "disk trouble",
    "XX": "damaged",
}

# Signs in the texts of libpq and of poolers, for sessions that were never opened. The first that is found counts: of several
# hosts each says something, and a server that answers tells more than one that does not.
SIGNS: Final[tuple[tuple[str, str], ...]] = (
    ("password authentication failed", "password authentication failed"),
    ("SASL authentication failed", "password authentication failed"),
    ("auth failed", "password authentication failed"),
    ("no password supplied", "no password set"),
    ("no pg_hba.conf entry", "login refused"),
    ('role "', "login refused"),
    ("unsupported startup parameter", "pooler refuses a startup parameter"),
    ("too many connections", "too many connections"),
    ("too many clients", "too many connections"),
    ("remaining connection slots", "too many connections"),
    ("no more connections allowed", "too many connections"),
    ("the database system is", "starting up or shutting down"),
    ("certificate verify failed", "certificate not verified"),
    ("server certificate for", "certificate is for another host"),
    ("root certificate", "certificate authority not readable"),
    ("does not support SSL", "server speaks no TLS"),
    ("SSL", "TLS handshake failed"),
    ("session is read-only", "read-only"),
    ("session is not read-only", "not a standby"),
    ("is not in hot standby", "not a standby"),
    ('database "', "no such database"),
    ("could not translate host name", "no such host"),
    ("failed to resolve host", "no such host"),
    ("Name or service not known", "no such host"),
    ("Connection refused", "connection refused"),
    ("No such file or directory", "no such socket"),
    ("No route to host", "no route to host"),
    ("Network is unreachable", "no route to host"),
    ("timeout expired", "no answer in time"),
    ("timed out", "no answer in time"),
    ("server closed the connection unexpectedly", "connection lost"),
    ("connection is lost", "connection lost"),
    ("connection is closed", "connection lost"),
    ("Connection reset", "connection lost"),
    ("Broken pipe", "connection lost"),
    ("connection is bad", "connection lost"),
)
REASONS: Final = frozenset(STATES.values()) | {reason for _, reason in SIGNS} | {NO_CONNECTION_FREE, OTHER}


def why(error: BaseException) -> str:
    """Return the reason, one of ``REASONS``; for a server that cannot be used, what is wrong with it."""
    for one in _chain(error):
        if isinstance(one, UnusableServer | OldServer):
            return str(one)  # our own words, without the address
        if isinstance(one, PoolTimeout):
            return NO_CONNECTION_FREE
        if isinstance(one, DriverError) and (reason := _of_driver(one)) is not None:
            return reason
    return OTHER


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The driver's own error first: SQLAlchemy's text holds the statement."""
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        seen.append(following)
        origin = following.orig if isinstance(following, DBAPIError) else None
        following = origin or following.__cause__ or following.__context__
    yield from reversed(seen)


def _of_driver(error: DriverError) -> str | None:
    state = error.sqlstate
    if state is not None:
        return STATES.get(state) or STATES.get(state[:2])
    said = str(error)
    return next((reason for sign, reason in SIGNS if sign in said), None)
