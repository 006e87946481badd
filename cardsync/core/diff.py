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
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from cardsync.core.backoff import next_look
from cardsync.core.cards import CardFacts, Token
from cardsync.core.deletion import LocalDeletion, Seen, seen

Status = Literal["unconfirmed", "active", "deleting", "removed"]
Absence = Literal["gone", "wait", "newer"]  # what a list that does not show a card says of it


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCard:
    """A card as the registry has it. ``awaited_*`` is the newest hint that no later list has answered yet.

    ``deletion`` is the one under way, or one that is blocked.
    """

    card_id: uuid.UUID
    fingerprint: bytes
    status: Status
    facts: CardFacts
    awaited_no: int | None = None
    awaited_at: dt.datetime | None = None
    deletion: LocalDeletion | None = None


@dataclass(frozen=True, slots=True)
class RemoteCard:
    """A card as Ottu listed it, with the fingerprint of its token."""

    fingerprint: bytes
    token: Token
    facts: CardFacts


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
    was: Status
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
    """What applying one observation changes; whatever is in none of the lists stays as it is."""

    added: tuple[RemoteCard, ...] = ()
    shown: tuple[Shown, ...] = ()
    removed: tuple[uuid.UUID, ...] = ()
    proved: tuple[uuid.UUID, ...] = ()  # cards under deletion that the list no longer shows
    awaited: tuple[uuid.UUID, ...] = ()  # those of them that a hint named which no list has answered
    held: tuple[uuid.UUID, ...] = ()  # would be removed, but the brake is on
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


def plan(
    local: Iterable[LocalCard],
    remote: Iterable[RemoteCard],
    observation: Observation,
    *,
    confirm_seconds: float,
    removals_allowed: bool = True,
) -> Plan:
    """Compare what is known with a complete, unfiltered list and say what follows from it."""
    listed: Mapping[bytes, RemoteCard] = {card.fingerprint: card for card in remote}
    known = list(local)
    absent = [card for card in known if card.fingerprint not in listed]
    verdicts = {card.card_id: _verdict(card, observation, confirm_seconds) for card in absent}
    gone = tuple(c.card_id for c in absent if verdicts[c.card_id] == "gone" and c.status == "active")
    waits = [
        next_look((observation.asked_at - card.awaited_at).total_seconds(), confirm_seconds)
        for card in absent
        if verdicts[card.card_id] == "wait" and card.awaited_at is not None
    ]
    said = [verdict for card in known if (verdict := _of_deletion(card, listed, observation)) is not None]
    waits += [v.seen.look_again_seconds for v in said if v.seen.look_again_seconds is not None]
    proved = _proved(absent, said, verdicts)
    fingerprints = {card.fingerprint for card in known}
    return Plan(
        added=tuple(card for card in listed.values() if card.fingerprint not in fingerprints),
        shown=tuple(_shown(c, listed[c.fingerprint], observation) for c in known if c.fingerprint in listed),
        removed=gone if removals_allowed else (),
        held=() if removals_allowed else gone,
        proved=proved,
        awaited=tuple(card_id for card_id in proved if verdicts[card_id] == "wait"),
        dropped=tuple(c.card_id for c in absent if verdicts[c.card_id] == "gone" and c.status == "unconfirmed"),
        lapsed=tuple(
            c.card_id
            for c in absent
            if verdicts[c.card_id] == "gone" and c.status == "removed" and c.awaited_no is not None
        ),
        deletions=tuple(said),
        look_again_seconds=min(waits) if waits else None,
    )


def _of_deletion(card: LocalCard, listed: Mapping[bytes, RemoteCard], observation: Observation) -> Verdict | None:
    """What the list says of the deletion under way; nothing where it lacks a card of which newer evidence has come in."""
    if card.deletion is None or card.status != "deleting":
        return None
    is_listed = card.fingerprint in listed
    if not is_listed and card.awaited_no is not None and card.awaited_no > observation.number:
        return None
    said = seen(card.deletion, number=observation.number, asked_at=observation.asked_at, listed=is_listed)
    return None if said is None else Verdict(card.card_id, card.deletion, said)


def _proved(
    absent: Iterable[LocalCard], said: Iterable[Verdict], verdicts: Mapping[uuid.UUID, Absence]
) -> tuple[uuid.UUID, ...]:
    """The cards under deletion whose absence proves that they are gone."""
    by_deletion = {verdict.card_id for verdict in said if verdict.seen.event == "absent"}
    return tuple(
        card.card_id
        for card in absent
        if card.status == "deleting"
        and (verdicts[card.card_id] == "gone" if card.deletion is None else card.card_id in by_deletion)
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
        changed=card.facts != remote.facts,
        answered=card.awaited_no is not None and card.awaited_no < observation.number,
    )
