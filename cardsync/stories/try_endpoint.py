"""``try_endpoint``: send one signed message of type ``cardsync.test`` to an endpoint, and tell how it was answered.

It is dated by the database's clock, as deliveries are.
"""

from __future__ import annotations

import secrets
from typing import Final

from sqlalchemy import Engine

from cardsync import db
from cardsync.ciphers import KeyRing
from cardsync.outgoing import Ended, Sender
from cardsync.store.deliveries import endpoints as store
from cardsync.stories import endpoints
from cardsync.stories.deliver import JSON, message

TEST_BODY: Final = b'{"type": "cardsync.test", "data": {}}'


def try_endpoint(engine: Engine, name: str, ring: KeyRing) -> Ended:
    """Calls the endpoint, a disabled one too, and waits for its answer. Raises ``NotFound`` or ``UnknownSecretKey``."""
    with engine.connect() as connection:
        found = store.show(connection, name)
        keys = endpoints.secrets_of(connection, found.endpoint_id, ring)
        now = db.moment(connection)
    sender = Sender()
    try:
        message_id = f"test-{secrets.token_hex(8)}"
        sent = message(found.url, message_id, TEST_BODY, keys, content_type=JSON, now=now)
        return sender.send(sent).result()
    finally:
        sender.close()
