"""The signature of what we send, by Standard Webhooks (https://www.standardwebhooks.com, version 1): pure.

The receiver has a secret ``whsec_`` + base64. A message has an id, which stays the same however often it is sent, and the time of
sending in seconds. What is signed is ``id.timestamp.body``, with HMAC-SHA256; the header holds ``v1,`` and the base64 of it.
While a secret is being replaced, there are two signatures in one header, with a space between them.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence
from typing import Final

from cardsync.errors import MalformedBody

PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32  # 24 to 64 by the specification; as many as the hash has
OLD_SECRET_SECONDS: Final = 86_400  # a replaced secret signs beside the new one for a day (the contract)


def secret_text(secret: bytes) -> str:
    """A secret as its receiver is told it."""
    return PREFIX + base64.b64encode(secret).decode()


def secret_bytes(text: str) -> bytes:
    """The key of a secret. Raises ``MalformedBody`` if it is none."""
    try:
        if not text.startswith(PREFIX):
            raise MalformedBody("not a secret of an endpoint")
        return base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise MalformedBody("not a secret of an endpoint") from None


def headers(message_id: str, timestamp: int, body: bytes, secrets: Sequence[bytes]) -> Mapping[str, str]:
    """The three headers of a message, signed with each of the secrets, the newest first."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(one, signed, "sha256")).decode() for one in secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{one}" for one in signatures),
    }
