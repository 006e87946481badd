"""``apply_list``: apply a complete list to the registry, once, in one transaction.

The second half of ``reconcile``, after the call: only the answer to a ticket that still stands is believed. What follows from it
is planned purely (``core.diff``); the cards, their agreements, the deletions, the customer and the record of the observation
change together or not at all.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy import Connection, Engine

from cardsync import metrics
from cardsync.ciphers import KeyRing
from cardsync.core import diff
from cardsync.core.agreements import Agreement
from cardsync.core.brake import Limits
from cardsync.core.cards import LISTED_STATUSES, CardFacts, Environment, ListedCard
from cardsync.core.change_rate import History, Look, estimate, found_in_silence
from cardsync.core.oddities import Oddity
from cardsync.core.repeats import APART_SECONDS
from cardsync.db import Answer, Pipeline, pipelined
from cardsync.ottu import CardList
from cardsync.store import (
    agreement_asks,
    agreements,
    audits,
    brake,
    cards,
    customers,
    hint_waits,
    inbox,
    known_agreements,
    observations,
    repeats,
)
from cardsync.store.calls import gate
from cardsync.store.customers import Ticket
from cardsync.store.deletions import lists, transitions
from cardsync.stories.counted_calls import log_turn
from cardsync.stories.tell_list import tell, tell_of_the_brake

Effect = Literal["unchanged", "changed"]


@dataclass(frozen=True, slots=True)
class ApplyPolicy:
    """The settings that believing goes by."""

    fingerprint_key: bytes
    ring: KeyRing
    confirm_seconds: float
    brake_share: float
    brake_floor: int

    @property
    def brake_limits(self) -> Limits:
        """How far removals may go."""
        return Limits(self.brake_share, self.brake_floor)


@dataclass(frozen=True, slots=True)
class Applied:
    """What a believed list did; ``again``: evidence came in meanwhile, so that it must be asked once more.

    ``deletions``: calls of the customer's deletions are due, which waited for this to end.
    """

    outcome: Effect
    again: bool
    deletions: bool


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of the customer before the list is applied. ``is_well``: the gate remembers no failure."""

    history: History
    local: list[diff.LocalCard]
    agreements: list[known_agreements.Known]
    audit: audits.Waiting | None
    waited_seconds: float | None
    is_well: bool


def apply_list(engine: Engine, ticket: Ticket, answer: CardList, policy: ApplyPolicy, *, jitter: float) -> Applied:
    """Apply a complete list under the ticket, in one transaction. Raises ``Superseded`` if the ticket stands no more.

    What is read is asked for together, and what is written is sent with the commit: two round trips, but for what is rare.
    """
    remote = [remote_card(card, ticket.environment, policy.fingerprint_key) for card in answer.cards]
    with pipelined(engine) as pipeline:
        known = _hear_hints(pipeline, ticket, _read(pipeline, ticket, remote), remote, answer.oddities, policy)
        remote = diff.believable(remote, known.local)
        plan, brake_decision = _plan_under_the_brake(pipeline, ticket, known.local, remote, answer.oddities, policy)
        oddities = _that_matter(answer.oddities, plan)
        if known.audit is not None:
            key, ring = policy.fingerprint_key, policy.ring
            audits.judge(pipeline.connection, ticket, known.audit, known.local, plan, fingerprint_key=key, ring=ring)
        elsewhere = bool(plan.suspicious) and cards.known_elsewhere(pipeline.connection, plan.suspicious)
        again, due = _write(pipeline, ticket, plan, known, remote, oddities, policy, jitter)
        if _confirms(plan):
            brake.note_confirmed(pipeline, ticket.customer)
        turn = None if known.is_well else gate.heard(pipeline.connection, "answered", who=ticket.customer)
        outcome: Effect = "changed" if plan.writes else "unchanged"
        observations.record(
            pipeline,
            ticket,
            outcome=outcome,
            calls=answer.calls,
            listed=len(remote),
            changed=plan.writes,
            removed=len(plan.removed) + len(plan.proved),
            suspicious=len(plan.suspicious),
        )
    log_turn(turn)
    if known.waited_seconds is not None:
        metrics.HINT_BELIEVED_SECONDS.observe(known.waited_seconds)
    tell(ticket, plan, elsewhere, oddities)
    if brake_decision == "engaged":
        tell_of_the_brake(ticket, plan, expected=_expected(plan))
    return Applied(outcome, again(), due)


def _read(pipeline: Pipeline, ticket: Ticket, remote: Sequence[diff.RemoteCard]) -> _Known:
    """Lock the customer and read what is known, in one round trip. Raises ``Superseded`` if the ticket stands no more."""
    history = customers.lock_if_ticket_stands(pipeline, ticket)
    local = cards.of_customer(pipeline, ticket.customer, [r.fingerprint for r in remote])
    agreements_ = known_agreements.of_customers(pipeline, [ticket.customer])
    audit = audits.waiting(pipeline, ticket)
    waited = hint_waits.seconds_since_oldest(pipeline, ticket) if ticket.lane == "hint" else None
    is_well = gate.all_is_well(pipeline)
    return _Known(history(), local(), agreements_(), audit(), waited() if waited else None, is_well())


def _hear_hints(
    pipeline: Pipeline,
    ticket: Ticket,
    known: _Known,
    remote: Sequence[diff.RemoteCard],
    oddities: Sequence[Oddity],
    policy: ApplyPolicy,
) -> _Known:
    """What is known, with the open hints taken that name a card which is about to go.

    Such a hint is evidence that must be heard before a card is removed, and it holds the token that must go with the card.
    """
    observation = diff.Observation(ticket.number, ticket.asked_at)
    plan = diff.plan(known.local, remote, observation, confirm_seconds=policy.confirm_seconds, oddities=oddities)
    going = {*plan.removed, *plan.proved}
    if not going:
        return known
    connection = pipeline.connection
    hints = _take_hints(connection, ticket, [card for card in known.local if card.card_id in going], policy)
    if not hints:
        return known
    for hint in hints:
        if hint.repeated:  # a look in its time; a list that was asked for before may still be believed
            repeats.mark_dirty(connection, ticket.customer, evidence_no=hint.evidence_no, apart_seconds=APART_SECONDS)
            continue
        cards.await_again(connection, hint.card_id, evidence_no=hint.evidence_no, received_at=hint.received_at)
        customers.mark_dirty(connection, ticket.customer, evidence_no=hint.evidence_no, lane="hint")
    metrics.EVENTS.labels("done").inc(len(hints))
    return replace(known, local=cards.of_customer(connection, ticket.customer, [r.fingerprint for r in remote])())


def _take_hints(
    connection: Connection, ticket: Ticket, going: list[diff.LocalCard], policy: ApplyPolicy
) -> list[inbox.TakenHint]:
    whose = (ticket.environment, ticket.customer_id)
    opened = inbox.open_hints(connection, *whose, fingerprint_key=policy.fingerprint_key, ring=policy.ring)
    return inbox.take_hints(connection, opened, {card.fingerprint: card.card_id for card in going})


def _write(
    pipeline: Pipeline,
    ticket: Ticket,
    plan: diff.Plan,
    known: _Known,
    remote: list[diff.RemoteCard],
    oddities: Sequence[Oddity],
    policy: ApplyPolicy,
    jitter: float,
) -> tuple[Answer[bool], bool]:
    """Write the plan: cards, agreements, deletions, the customer. Whether to ask once more, and whether deletions may call."""
    ids = cards.apply(
        pipeline, ticket.customer, plan, ring=policy.ring, confirmed_at=ticket.asked_at, cause=ticket.lane
    )
    claims = _claims(known.local, remote, ids)
    moved = agreements.apply(pipeline, ticket.environment, claims, [*plan.removed, *plan.proved], ticket.number)
    of_customer = known_agreements.of_customers(pipeline, [ticket.customer])() if moved else known.agreements
    _agreements(pipeline, ticket, claims, of_customer)
    due = _settle_deletions(pipeline, ticket, plan, known.local, jitter)
    look = _look(ticket, plan, remote, [one.agreement for one in of_customer], first=known.history.looked_at is None)
    again = customers.settle(
        pipeline,
        ticket,
        estimate(known.history, look),
        look_again_seconds=plan.look_again_seconds,
        removals_held=bool(plan.held),
        oddities=oddities,
        lane="deletion" if plan.deletions else "hint",
    )
    return again, due


def _settle_deletions(
    pipeline: Pipeline, ticket: Ticket, plan: diff.Plan, local: list[diff.LocalCard], jitter: float
) -> bool:
    """Write what the list says of the customer's deletions; return whether one of them may call now."""
    of_cards = [card.deletion for card in local if card.deletion is not None]
    if not of_cards:
        return False
    connection = pipeline.connection
    lists.apply_list(connection, ticket, plan.deletions, jitter=jitter)
    lists.unlock(connection, ticket, [d.deletion_id for d in of_cards if d.phase == "blocked" and d.when_unlocked])
    return transitions.free_of_customer(connection, ticket.customer)


def _look(
    ticket: Ticket, plan: diff.Plan, remote: list[diff.RemoteCard], known: list[Agreement], *, first: bool
) -> Look:
    """What the list says of when to look again."""
    return Look(
        asked_at=ticket.asked_at,
        found=found_in_silence(plan, first=first, routine=ticket.lane in ("sweep", "audit")),
        active=ticket.lane in ("hint", "read", "deletion"),
        has_cards=bool(remote),
        expiries=[card.facts.expires_on for card in remote if card.facts.expires_on is not None],
        agreements=known,
    )


def remote_card(card: ListedCard, environment: Environment, key: bytes) -> diff.RemoteCard:
    """The card as it is compared with what is known."""
    facts = card.facts.over(CardFacts(agreements=()))  # a card that names no agreement serves none
    fingerprint = card.token.fingerprint(key, environment)
    return diff.RemoteCard(fingerprint, card.token, facts, unsaid=card.unsaid, only_if_known=card.only_if_known)


def _plan_under_the_brake(
    pipeline: Pipeline,
    ticket: Ticket,
    local: list[diff.LocalCard],
    remote: list[diff.RemoteCard],
    oddities: Sequence[Oddity],
    policy: ApplyPolicy,
) -> tuple[diff.Plan, brake.Decision]:
    """Plan what the list changes; while the brake stops removals, all but those."""
    observation = diff.Observation(ticket.number, ticket.asked_at)
    plan = diff.plan(local, remote, observation, confirm_seconds=policy.confirm_seconds, oddities=oddities)
    if not plan.removed:
        return plan, "allowed"
    decision = brake.may_remove(
        pipeline.connection,
        ticket,
        expected=_expected(plan),
        lacking=len(plan.removed),
        limits=policy.brake_limits,
    )
    return (plan if decision == "allowed" else diff.without_removals(plan)), decision


def _expected(plan: diff.Plan) -> int:
    """How many cards the list should have confirmed: the active ones that it shows, and those that it lacks for good."""
    shown = sum(1 for card in plan.shown if card.was == "active")
    return shown + len(plan.removed) + len(plan.held)


def _confirms(plan: diff.Plan) -> bool:
    """Whether the list shows all that it should. An odd one that lacks a card neither confirms nor lacks it."""
    return _expected(plan) > 0 and not (plan.removed or plan.held or plan.withheld)


def _that_matter(oddities: Sequence[Oddity], plan: diff.Plan) -> tuple[Oddity, ...]:
    """The oddities to count and to show: one card in place of a list is none where no other card is known."""
    return tuple(oddity for oddity in oddities if oddity != "single_object" or plan.withheld)


def _claims(
    local: list[diff.LocalCard], remote: list[diff.RemoteCard], ids: dict[bytes, uuid.UUID]
) -> list[agreements.Claims]:
    before = {c.fingerprint: c.facts.agreements or () for c in local if c.status in LISTED_STATUSES}
    return [
        agreements.Claims(ids[r.fingerprint], r.facts.agreements or (), before.get(r.fingerprint, ())) for r in remote
    ]


def _agreements(
    pipeline: Pipeline,
    ticket: Ticket,
    claims: Sequence[agreements.Claims],
    known: Sequence[known_agreements.Known],
) -> None:
    """Write when each of the customer's agreements is charged next, and let Ottu be asked about those that a list leaves open.

    Open is an agreement that two cards claim, each time that one of them newly does, and one that no card claims although an
    earlier notification named it.
    """
    claimed = Counter(agreement for claim in claims for agreement in claim.now)
    known_agreements.expect(pipeline, known, now=ticket.asked_at)
    newly = {agreement for claim in claims for agreement in set(claim.now) - set(claim.before)}
    contested = {agreement for agreement, cards_ in claimed.items() if cards_ > 1}
    still = {one.agreement_id for one in known if not one.answered_no}
    unclaimed = {
        one.agreement_id
        for one in known
        if not one.has_card and one.agreement_id not in claimed and one.answered_no < one.heard_no < ticket.number
    }
    agreement_asks.want(pipeline, ticket.environment, (contested & (newly | still)) | unclaimed)
