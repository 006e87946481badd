"""What operators do, each by one function of the database (migrations 0024 and after).

A function finds by the session's secret who acts, refuses a role that is too low, carries the action out under the row's guard,
and writes the journal, in one transaction. ``key`` makes a request that is sent twice one action.

Raises ``NotSignedIn``, ``RoleTooLow``, ``SignInTooOld``, ``NotFound``, ``Conflict`` or ``Refused``.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, TextClause, text

from cardsync.store.console.sessions import refusals


@dataclass(frozen=True, slots=True)
class Act:
    """Who acts, by the session's secret; from where; and the key of the request."""

    secret: bytes
    came_from: str | None
    key: uuid.UUID


def carry_out(connection: Connection, function: TextClause, act: Act, **given: Any) -> Any:
    """Call a function of the database with who acts and what is given beside; return its value. Raises what the module says."""
    parameters = {"secret": act.secret, "came_from": act.came_from, "key": act.key, **given}
    with refusals():
        return connection.execute(function, parameters).scalar_one()


_LOOK_NOW = text("SELECT cardsync.console_look_now(:secret, :customer, :came_from, :key)")


def look_now(connection: Connection, act: Act, customer: int) -> bool:
    """Make a customer due for a look at once; false if this request did so before."""
    asked: bool = carry_out(connection, _LOOK_NOW, act, customer=customer)
    return asked


_REQUEST_DELETION = text("""
    SELECT cardsync.console_request_deletion(:secret, :card_id, :reason, :when_unlocked, :came_from, :key)
""")


def request_deletion(
    connection: Connection, act: Act, card_id: uuid.UUID, *, reason: str | None, when_unlocked: bool
) -> uuid.UUID:
    """Ask for a card's deletion, or join the one that is under way; return the deletion."""
    deletion_id: uuid.UUID = carry_out(
        connection, _REQUEST_DELETION, act, card_id=card_id, reason=reason, when_unlocked=when_unlocked
    )
    return deletion_id


_PAUSE_CALLS = text("SELECT cardsync.console_pause_calls(:secret, :reason, :came_from, :key)")
_RESUME_CALLS = text("SELECT cardsync.console_resume_calls(:secret, :reason, :came_from, :key)")


def pause_calls(connection: Connection, act: Act, *, reason: str | None) -> bool:
    """Let no call to Ottu be made from now on; false if this request did so before. Raises ``Conflict`` if one did already."""
    paused: bool = carry_out(connection, _PAUSE_CALLS, act, reason=reason)
    return paused


def resume_calls(connection: Connection, act: Act, *, reason: str | None) -> bool:
    """Let calls go on; false if this request did so before. Raises ``Conflict`` if no operator has paused them."""
    resumed: bool = carry_out(connection, _RESUME_CALLS, act, reason=reason)
    return resumed


_INVITE = text("""
    SELECT cardsync.console_invite_operator(:secret, :name, :role, :link_hash, :came_from, :key)
""")


def invite_operator(connection: Connection, act: Act, name: str, role: str, link: bytes) -> uuid.UUID:
    """Let an operator sign in with ``link``, once. Raises ``Conflict`` for the own name."""
    link_hash = hashlib.sha256(link).digest()
    operator_id: uuid.UUID = carry_out(connection, _INVITE, act, name=name, role=role, link_hash=link_hash)
    return operator_id


_DISABLE = text("SELECT cardsync.console_disable_operator(:secret, :name, :came_from, :key)")


def disable_operator(connection: Connection, act: Act, name: str) -> bool:
    """End an operator's sessions and link; false if it was done before."""
    disabled: bool = carry_out(connection, _DISABLE, act, name=name)
    return disabled


_CREATE_KEY = text("""
    SELECT cardsync.console_create_key(
        :secret, :name, :hashed, :prefix, cast(:scopes AS text[]), cast(:days AS integer), :came_from, :key
    )
""")


def create_key(
    connection: Connection, act: Act, name: str, *, hashed: bytes, prefix: str, scopes: Sequence[str], days: int | None
) -> uuid.UUID:
    """Keep a new key's hash."""
    key_id: uuid.UUID = carry_out(
        connection, _CREATE_KEY, act, name=name, hashed=hashed, prefix=prefix, scopes=sorted(scopes), days=days
    )
    return key_id


_REVOKE_KEY = text("SELECT cardsync.console_revoke_key(:secret, :key_id, :came_from, :key)")


def revoke_key(connection: Connection, act: Act, key_id: uuid.UUID) -> bool:
    """End a key at once; false if this request did so before."""
    revoked: bool = carry_out(connection, _REVOKE_KEY, act, key_id=key_id)
    return revoked
