"""The brake on removals: a sequential test (CUSUM) that tells an Ottu gone mad from shoppers who delete their cards.

**What is watched.** Every list that is believed, in whatever lane it was asked for, should confirm the customer's active cards.
A look *confirms* if its list shows them all, and *lacks* if at least one is missing and nothing excuses that: no newer evidence
is awaited, and no deletion of the card is under way (those cards are apart). A look at a customer without active cards says
nothing.

**The unit is a look at one customer, not a card.** The cards of one customer vanish together, when the shopper leaves or the
checkout's list is cleared, so that cards are no independent sample. One shopper with 40 cards who removes them all is one
event; removed one by one within a short time they are still one. (``counted``: a customer weighs once. What of its weight was
worn off, the oldest first, is put back when it lacks cards again.) Rejected: the missing share of each list as its weight. A
fault that drops one gateway of three would then take three times as many customers before it is noticed.

**The test.** With x = 1 for a look that lacks and 0 for one that confirms, the excess is

    S := max(0, S + x - share),    and the brake engages when S would pass ``floor``.

This is Page's cumulative sum (1954), the test that finds a change soonest for a given rate of false alarms. ``share`` is the
share of recent looks that may lack a card, day after day; ``floor`` is how many customers beyond that share may lose cards.
"Recent" needs no clock and no list of looks: what was confirmed wears the excess off, and S never falls below 0, so that a good
year earns no credit for a bad minute. The state is one number, whatever the registry's size: nothing is counted.

**What a fault costs.** If a share q of the looks lacks cards, S rises by q - share a look, and at most about floor * q / (q -
share) customers lose cards. With the defaults (0.15 and 25) that is 29 if Ottu answers ``[]`` to everybody, about 36 if to
every second customer, and about 46 if a gateway disappears that a third of the customers use, whether the registry has a
thousand cards or ten million. The look that engages the brake removes nothing, and neither does any later one.

**How often it errs.** Below ``share`` the excess has an exponential tail: P(S > floor) is at most exp(-r * floor), where r > 0
solves p * exp(r * (1 - share)) + (1 - p) * exp(-r * share) = 1, and p is the ordinary share of looks that lack a card: the
silent deletions of a day over the looks of a day. Ten million cards that live for five years each, in 81,000 looks a day, give
p = 0.07, so r = 1.6 and far less than one false alarm in a million years; at p = 0.10 it is about one in a century. A merchant
whose p is higher sets a higher share. A small registry is looked at every few minutes, so that its p is nearly 0, and no single
customer can pass the floor: a support agent who erases 20 customers in Ottu's own dashboard makes 20.

**After a release** the excess begins ``HANDFUL`` below the floor. If the fault goes on, the brake engages again after a handful
of customers and not after another 29; if it is over, confirming looks wear the excess off. An operator who knows that the held
cards are really gone says for how many customers that may be believed; only customers whose removals are held draw on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# How many customers may lose cards after a release before the brake is on again: enough to see that it was no accident.
HANDFUL: Final = 3
# How many of the customers that raised the excess are kept: they count once, and `brake show` names them. The default floor
# takes 29; an excess that was not worn off for longer forgets the oldest.
COUNTED_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings: the share of looks that may lack a card, and how many customers beyond it may lose cards."""

    share: float
    floor: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """The excess, worn off by the first ``confirmed`` confirming looks; ``counted`` are the customers that raised it."""

    excess: float = 0.0
    confirmed: int = 0
    counted: tuple[int, ...] = ()


def worn_off(evidence: Evidence, confirmed: int, limits: Limits) -> Evidence:
    """Take off what was confirmed since. A counter that runs behind (a restored table) has confirmed nothing."""
    excess = evidence.excess - limits.share * max(0, confirmed - evidence.confirmed)
    return Evidence(excess, confirmed, evidence.counted) if excess > 0 else Evidence(confirmed=confirmed)


def lacked(evidence: Evidence, customer: int, confirmed: int, limits: Limits) -> Evidence:
    """Add a look that lacks a card, after ``confirmed`` looks that lacked none. A customer weighs at most once.

    The customers that lose cards while no look confirms are the newest of those counted, and each of them weighs in full: so
    the excess is at least ``1 - share`` for each, and it does not matter who was counted before.
    """
    before = worn_off(evidence, confirmed, limits)
    weight = 1 - limits.share
    others = tuple(one for one in before.counted if one != customer)
    left = 0.0
    if len(others) < len(before.counted):
        newer = len(before.counted) - 1 - before.counted.index(customer)
        left = min(weight, max(0.0, before.excess - newer * weight))
    return Evidence(before.excess + weight - left, confirmed, (*others, customer)[-COUNTED_MAX:])


def must_engage(evidence: Evidence, limits: Limits) -> bool:
    """Tell whether removals must stop; the look that led here removes nothing."""
    return evidence.excess > limits.floor


def released(confirmed: int, limits: Limits) -> Evidence:
    """The evidence that a released brake begins with."""
    return Evidence(float(max(0, limits.floor - HANDFUL)), confirmed)
