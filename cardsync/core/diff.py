"""What to believe of a list: a pure plan from what is known, what was listed, and when it was asked for.

Rules, each tested by name:

- Only real differences write.
- A card disappears only on proof: the list is complete and unfiltered (its reader's duty), and it was asked for after the
  last evidence that the card existed.
- A hint outweighs a list that does not show its card *yet*: while no list asked for since the hint has shown the card, it
  is asked for again, until ``confirm_seconds`` after the hint; then the hint is dropped, and counted as suspicious.
- A list never turns ``deleting`` back into ``active``: that is the deletion's own decision, for which the list is evidence.
- A deleted card's absence is its proof at once, also where a hint of it is still to be answered: what had been listed does not
  show late. The hint goes on being awaited, since the card may have been saved again.
- A hint alone never makes a card active, and never fills in what Ottu did not list.
- A list with odd entries shows what it shows; what its absences mean stands in ``core.oddities``. Cards whose removal or proof
  it does not allow are ``withheld``: they stay as they are, and a deletion among them is looked at again.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from cardsync.core.backoff import next_look
from cardsync.core.cards import CardFacts, CardStatus, Token
from cardsync.core.deletion import LocalDeletion, Seen, seen
from cardsync.core.oddities import Oddity, may_remove, proves_alone

Absence = Literal["gone", "wait", "newer"]  # what a list that does not show a card says of it

# When to look again at a deletion that an odd list leaves open: after as long as it has waited since the call, within bounds.
# Doubling finds a list that was odd for a moment soon; one that stays odd costs four calls a day.
SOONEST_LOOK_AT_WITHHELD_SECONDS: Final = 2.0
LONGEST_LOOK_AT_WITHHELD_SECONDS: Final = 21_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCard:
    """A card as the registry has it. ``awaited_*`` is the newest hint that no later list has answered yet.

    ``deletion`` is the one under way, or one that is blocked. ``last4_is_stale``: the last four digits that are stored are not
    those of the stored mask, since an earlier version read the mask otherwise; the next list puts them right.
    """

    card_id: uuid.UUID
    fingerprint: bytes
    status: CardStatus
    facts: CardFacts
    awaited_no: int | None = None
    awaited_at: dt.datetime | None = None
    deletion: LocalDeletion | None = None
    last4_is_stale: bool = False


@dataclass(frozen=True, slots=True)
class RemoteCard:
    """A card as Ottu listed it, with the fingerprint of its token.

    ``unsaid`` and ``only_if_known`` are those of the ``ListedCard``; ``believable`` settles both.
    """

    fingerprint: bytes
    token: Token
    facts: CardFacts
    unsaid: frozenset[str] = frozenset()
    only_if_known: bool = False


@dataclass(frozen=True, slots=True)
class Observation:
    """A list's place in the order of evidence, and the database's time when it was asked for."""

    number: int
    asked_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Shown:
    """A known card that the list shows, with what has to be written of it.

    ``revive`` gives it status active (it was unconfirmed or removed); ``answered`` clears the hint that it answers.
    """

    card_id: uuid.UUID
    remote: RemoteCard
    was: CardStatus
    revive: bool
    changed: bool
    answered: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the list says of a deletion under way."""

    card_id: uuid.UUID
    deletion: LocalDeletion
    seen: Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What applying one observation changes; a card that is in none of the lists stays as it is."""

    added: tuple[RemoteCard, ...] = ()
    shown: tuple[Shown, ...] = ()
    removed: tuple[uuid.UUID, ...] = ()
    proved: tuple[uuid.UUID, ...] = ()  # cards under deletion that the list no longer shows
    awaited: tuple[uuid.UUID, ...] = ()  # those of them that a hint named which no list has answered
    held: tuple[uuid.UUID, ...] = ()  # would be removed, but the brake is on
    withheld: tuple[uuid.UUID, ...] = ()  # would be removed, proved or dropped, but the list is odd
    dropped: tuple[uuid.UUID, ...] = ()  # unconfirmed, and never listed
    lapsed: tuple[uuid.UUID, ...] = ()  # removed cards that a hint named again, and no list confirmed
    deletions: tuple[Verdict, ...] = ()
    look_again_seconds: float | None = None

    @property
    def suspicious(self) -> tuple[uuid.UUID, ...]:
        """The cards of hints that the list contradicts for good."""
        return self.dropped + self.lapsed

    @property
    def writes(self) -> int:
        """How many cards change what others can see."""
        visible = sum(1 for s in self.shown if s.revive or s.changed)
        return len(self.added) + visible + len(self.removed) + len(self.proved)


def believable(remote: Iterable[RemoteCard], local: Iterable[LocalCard]) -> list[RemoteCard]:
    """Return the listed cards as they are to be believed beside what is known.

    A field that the list does not say stays as it is known. An entry that may only confirm a card is left out where the card is
    unknown, or was removed and no hint named it again.
    """
    known = {card.fingerprint: card for card in local}
    return [
        _with_known_fields(card, known.get(card.fingerprint))
        for card in remote
        if not card.only_if_known or _may_be_confirmed(known.get(card.fingerprint))
    ]


def _may_be_confirmed(card: LocalCard | None) -> bool:
    return card is not None and (card.status != "removed" or card.awaited_no is not None)


def _with_known_fields(listed: RemoteCard, known: LocalCard | None) -> RemoteCard:
    if known is None or not listed.unsaid:
        return listed
    kept = {name: getattr(known.facts, name) for name in listed.unsaid}
    return replace(listed, facts=replace(listed.facts, **kept), unsaid=frozenset())


def plan(
    local: Iterable[LocalCard],
    remote: Iterable[RemoteCard],
    observation: Observation,
    *,
    confirm_seconds: float,
    oddities: Collection[Oddity] = (),
) -> Plan:
    """Compare what is known with a complete, unfiltered list and say what follows from it."""
    listed: Mapping[bytes, RemoteCard] = {card.fingerprint: card for card in remote}
    known = list(local)
    absent = [card for card in known if card.fingerprint not in listed]
    verdicts = {card.card_id: _verdict(card, observation, confirm_seconds) for card in absent}
    of_deletions = {card.card_id: verdict for card in known if (verdict := _of_deletion(card, listed, observation))}
    withheld = _withheld(absent, verdicts, of_deletions, oddities)
    gone = {card.card_id for card in absent if verdicts[card.card_id] == "gone"} - withheld
    said = [verdict for card_id, verdict in of_deletions.items() if card_id not in withheld]
    waits = [
        next_look((observation.asked_at - card.awaited_at).total_seconds(), confirm_seconds)
        for card in absent
        if verdicts[card.card_id] == "wait" and card.awaited_at is not None
    ]
    # A hint of a card that an odd list may hide is not answered yet: without a next look its customer would wait for ever.
    waits += [
        _look_at_withheld(card.awaited_at, observation)
        for card in absent
        if card.card_id in withheld and card.card_id not in of_deletions and card.awaited_at is not None
    ]
    waits += _looks_at_deletions(of_deletions, withheld, observation)
    proved = _proved(absent, said, gone)
    active = tuple(card.card_id for card in absent if card.card_id in gone and card.status == "active")
    fingerprints = {card.fingerprint for card in known}
    return Plan(
        added=tuple(card for card in listed.values() if card.fingerprint not in fingerprints),
        shown=tuple(_shown(c, listed[c.fingerprint], observation) for c in known if c.fingerprint in listed),
        removed=active,
        held=(),
        withheld=tuple(card.card_id for card in absent if card.card_id in withheld),
        proved=proved,
        awaited=tuple(card_id for card_id in proved if verdicts[card_id] == "wait"),
        dropped=tuple(c.card_id for c in absent if c.card_id in gone and c.status == "unconfirmed"),
        lapsed=tuple(
            c.card_id for c in absent if c.card_id in gone and c.status == "removed" and c.awaited_no is not None
        ),
        deletions=tuple(said),
        look_again_seconds=min(waits) if waits else None,
    )


def without_removals(plan: Plan) -> Plan:
    """The same plan while the brake stops removals: its cards are held, and all else is as it was."""
    return replace(plan, removed=(), held=plan.removed)


def _withheld(
    absent: Iterable[LocalCard],
    verdicts: Mapping[uuid.UUID, Absence],
    of_deletions: Mapping[uuid.UUID, Verdict],
    oddities: Collection[Oddity],
) -> frozenset[uuid.UUID]:
    """The absent cards that may still be there: this list is too odd to say that they are gone."""
    removes, proves = may_remove(oddities), proves_alone(oddities)

    def says(card: LocalCard) -> bool:
        verdict = of_deletions.get(card.card_id)
        if verdict is not None:
            return proves or verdict.deletion.phase == "proving"  # where Ottu itself said that the card is gone
        if card.deletion is not None and card.status == "deleting":
            return True  # the list says nothing of it, odd or not
        return verdicts[card.card_id] != "gone" or (removes if card.status == "active" else proves)

    return frozenset(card.card_id for card in absent if not says(card))


def _looks_at_deletions(
    of_deletions: Mapping[uuid.UUID, Verdict], withheld: Collection[uuid.UUID], observation: Observation
) -> list[float]:
    """In how many seconds the deletions that stay open ask for the next list."""
    looks: list[float] = []
    for card_id, verdict in of_deletions.items():
        deletion = verdict.deletion
        if card_id not in withheld:
            looks += [] if verdict.seen.look_again_seconds is None else [verdict.seen.look_again_seconds]
        elif deletion.called_at is not None and deletion.phase != "asked":  # else it goes on by its call
            looks.append(_look_at_withheld(deletion.called_at, observation))
    return looks


def _look_at_withheld(since: dt.datetime, observation: Observation) -> float:
    """The seconds until the next look at a deletion, or a hint, that an odd list leaves open ``since`` then."""
    age_seconds = (observation.asked_at - since).total_seconds()
    return min(max(age_seconds, SOONEST_LOOK_AT_WITHHELD_SECONDS), LONGEST_LOOK_AT_WITHHELD_SECONDS)


def _of_deletion(card: LocalCard, listed: Mapping[bytes, RemoteCard], observation: Observation) -> Verdict | None:
    """What the list says of the deletion under way; nothing where it lacks a card and newer evidence of that card has come in."""
    if card.deletion is None or card.status != "deleting":
        return None
    is_listed = card.fingerprint in listed
    if not is_listed and card.awaited_no is not None and card.awaited_no > observation.number:
        return None
    said = seen(card.deletion, number=observation.number, asked_at=observation.asked_at, listed=is_listed)
    return None if said is None else Verdict(card.card_id, card.deletion, said)


def _proved(absent: Iterable[LocalCard], said: Iterable[Verdict], gone: Collection[uuid.UUID]) -> tuple[uuid.UUID, ...]:
    """The cards under deletion whose absence proves that they are gone."""
    by_deletion = {verdict.card_id for verdict in said if verdict.seen.event == "absent"}
    return tuple(
        card.card_id
        for card in absent
        if card.status == "deleting" and card.card_id in (gone if card.deletion is None else by_deletion)
    )


def _verdict(card: LocalCard, observation: Observation, confirm_seconds: float) -> Absence:
    """What absence from this list says of a card: proof, ask again, or nothing because newer evidence has come in."""
    if card.awaited_no is None or card.awaited_at is None:
        return "gone"
    if card.awaited_no > observation.number:
        return "newer"
    waited_seconds = (observation.asked_at - card.awaited_at).total_seconds()
    return "gone" if waited_seconds >= confirm_seconds else "wait"


def _shown(card: LocalCard, remote: RemoteCard, observation: Observation) -> Shown:
    return Shown(
        card_id=card.card_id,
        remote=remote,
        was=card.status,
        revive=card.status in ("unconfirmed", "removed"),
        changed=card.facts != remote.facts or card.last4_is_stale,
        answered=card.awaited_no is not None and card.awaited_no < observation.number,
    )
