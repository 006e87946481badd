"""What Ottu's list of one payment gateway's cards says: that what is known of them still holds, or that it does not.

Such a list is filtered, so it never changes a card. If it agrees with what is known, what is known is as new as the list. If it
does not, only a complete list says what is true. Rejected: to believe what it shows, and ask for the complete list for what it
lacks. Two lists would write cards then, each with an order of evidence of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from cardsync.core.diff import LocalCard, RemoteCard
from cardsync.core.oddities import Oddity

# One object in place of a list shows its card all the same, and a known card that it lacks is seen to be missing.
HARMLESS: Final[frozenset[Oddity]] = frozenset({"single_object"})


def agrees(
    local: Iterable[LocalCard], remote: Iterable[RemoteCard], pg_code: str, oddities: Collection[Oddity] = ()
) -> bool:
    """Whether a list filtered by ``pg_code`` shows this gateway's active cards as they are known, and no other card of it.

    Cards of other gateways say nothing here, listed or not: Ottu may have ignored the filter. A card that is being deleted may
    be in the list or not.
    """
    if not HARMLESS.issuperset(oddities):
        return False
    listed = {card.fingerprint: card for card in remote}
    known = {card.fingerprint: card for card in local}
    ours = [card for card in known.values() if card.status == "active" and card.facts.pg_code == pg_code]
    theirs = [card for card in listed.values() if card.facts.pg_code in (None, pg_code)]
    return all(_is_shown(card, listed.get(card.fingerprint)) for card in ours) and all(
        _is_known(known.get(card.fingerprint), pg_code) for card in theirs
    )


def _is_shown(card: LocalCard, listed: RemoteCard | None) -> bool:
    return listed is not None and listed.facts == card.facts and not card.last4_is_stale


def _is_known(card: LocalCard | None, pg_code: str) -> bool:
    return card is not None and card.status in ("active", "deleting") and card.facts.pg_code == pg_code
