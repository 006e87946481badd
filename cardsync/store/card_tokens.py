"""The tokens of cards at rest: in the clear or encrypted, and moved from one form to the other while traffic goes on.

``cards.token`` holds one of two forms (``cardsync.ciphers``). ``CARDSYNC_TOKENS_AT_REST`` says which one is written; what is read
may have either. A *form* is the id of the secret key that encrypts, and an empty text for a token in the clear.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from cardsync.ciphers import KeyRing, card_token_to_store, stored_card_token
from cardsync.errors import Refused, UnknownSecretKey

# The expression of the index `cards_token_forms` (migration 0021).
_FORM: Final = "left(substr(token, 4, 16), greatest(length(token) - 50, 0))"
_OF_OTHER_FORMS: Final = f"token IS NOT NULL AND ({_FORM} < :form OR {_FORM} > :form)"


def form_in_force(ring: KeyRing) -> str:
    """The form that this process writes."""
    return ring.current.key_id.hex() if ring.encrypts_cards else ""


# A row that somebody holds is passed over: a batch waits for no other session, so it is part of no deadlock. Cards are locked in
# another order elsewhere.
_NEXT = text(f"""
    SELECT card_id, token FROM cardsync.cards
    WHERE {_OF_OTHER_FORMS} AND card_id > :after ORDER BY card_id LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
""")
_CONVERT = text("""
    UPDATE cardsync.cards AS c SET token = new.token
    FROM unnest(cast(:card_ids AS uuid[]), cast(:tokens AS text[])) AS new (card_id, token)
    WHERE c.card_id = new.card_id
""")


@dataclass(frozen=True, slots=True)
class Converted:
    """One batch: how many tokens were written, how many no key could read, and where the next one begins (``None``: done)."""

    written: int
    unreadable: int
    next_after: uuid.UUID | None


def convert(connection: Connection, ring: KeyRing, *, after: uuid.UUID, limit: int) -> Converted:
    """Give a batch of cards the form in force. The feed shows nothing of it: no card changes."""
    rows = connection.execute(_NEXT, {"form": form_in_force(ring), "after": after, "limit": limit}).all()
    written: dict[uuid.UUID, str] = {}
    for row in rows:
        try:
            token = stored_card_token(ring, row.card_id, row.token)
        except (Refused, UnknownSecretKey, ValueError):
            continue
        written[row.card_id] = card_token_to_store(ring, row.card_id, token)
    if written:
        connection.execute(_CONVERT, {"card_ids": list(written), "tokens": list(written.values())})
    return Converted(len(written), len(rows) - len(written), rows[-1].card_id if len(rows) == limit else None)


# In the order of the index, on either side of the form in force: so the planner reads no more of it than what is counted. Without
# the order it expects a third of all cards on each side, and reads the whole table to find none.
_COUNT = text(f"""
    SELECT least(:at_most, count(*)) FROM (
        (SELECT 1 FROM cardsync.cards WHERE token IS NOT NULL AND {_FORM} < :form ORDER BY {_FORM} LIMIT :at_most)
        UNION ALL
        (SELECT 1 FROM cardsync.cards WHERE token IS NOT NULL AND {_FORM} > :form ORDER BY {_FORM} LIMIT :at_most)
    ) AS found
""")
_MAY_LOOK = text("SELECT has_column_privilege('cardsync.cards', 'token', 'SELECT')")


def count_of_other_forms(connection: Connection, ring: KeyRing, *, at_most: int) -> int:
    """How many cards hold their token in another form than the one in force; no more than ``at_most`` are counted."""
    found: int = connection.execute(_COUNT, {"form": form_in_force(ring), "at_most": at_most}).scalar_one()
    return found


def may_look(connection: Connection) -> bool:
    """Whether this login may see how tokens are stored."""
    return bool(connection.execute(_MAY_LOOK).scalar_one())
