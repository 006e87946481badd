"""Odd entries of a list: what a list that holds one still proves, and what it does not.

A list has two uses: it *shows* cards, and it lacks others. To show a card, one good entry is enough. To lack a card, the whole
list must be read: an entry that cannot be read may be the very card that seems to be absent. So an odd entry does not spoil a
list. Its good entries are believed, and the table below says for each kind of oddity what absence from that list still means. A
list with several oddities means what the strictest of them allows.

There are three questions about absence, and the table answers each:

- *May an active card be removed?* There is no request to remove it, and the next clean list removes it as well. Waiting costs a
  card that is served a while too long; a wrong removal costs a payment. So the answer is no wherever something is odd about the
  cards themselves, even if no entry could be the absent card.
- *Is a deletion proved?* The deletion was asked for. The question is only whether an odd entry could be the deleted card. A card
  is its token: an entry with another token is another card, however odd the rest of it is. Then absence alone is the proof, as
  in a clean list. An entry whose token cannot be read may be any card, and a list of another shape may not be the whole list.
  There absence proves a deletion only together with Ottu's own confirmation (2xx or 404): two statements of Ottu's agree, and
  that the card lost its token in the list at the very moment when Ottu claimed to have deleted it is not plausible. Where the
  call was refused or got no answer, the deletion waits for a better list.
- *Is every card of the customer known?* The erasure of a person ends only with a list that hides no card from us.

And one rule about showing: *a card becomes active only if Ottu named this customer together with this token*. An entry that does
not name the customer, or spells the id so that it could be another customer's, confirms a card that we know of already (a hint
or an earlier list named both). It adds none: to charge another person's card is worse than to miss a card.

Rejected: to fail the call, as for an answer that is no list of cards. The customer would be asked about for ever, and each of
its other cards would be frozen because of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

Oddity = Literal[
    "listed_twice",
    "number_token",
    "short_number_token",
    "long_token",
    "padded_token",
    "unreadable_token",
    "not_a_card",
    "incomplete",
    "owner_absent",
    "owner_case",
    "owner_spelling",
    "single_object",
]
ODDITIES: Final[tuple[Oddity, ...]] = get_args(Oddity)


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a list with such an entry still means; ``said`` is for operators, and holds no content.

    ``removes``: absence removes an active card. ``proves``: absence alone proves a deletion. ``hides``: the customer has,
    or may have, a card that we do not know of.
    """

    said: str
    removes: bool
    proves: bool
    hides: bool


TABLE: Final[Mapping[Oddity, Meaning]] = {
    # Both entries name one card; the fields in which they differ stay as they were.
    "listed_twice": Meaning("one token stands in the list twice", removes=False, proves=True, hides=False),
    # Sixteen digits or more, as all tokens that Ottu documents: a JSON number is written digit by digit, so none is missing.
    "number_token": Meaning("a token is a number", removes=False, proves=True, hides=False),
    # A number has no leading zeros: 42 may be the card 0000000000000042.
    "short_number_token": Meaning(
        "a token is a number that may lack leading zeros", removes=False, proves=False, hides=False
    ),
    # Longer than any token that we hold (50 characters), so it is none of ours.
    "long_token": Meaning("a token is longer than 50 characters", removes=False, proves=True, hides=True),
    # Read without the blanks, in notifications too: it is the same card, or another one, and never hides a third.
    "padded_token": Meaning("a token has blanks around it", removes=False, proves=True, hides=False),
    "unreadable_token": Meaning("a card has no readable token", removes=False, proves=False, hides=True),
    "not_a_card": Meaning("an entry is not a card", removes=False, proves=False, hides=True),
    # It names its token and this customer, and lacks other fields that Ottu's description requires.
    "incomplete": Meaning("a card lacks required fields", removes=False, proves=True, hides=False),
    # Whose list is it? A card that is absent from another customer's list is not gone.
    "owner_absent": Meaning("a card does not name its customer", removes=False, proves=False, hides=True),
    # "aB3" and "Ab3" can be two customers: generated ids differ by case alone. If Ottu compares them without case, the list holds
    # both customers' cards, so our own cards are in it; if Ottu stores one spelling, likewise. We cannot tell which.
    "owner_case": Meaning("a card names its customer in other letter case", removes=False, proves=False, hides=True),
    # Blanks at the ends, or another Unicode form of the same characters: no two customers of a merchant differ by that alone,
    # and the request named this one. So it is this customer's list, in whole.
    "owner_spelling": Meaning(
        "a card names its customer with other blanks or in another Unicode form",
        removes=True,
        proves=True,
        hides=False,
    ),
    # Ottu's OpenAPI file says that a list is one card object, and one object cannot show two cards.
    "single_object": Meaning(
        "the answer is one card, not a list, and other cards are known",
        removes=False,
        proves=False,
        hides=False,
    ),
}
HIDING: Final[tuple[Oddity, ...]] = tuple(oddity for oddity, meaning in TABLE.items() if meaning.hides)


def may_remove(oddities: Iterable[Oddity]) -> bool:
    """Tell whether absence from a list with these oddities removes an active card."""
    return all(TABLE[oddity].removes for oddity in oddities)


def proves_alone(oddities: Iterable[Oddity]) -> bool:
    """Tell whether absence from a list with these oddities proves a deletion that Ottu did not confirm."""
    return all(TABLE[oddity].proves for oddity in oddities)


def may_remove_by_name(names: Iterable[str]) -> bool:
    """The same of oddities as they are stored. One that a newer version noted is taken for the strictest."""
    meanings: dict[str, bool] = {oddity: meaning.removes for oddity, meaning in TABLE.items()}
    return all(meanings.get(name, False) for name in names)


def said(oddities: Iterable[str]) -> str:
    """Return the oddities in words; one that a newer version noted is passed over by its name."""
    meanings: dict[str, str] = {oddity: meaning.said for oddity, meaning in TABLE.items()}
    return "; ".join(meanings.get(one, one) for one in oddities)
