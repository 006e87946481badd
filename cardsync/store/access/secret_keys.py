"""The deployment's secret keys, as the database knows them: each one holds the key of the fingerprints, wrapped.

The key of the fingerprints recognises a token again. It must stay as it is: a removed card has no token left to make a new
fingerprint from, and a process that goes by another key would take every card for new and every known one for absent. So it is a
key of its own, made by chance at first use, and ``CARDSYNC_SECRET_KEY`` only *wraps* it (``cardsync.ciphers``). A rotation writes
the same key wrapped by the new secret key; no card changes, and processes with the old and with the new key work side by side.

Rejected: fingerprints keyed by the secret key itself, with a version beside each. Active cards could be given new ones, removed
cards could not, so that the old key would have to stay in the settings for as long as one of them may come back; and during a
rotation a process with the old key would remove what a process with the new key wrote.

A database of an earlier release has its first secret key for the key of its fingerprints. It keeps it, wrapped like any other.
``gate.secret_check`` is a check of the key of the fingerprints, as it always was: an earlier release checks its secret with it.
"""

from __future__ import annotations

import datetime as dt
import hmac
import os
from dataclasses import dataclass

from sqlalchemy import Connection, text

from cardsync.ciphers import KEY_BYTES, KeyRing, SecretKey
from cardsync.errors import Misconfigured

_ABOUT = b"cardsync fingerprints"

_KNOWN = text("SELECT key_id, fingerprint_key FROM cardsync.secret_keys WHERE key_id = ANY(:ids)")
_ADOPT = text("""
    INSERT INTO cardsync.secret_keys (key_id, fingerprint_key) VALUES (:key_id, :wrapped) ON CONFLICT (key_id) DO NOTHING
""")
# The owner's function: no process may change the check once it is there.
_BIND = text("SELECT cardsync.bind_secret(:check)")


def fingerprint_key(connection: Connection, ring: KeyRing) -> bytes:
    """The key of this database's fingerprints; made at first use, and then bound to the current secret key.

    Any key of the ring that the database knows will do, and the current one is made known. Raises ``Misconfigured`` if it knows
    none of them.
    """
    rows = connection.execute(_KNOWN, {"ids": [key.key_id for key in ring.keys]})
    wrapped = {bytes(row.key_id): bytes(row.fingerprint_key) for row in rows}
    for key in ring.keys:
        if key.key_id in wrapped:
            found = key.unwrap(wrapped[key.key_id], _ABOUT)
            break
    else:
        found = _first(connection, ring)
    if ring.current.key_id not in wrapped:
        _adopt(connection, ring.current, found)
    return found


def check_secret(connection: Connection, ring: KeyRing) -> None:
    """Raise ``Misconfigured`` if the database knows none of these secret keys; bind it to the current one at first use."""
    fingerprint_key(connection, ring)


def _first(connection: Connection, ring: KeyRing) -> bytes:
    """The key of a database that knows none of the ring: a new one, or that of an earlier release."""
    made = os.urandom(KEY_BYTES)
    check = bytes(connection.execute(_BIND, {"check": _check(made)}).scalar_one())
    if hmac.compare_digest(check, _check(made)):
        return made
    for key in ring.keys:
        if hmac.compare_digest(check, _check(key.secret)) and not known(connection):
            _adopt(connection, key, key.secret)  # known like any other: it works until it is retired
            return key.secret
    # Two processes of one deployment may be the first at the same time: this one waited, and reads what the other one wrote.
    rows = connection.execute(_KNOWN, {"ids": [key.key_id for key in ring.keys]})
    found = {bytes(row.key_id): bytes(row.fingerprint_key) for row in rows}
    for key in ring.keys:
        if key.key_id in found:
            return key.unwrap(found[key.key_id], _ABOUT)
    raise Misconfigured(
        "CARDSYNC_SECRET_KEY is not the one that this database was first used with; after a rotation, "
        "CARDSYNC_PREVIOUS_SECRET_KEYS must name the one before"
    )


def _adopt(connection: Connection, key: SecretKey, found: bytes) -> None:
    connection.execute(_ADOPT, {"key_id": key.key_id, "wrapped": key.wrap(found, _ABOUT)})


def _check(key: bytes) -> bytes:
    return hmac.digest(key, b"card-token-fingerprints", "sha256")


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A secret key that opens this database, by its id."""

    key_id: str
    added_at: dt.datetime


_ALL = text("SELECT encode(key_id, 'hex') AS key_id, added_at FROM cardsync.secret_keys ORDER BY added_at, key_id")


def known(connection: Connection) -> list[KnownKey]:
    """All secret keys that open this database, the oldest first."""
    return [KnownKey(row.key_id, row.added_at) for row in connection.execute(_ALL)]


_RETIRE = text("DELETE FROM cardsync.secret_keys WHERE key_id <> :current")


def retire(connection: Connection, ring: KeyRing) -> int:
    """Forget every secret key but the current one; how many it was. From then on they open nothing here."""
    return connection.execute(_RETIRE, {"current": ring.current.key_id}).rowcount
