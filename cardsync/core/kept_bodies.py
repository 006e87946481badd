"""A notification's body as it is kept to be passed on: compressed, then encrypted, with the type that it came with. Pure.

Byte for byte the body comes back: its signature by Ottu is over what is in it, and a handler that verifies it must find the same.
Compressing first makes a third of it, so that a row of the database or the spool stays small.
"""

from __future__ import annotations

import uuid
import zlib
from dataclasses import dataclass, field
from typing import Final

from cardsync.errors import MalformedBody

TYPE_MAX: Final = 255  # characters of a media type; RFC 6838 allows 127 + 1 + 127 without parameters
UNPACKED_MAX: Final = 64 * 1_048_576  # the largest CARDSYNC_MAX_BODY_BYTES
_LEVEL: Final = 1  # some 40 microseconds for 4 kB; a higher level saves a tenth more, and costs twice the time


@dataclass(frozen=True, slots=True)
class KeptBody:
    """An encrypted body. ``content_type`` is ``None`` for one that came without, or with one that cannot be sent on."""

    content_type: str | None
    body: str = field(repr=False)

    def __post_init__(self) -> None:
        if self.content_type is not None and not is_media_type(self.content_type):
            raise ValueError("not a media type")


def about(event_id: uuid.UUID | str) -> bytes:
    """What the ciphertext is bound to: moved to another notification's row it does not open."""
    return f"body {event_id}".encode()


def packed(body: bytes) -> bytes:
    """Make a body small, to be encrypted."""
    return zlib.compress(body, _LEVEL)


def unpacked(content: bytes) -> bytes:
    """The body again. Raises ``MalformedBody`` if it is none, or far too large."""
    opened = zlib.decompressobj()
    try:
        body = opened.decompress(content, UNPACKED_MAX)
    except zlib.error:
        raise MalformedBody("what was encrypted is not a body") from None
    if not opened.eof:
        raise MalformedBody("what was encrypted is not a whole body")
    return body


def is_media_type(text: str) -> bool:
    """Whether a ``Content-Type`` can be sent on as it came: visible ASCII and spaces, of a bounded length."""
    return 0 < len(text) <= TYPE_MAX and text.isascii() and text.isprintable()
