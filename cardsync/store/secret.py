"""Which key the fingerprints in this database were made with: it is bound to the first one, and keeps only a check of it."""

from __future__ import annotations

import hmac

from sqlalchemy import Connection, text

from cardsync.errors import Misconfigured

_SET_CHECK = text("UPDATE cardsync.gate SET secret_check = :check WHERE secret_check IS NULL")
_GET_CHECK = text("SELECT secret_check FROM cardsync.gate")


def check_secret(connection: Connection, secret: bytes) -> None:
    """Bind the database to the fingerprints' key at first use. Raises ``Misconfigured`` if it was made with another.

    With another key every card would look new and every known one absent.
    """
    check = hmac.digest(secret, b"card-token-fingerprints", "sha256")
    known = connection.execute(_GET_CHECK).scalar_one()
    if known is None:
        connection.execute(_SET_CHECK, {"check": check})
        known = connection.execute(_GET_CHECK).scalar_one()
    if not hmac.compare_digest(known, check):
        raise Misconfigured("CARDSYNC_SECRET_KEY is not the one that this database was first used with")
