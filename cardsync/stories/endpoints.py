"""Endpoints of the merchant's: what an operator does with them. A secret leaves once, when it is made, and is stored encrypted.

Only operators add endpoints: no request over HTTP can name an address that we then call (server-side request forgery).
"""

from __future__ import annotations

import datetime as dt
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import Connection, Engine

from cardsync.ciphers import KeyRing
from cardsync.core.delivery import Kind
from cardsync.core.webhooks import SECRET_BYTES, secret_text
from cardsync.store.access import secret_keys
from cardsync.store.deliveries import endpoints


@dataclass(frozen=True, slots=True)
class NewEndpoint:
    """What an operator names. ``url`` was checked (``cardsync.outgoing.addresses``)."""

    name: str
    url: str
    kind: Kind
    from_seq: int | None = None


@dataclass(frozen=True, slots=True)
class Added:
    """The endpoint, and its secret for the receiver: shown this one time."""

    endpoint_id: uuid.UUID
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Rotated:
    """A new secret; the one before signs beside it until ``old_until``."""

    endpoint_id: uuid.UUID
    old_until: dt.datetime
    secret: str = field(repr=False)


def add(
    engine: Engine, new: NewEndpoint, ring: KeyRing, *, noted: Callable[[Connection, str], object] | None = None
) -> Added:
    """Add an endpoint, enabled; ``noted`` is called in its transaction, with the secret.

    Raises ``Conflict`` for a name that is taken, ``Misconfigured`` for a wrong secret key.
    """
    endpoint_id, secret = uuid.uuid4(), os.urandom(SECRET_BYTES)
    with engine.begin() as connection:
        secret_keys.check_secret(connection, ring)
        endpoints.add(
            connection,
            endpoint_id,
            name=new.name,
            url=new.url,
            kind=new.kind,
            secret=ring.encrypt(secret, endpoints.about(endpoint_id)),
            from_seq=new.from_seq,
        )
        if noted is not None:
            noted(connection, secret_text(secret))
    return Added(endpoint_id, secret_text(secret))


def rotate(
    engine: Engine, name: str, ring: KeyRing, *, noted: Callable[[Connection, str], object] | None = None
) -> Rotated:
    """Give an endpoint a new secret; ``noted`` is called in its transaction, with that. Raises ``NotFound``."""
    secret = os.urandom(SECRET_BYTES)
    with engine.begin() as connection:
        secret_keys.check_secret(connection, ring)
        endpoint_id = endpoints.show(connection, name).endpoint_id
        sealed = ring.encrypt(secret, endpoints.about(endpoint_id))
        until = endpoints.rotate(connection, endpoint_id, sealed)
        if noted is not None:
            noted(connection, secret_text(secret))
    return Rotated(endpoint_id, until, secret_text(secret))


def secrets_of(connection: Connection, endpoint_id: uuid.UUID, ring: KeyRing) -> list[bytes]:
    """What signs the endpoint's messages now, the newest first. Raises ``UnknownSecretKey``."""
    return opened(endpoint_id, endpoints.secrets_of(connection, endpoint_id), ring)


def opened(endpoint_id: uuid.UUID, sealed: endpoints.Secrets, ring: KeyRing) -> list[bytes]:
    """An endpoint's secrets, decrypted."""
    bound = endpoints.about(endpoint_id)
    return [ring.decrypt(one, bound) for one in (sealed.secret, sealed.previous) if one is not None]
