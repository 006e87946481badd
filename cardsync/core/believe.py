"""What to believe of a hint where Ottu offers no list (KSA): a pure plan, as ``core.diff`` is one for a list.

The rules, each tested by name:

- **Only what somebody vouched for.** A signed notification makes a card active by itself only if all that is believed of it is
  certain (``doubt``): the subscription scheme signs the customer, the token, the gateway and the agreement; a bound key says the
  environment, which no scheme signs; the result is ``success``; and the signature came in no other body, since one of two
  bodies with one signature is altered. What the inquiry endpoint answers comes from Ottu over TLS: of it only the result counts.
- **Nothing unsigned.** Of a signed notification the agreement that it names is believed, and of the rest what shows the card to
  people: number, brand, expiry date, names; and the agreement's terms. Not ``is_preferred``, ``cvv_required``, ``is_expired`` or
  ``token.agreements``: they decide what is charged, and anybody may alter them. A wrong date or term would need the altered body
  to come before the genuine one; that one is then a repeat, and the inquiry endpoint's answer corrects both.
- **Newest wins, by arrival.** Hints are ordered by ``Order``: the moment of arrival, then the number that insertion gave. A hint
  that waited on disk and is drained late changes nothing that a later arrival said; it may say what nothing else did.
- **An agreement has one card.** The newest evidence takes it over, whatever either card claimed before; an older one never
  brings it back to the card that it left. That an answer does not list an agreement with its card says nothing: a payment's
  payload is nowhere said to list all of them, and billing must not lose a card by a guess.
- A removed card comes back by a hint that arrived after the removal. A hint removes nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from cardsync.core.cards import CardFacts, CardStatus
from cardsync.core.signature import Source

Doubt = Literal["repeated_signature", "no_success", "standard_scheme", "not_bound"]
DOUBTS: Final[tuple[Doubt, ...]] = get_args(Doubt)
SUCCESS: Final = "success"


@dataclass(frozen=True, slots=True, order=True)
class Order:
    """A hint's place among hints: when it arrived, then the number that its row got (rows of one batch follow arrival)."""

    at: dt.datetime
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A hint, as far as believing it is concerned.

    ``vouched``: a key bound to the environment signed customer, token, gateway and agreement. ``alone``: its signature came in
    no other body.
    """

    order: Order
    source: Source
    vouched: bool
    alone: bool
    result: str | None
    agreement_id: str | None
    facts: CardFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCard:
    """The card as the registry has it; ``applied`` is the newest hint that was believed of it."""

    status: CardStatus
    facts: CardFacts
    applied: Order
    removed_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HintPlan:
    """What believing a hint changes. ``takes`` are the agreements that are this card's by it."""

    facts: CardFacts
    revive: bool = False
    changed: bool = False
    newest: bool = False
    takes: tuple[str, ...] = ()


def doubt(said: Said) -> Doubt | None:
    """Return why the hint is not believed by itself; ``None`` if it is."""
    if not said.alone:
        return "repeated_signature"
    if said.result != SUCCESS:
        return "no_success"
    if said.source == "inquiry":
        return None
    if said.source == "standard":
        return "standard_scheme"
    return None if said.vouched else "not_bound"


def plan(known: KnownCard | None, said: Said, linked_since: Mapping[str, Order]) -> HintPlan | None:
    """Say what follows from a hint that is believed; ``None`` if it came before the card was removed, and so changes nothing.

    ``linked_since`` is the evidence by which each agreement that the hint names (``named``) has its present card.
    """
    if known is not None and known.status == "removed" and said.order.at <= (known.removed_at or said.order.at):
        return None
    before = _trusted(known)
    newest = known is None or known.status == "unconfirmed" or said.order > known.applied
    heard = _trustworthy(said)
    facts = heard.over(before) if newest else before.over(heard)
    takes = tuple(a for a in named(said) if a not in linked_since or linked_since[a] < said.order)
    facts = replace(facts, agreements=tuple(sorted({*(before.agreements or ()), *takes})))
    return HintPlan(
        facts=facts,
        revive=known is not None and known.status in ("unconfirmed", "removed"),
        changed=known is None or facts != known.facts,
        newest=newest,
        takes=takes,
    )


def named(said: Said) -> tuple[str, ...]:
    """The agreements that the hint links to its card: the signed one; of Ottu's own answer also those listed with the card."""
    listed = said.facts.agreements or () if said.source == "inquiry" else ()
    return tuple(sorted({*listed, *((said.agreement_id,) if said.agreement_id else ())}))


def _trusted(known: KnownCard | None) -> CardFacts:
    """What is believed of the card so far: nothing of an unconfirmed one, no agreement of a removed one."""
    if known is None or known.status == "unconfirmed":
        return CardFacts(agreements=())
    return replace(known.facts, agreements=() if known.status == "removed" else known.facts.agreements or ())


def _trustworthy(said: Said) -> CardFacts:
    """What the hint says of the card that may be believed, agreements apart."""
    if said.source == "inquiry":
        return replace(said.facts, agreements=None)
    return replace(said.facts, is_preferred=None, cvv_required=None, is_expired=None, agreements=None)
