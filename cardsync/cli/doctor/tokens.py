"""The doctor's check of how cards hold their tokens: which form is in force, and whether rows of another one remain."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

from cardsync.ciphers import KeyRing
from cardsync.cli.doctor.check import Check
from cardsync.store import card_tokens

COUNTED_AT_MOST: Final = 1_000  # by an index; more says no more

IN_FORCE: Final = {
    True: "encrypted with CARDSYNC_SECRET_KEY",
    False: "in the clear, for services that read them in SQL",
}


def at_rest(connection: Connection, ring: KeyRing) -> Check:
    """Whether all cards hold their token as the settings of this process say."""
    form = IN_FORCE[ring.encrypts_cards]
    if not card_tokens.may_look(connection):
        return Check("tokens", "ok", f"cards hold them {form}, say the settings; this login cannot see the rows")
    left = card_tokens.count_of_other_forms(connection, ring, at_most=COUNTED_AT_MOST)
    if left == 0:
        return Check("tokens", "ok", f"all cards hold them {form}")
    count = f"{left} or more" if left == COUNTED_AT_MOST else f"{left}"
    advice = "see that CARDSYNC_TOKENS_AT_REST is the same for all processes, then: cardsync secret rotate"
    return Check("tokens", "warning", f"cards should hold them {form}; {count} hold another form", advice)
