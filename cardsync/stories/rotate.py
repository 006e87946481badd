"""``rotate``: stored tokens are brought into the form that the settings say, a batch at a time, while traffic goes on.

Open hints, bodies that are kept to be passed on and endpoints' secrets are encrypted again with the current secret key. So are
the tokens of cards, or they are put in the clear, as ``CARDSYNC_TOKENS_AT_REST`` says. Before the first batch the database learns
the current key: the key of the fingerprints is written once more, wrapped by it (``store.access.secret_keys``). So no card
changes. A run that is interrupted loses nothing: each batch is a transaction, the next run goes on with what is left, and a run
after the last one finds nothing to do. What other processes write meanwhile is left as they wrote it; cards that they hold get
another pass.

``retire`` makes the database forget the older keys. It refuses while an open hint or a card still needs one.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from sqlalchemy import Connection, Engine

from cardsync.ciphers import KeyRing
from cardsync.errors import Conflict
from cardsync.store import card_tokens, inbox
from cardsync.store.access import secret_keys
from cardsync.store.deliveries import bodies, endpoints

ROWS_AT_ONCE: Final = 200
PASSES: Final = 3  # over the cards: a row that somebody held in one pass is free in the next
COUNTED_AT_MOST: Final = 1_000
_FIRST: Final = uuid.UUID(int=0)


@dataclass(frozen=True, slots=True)
class Rotated:
    """How many hints, bodies and secrets, and tokens of cards, were written again; how many no key here could read."""

    written: int
    unreadable: int
    cards: int = 0
    unreadable_cards: int = 0


class _Batch(Protocol):
    @property
    def written(self) -> int: ...
    @property
    def unreadable(self) -> int: ...
    @property
    def next_after(self) -> uuid.UUID | None: ...


def rotate(engine: Engine, ring: KeyRing, *, tell: Callable[[int], None]) -> Rotated:
    """Make the current key known, and bring all open hints and cards into form; ``tell`` hears the size of each batch.

    Raises ``Misconfigured`` if the database knows no key of the ring.
    """
    with engine.begin() as connection:
        secret_keys.fingerprint_key(connection, ring)

    def hints(connection: Connection, after: uuid.UUID) -> _Batch:
        return inbox.reencrypt(connection, ring, after=after, limit=ROWS_AT_ONCE)

    def cards(connection: Connection, after: uuid.UUID) -> _Batch:
        return card_tokens.convert(connection, ring, after=after, limit=ROWS_AT_ONCE)

    def kept(connection: Connection, after: uuid.UUID) -> _Batch:
        return bodies.reencrypt(connection, ring, after=after, limit=ROWS_AT_ONCE)

    written, unreadable = (
        sum(counts) for counts in zip(_all(engine, hints, tell), _all(engine, kept, tell), strict=True)
    )
    with engine.begin() as connection:
        written += endpoints.reencrypt(connection, ring)
    converted = unreadable_cards = 0
    for _ in range(PASSES):
        found, unreadable_cards = _all(engine, cards, tell)
        converted += found
        if _cards_left(engine, ring) <= unreadable_cards:
            break
    return Rotated(written, unreadable, converted, unreadable_cards)


def _all(
    engine: Engine, batch: Callable[[Connection, uuid.UUID], _Batch], tell: Callable[[int], None]
) -> tuple[int, int]:
    """Run one kind of batch until its end, each in a transaction; how many were written, and how many could not be read."""
    written = unreadable = 0
    after: uuid.UUID | None = _FIRST
    while after is not None:
        with engine.begin() as connection:
            done = batch(connection, after)
        written, unreadable, after = written + done.written, unreadable + done.unreadable, done.next_after
        tell(done.written)
    return written, unreadable


def _cards_left(engine: Engine, ring: KeyRing) -> int:
    with engine.connect() as connection:
        return card_tokens.count_of_other_forms(connection, ring, at_most=COUNTED_AT_MOST)


def retire(engine: Engine, ring: KeyRing) -> int:
    """Forget all secret keys but the current one; how many it was.

    Raises ``Conflict`` while an open hint or a card's token needs one of them.
    """
    with engine.begin() as connection:
        secret_keys.fingerprint_key(connection, ring)
        hints = inbox.count_of_other_keys(connection, ring)
        cards = card_tokens.count_of_other_forms(connection, ring, at_most=COUNTED_AT_MOST)
        kept = bodies.count_of_other_keys(connection, ring) + endpoints.count_of_other_keys(connection, ring)
        counts = ((hints, "open hints"), (cards, "cards"), (kept, "kept notifications or secrets of endpoints"))
        left = [f"{count} {what}" for count, what in counts if count]
        if left:
            raise Conflict(
                f"{' and '.join(left)} are not stored as the settings say: run `cardsync secret rotate` again"
            )
        return secret_keys.retire(connection, ring)
