"""Drift: how many customers' cards are right, how sure that figure is, and why the other customers' cards are wrong.

An audit takes one customer at random and compares the cards that are *served* with Ottu's list, before the list is applied.
Rules, each tested by name:

- Only served cards count. A card that no list has shown yet, or that is being deleted, is not served.
- There is one entry for each card that differs. A customer is right if there is no entry.
- A card that the registry itself reports as possibly different is ``under_way``. It counts as a difference, because a reader is
  told something else than Ottu knows; but no information was lost.
- Time alone is no difference: a card past its date is served as expired, before and after Ottu says so.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from cardsync.core.cards import CardFacts
from cardsync.core.diff import LocalCard, Plan, Shown

Cause = Literal[
    "silent_deletion",  # served, and Ottu no longer lists it; no deletion was asked for here
    "lost_hint",  # listed, and no notification has named it, or none that had to be believed by then
    "changed_elsewhere",  # listed with other facts, and no notification said so
    "under_way",  # a hint or a deletion of it is being worked on
    "never_looked",  # listed, and this is the first list of the customer that is believed (an imported one)
    "held",  # served, and no longer listed; the brake on removals keeps it until an operator has looked
]
CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)

Z_95: Final = 1.959964  # the normal distribution's quantile for 95 %, two-sided


@dataclass(frozen=True, slots=True)
class Interval:
    """A share, and the bounds between which the true one lies with 95 % confidence; all in [0, 1]."""

    share: float
    low: float
    high: float


def wilson(right: int, sample: int) -> Interval | None:
    """Wilson's score interval for ``right`` of ``sample``; ``None`` without a sample.

    Not the textbook's share ± 1.96 standard errors: near 100 %, where this share is, that one leaves [0, 1], and for a
    sample without an error it has no width at all.
    """
    assert 0 <= right <= sample
    if sample == 0:
        return None
    share, square = right / sample, Z_95**2
    centre = (share + square / (2 * sample)) / (1 + square / sample)
    reach = Z_95 / (1 + square / sample) * math.sqrt(share * (1 - share) / sample + square / (4 * sample**2))
    return Interval(share, max(0.0, min(share, centre - reach)), min(1.0, max(share, centre + reach)))


def differences(
    local: Iterable[LocalCard],
    plan: Plan,
    *,
    on: dt.date,
    heard: Collection[bytes],
    never_looked: bool,
) -> tuple[Cause, ...]:
    """Return the cause for each card that is served differently from Ottu's list, in alphabetical order.

    ``local`` and ``plan`` belong to one complete list, before it is applied. ``on`` is the day (UTC) on which the list was asked
    for. ``heard`` holds the fingerprints of cards that open notifications name. ``never_looked`` says that this is the first
    list of the customer that is believed.
    """
    known = {card.card_id: card for card in local}
    listed = {shown.card_id for shown in plan.shown}
    found: list[Cause] = [
        "under_way" if card.fingerprint in heard else "never_looked" if never_looked else "lost_hint"
        for card in plan.added
    ]
    found += [_absent(card, plan) for card in known.values() if card.status == "active" and card.card_id not in listed]
    for shown in plan.shown:
        card = known[shown.card_id]
        if shown.revive or (card.status == "active" and not _served_alike(card.facts, shown.remote.facts, on)):
            found.append(_shown(card, shown, heard))
    return tuple(sorted(found))


def _absent(card: LocalCard, plan: Plan) -> Cause:
    """Why a card is served that Ottu does not list. A card that a hint named is asked for again, and stays until then."""
    if card.card_id in plan.held:
        return "held"
    is_awaited = card.awaited_no is not None or card.card_id not in plan.removed
    return "under_way" if is_awaited else "silent_deletion"


def _shown(card: LocalCard, shown: Shown, heard: Collection[bytes]) -> Cause:
    if card.awaited_no is not None or card.fingerprint in heard:
        return "under_way"
    return "lost_hint" if shown.revive else "changed_elsewhere"


def _served_alike(ours: CardFacts, theirs: CardFacts, on: dt.date) -> bool:
    """Whether a reader of the registry (the view ``registry.cards``) sees the same for both."""
    return _as_served(ours, on) == _as_served(theirs, on)


def _as_served(facts: CardFacts, on: dt.date) -> CardFacts:
    is_over = facts.expires_on is not None and facts.expires_on < on
    return replace(facts, is_expired=bool(facts.is_expired) or is_over, is_preferred=bool(facts.is_preferred))
