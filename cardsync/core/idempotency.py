"""Idempotency keys: what may be one, and what makes a second request with it the same request.

A client that lost our answer sends the request again with the same key. It must get the result of the first request, and must get
an error when it uses one key for two different requests.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Final

KEY_MAX: Final = 255  # characters
KEY_PATTERN: Final = f"^[!-~]{{1,{KEY_MAX}}}$"  # visible ASCII: what passes through every proxy as it was sent

_KEY = re.compile(KEY_PATTERN[1:-1])


def is_key(text: str) -> bool:
    """Tell whether ``text`` can be an idempotency key: 1 to 255 visible ASCII characters."""
    return _KEY.fullmatch(text) is not None


def request_hash(asker: str, content: Mapping[str, object]) -> bytes:
    """Return 32 bytes that are equal for equal requests of the same asker, in any spelling of the JSON body.

    It is kept for as long as the key is: ``content`` must hold a token's fingerprint in place of the token.
    """
    canonical = json.dumps([asker, content], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).digest()


def hashed_key(asker: str, key: str) -> str:
    """Return what is kept of an asker's idempotency key: keys are free text, which may name a person, and are kept for good.

    The database makes it in the same way (``cardsync.hashed_key``).
    """
    return "sha256:" + hashlib.sha256(f"{asker}\n{key}".encode()).hexdigest()
