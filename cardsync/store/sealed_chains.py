"""Making a sealed chain of hashes again, and comparing: for the receipts of deletions and the journal of operators.

Each link's hash is SHA-256 over the hash before it and the link's own text; the first one stands on 32 zero bytes. What a link's
text is, and where the rows come from, each chain says itself. The seals are told of in ``store.seals``.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cardsync.store import seals

BEFORE_THE_FIRST: Final = bytes(32)
ROWS_AT_ONCE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Link:
    """A link as the database has it. ``said`` is its text; ``None``, and so no hash fits, where the link has lost its row."""

    number: int
    hash: bytes
    said: bytes | None
    at: dt.datetime
    seal: seals.Seal | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """What making the chain again showed: its length, the last hash, and the number of the first link that does not fit.

    ``noted_at`` is the number of the link whose hash the caller had noted; ``None`` if no link has it, or none was given.
    ``sealed_to`` is the last link that a seal covers (0: none), ``unsealed_since`` the time of the first link after it; both
    ``None`` if no key was given, since then no seal was looked at.
    """

    length: int
    head: bytes
    broken_at: int | None
    noted_at: int | None = None
    sealed_to: int | None = None
    unsealed_since: dt.datetime | None = None


class ChainReader:
    """Goes along a chain from its first link on, for as long as hashes and seals fit: where it is, and what it saw so far.

    ``noted`` is a hash that the caller noted earlier. With ``keys``, the chain's present one and older ones, seals are checked.
    """

    def __init__(self, noted: bytes | None, keys: Sequence[bytes]) -> None:
        self._noted, self._keys = noted, keys
        self.number, self.hash = 0, BEFORE_THE_FIRST
        self._noted_at: int | None = None
        self._sealed_to = 0
        self._unsealed_since: dt.datetime | None = None

    def fits(self, link: Link) -> bool:
        """Take one link more, if it is the next one and its hash and seal are right."""
        if link.said is None:
            return False
        digest = hashlib.sha256(self.hash + link.said).digest()
        if link.number != self.number + 1 or link.hash != digest:
            return False
        if self._keys and link.seal is not None:
            if link.seal.hash != digest or not seals.is_ours(link.seal, self._keys):
                return False
            self._sealed_to, self._unsealed_since = link.number, None
        elif self._unsealed_since is None:
            self._unsealed_since = link.at
        self.number, self.hash = link.number, digest
        self._noted_at = self.number if digest == self._noted else self._noted_at
        return True

    def whole(self) -> Verified:
        """The answer where every link fits."""
        return self._result(None)

    def broken(self, at: int | None = None) -> Verified:
        """The answer where the link with that number does not fit; without one it is the next link."""
        return self._result(self.number + 1 if at is None else at)

    def _result(self, broken_at: int | None) -> Verified:
        if not self._keys:
            return Verified(self.number, self.hash, broken_at, self._noted_at)
        return Verified(self.number, self.hash, broken_at, self._noted_at, self._sealed_to, self._unsealed_since)
