"""``apply_list``: apply a complete list to the registry, once, in one transaction.

The second half of ``reconcile``, after the call: only the answer to a ticket that still stands is believed. What follows from it
is planned purely (``core.diff``); the cards, their agreements, the deletions, the customer and the record of the observation
change together or not at all.

**Lists of several customers** that came in together share a transaction (``apply_together``), and so one commit and one turn at
the feed's head, which every change takes in its commit. A list has a transaction of its own (``apply_list``) where that could
hold up the others, or theirs could hold it up: its customer is locked elsewhere, or it takes more locks than its customer's.
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
from cardsync.errors import Superseded
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
class Listed:
    """A complete list that answered a ticket, to be applied."""

    ticket: Ticket
    answer: CardList
    jitter: float

    def remote(self, key: bytes) -> list[diff.RemoteCard]:
        """The cards of the list, with their fingerprints."""
        return [remote_card(card, self.ticket.environment, key) for card in self.answer.cards]


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of the customer before its list is applied. ``is_well``: the gate remembers no failure."""

    remote: list[diff.RemoteCard]
    history: History
    local: list[diff.LocalCard]
    agreements: list[known_agreements.Known]
    audit: audits.Waiting | None
    waited_seconds: float | None
    is_well: bool


@dataclass(frozen=True, slots=True)
class _Believed:
    """A list that is written, in a transaction that is not committed yet."""

    listed: Listed
    remote: list[diff.RemoteCard]
    plan: diff.Plan
    waited_seconds: float | None
    oddities: tuple[Oddity, ...]
    again: Answer[bool]
    deletions: bool
    elsewhere: bool = False

    @property
    def outcome(self) -> Effect:
        return "changed" if self.plan.writes else "unchanged"


def apply_list(engine: Engine, ticket: Ticket, answer: CardList, policy: ApplyPolicy, *, jitter: float) -> Applied:
    """Apply a complete list under the ticket, in one transaction. Raises ``Superseded`` if the ticket stands no more.

    What is read is asked for together, and what is written is sent with the commit: two round trips, but for what is rare.
    """
    listed = Listed(ticket, answer, jitter)
    with pipelined(engine) as pipeline:
        (before,) = _read(pipeline, [listed], policy, waits=True)
        if before is None:
            raise Superseded("a newer ticket was taken, or the lease ran out")
        known = _hear_hints(pipeline, ticket, before, answer.oddities, policy)
        remote = diff.believable(known.remote, known.local)
        plan, brake_decision = _plan_under_the_brake(pipeline, ticket, known.local, remote, answer.oddities, policy)
        if known.audit is not None:
            key, ring = policy.fingerprint_key, policy.ring
            audits.judge(pipeline.connection, ticket, known.audit, known.local, plan, fingerprint_key=key, ring=ring)
        elsewhere = bool(plan.suspicious) and cards.known_elsewhere(pipeline.connection, plan.suspicious)
        believed = replace(_write(pipeline, listed, plan, known, remote, policy), elsewhere=elsewhere)
        _confirm(pipeline, [believed])
        turn = None if known.is_well else gate.heard(pipeline.connection, "answered", who=ticket.customer)
        _record(pipeline, believed)
    log_turn(turn)
    applied = _told(believed)
    if brake_decision == "engaged":
        tell_of_the_brake(ticket, plan, expected=_expected(plan))
    return applied


def apply_together(engine: Engine, lists: Sequence[Listed], policy: ApplyPolicy) -> list[Applied | None]:
    """Apply lists of several customers in one transaction; ``None`` for one that is to be applied alone (``apply_list``).

    If it raises, none is applied.
    """
    with pipelined(engine) as pipeline:
        known = _read(pipeline, lists, policy, waits=False)
        written = [
            None if one is None else _write_what_is_plain(pipeline, listed, one, policy)
            for listed, one in zip(lists, known, strict=True)
        ]
        believed = [one for one in written if one is not None]
        _confirm(pipeline, believed)
        for one in believed:
            _record(pipeline, one)
    return [None if one is None else _told(one) for one in written]


def _write_what_is_plain(pipeline: Pipeline, listed: Listed, known: _Known, policy: ApplyPolicy) -> _Believed | None:
    """Write a list by which nothing goes and no agreement moves, for a customer without audit or deletions; else nothing."""
    remote = diff.believable(known.remote, known.local)
    observation = diff.Observation(listed.ticket.number, listed.ticket.asked_at)
    oddities = listed.answer.oddities
    plan = diff.plan(known.local, remote, observation, confirm_seconds=policy.confirm_seconds, oddities=oddities)
    claimed = _claimed_before(known.local)
    takes_more_locks = (
        not known.is_well
        or known.audit is not None
        or any(card.deletion is not None for card in known.local)
        or plan.removed
        or plan.proved
        or plan.withheld
        or plan.suspicious
        or any(set(card.facts.agreements or ()) != set(claimed.get(card.fingerprint, ())) for card in remote)
    )
    return None if takes_more_locks else _write(pipeline, listed, plan, known, remote, policy)


def _read(pipeline: Pipeline, lists: Sequence[Listed], policy: ApplyPolicy, *, waits: bool) -> list[_Known | None]:
    """Lock the customers and read what is known, in one round trip; ``None`` for a ticket that stands no more, or must wait."""
    tickets = [listed.ticket for listed in lists]
    customers_ = [ticket.customer for ticket in tickets]
    remote = [listed.remote(policy.fingerprint_key) for listed in lists]
    standing = customers.lock_standing(pipeline, tickets, waits=waits)
    local = cards.of_customers(pipeline, dict(zip(customers_, map(_fingerprints, remote), strict=True)))
    agreements_ = known_agreements.of_customers(pipeline, customers_)
    audit = audits.waiting(pipeline, customers_)
    waited = hint_waits.seconds_since_oldest(pipeline, [ticket for ticket in tickets if ticket.lane == "hint"])
    well = gate.all_is_well(pipeline)
    histories, locals_, known, audits_, waits_, is_well = standing(), local(), agreements_(), audit(), waited(), well()

    def of(ticket: Ticket, remote: list[diff.RemoteCard]) -> _Known | None:
        history, customer = histories.get(ticket.number), ticket.customer
        if history is None:
            return None
        more = audits_.get(customer), waits_.get(ticket.number), is_well
        return _Known(remote, history, locals_[customer], known[customer], *more)

    return [of(ticket, shown) for ticket, shown in zip(tickets, remote, strict=True)]


def _fingerprints(remote: Sequence[diff.RemoteCard]) -> frozenset[bytes]:
    return frozenset(card.fingerprint for card in remote)


def _confirm(pipeline: Pipeline, believed: Sequence[_Believed]) -> None:
    brake.note_confirmed(pipeline, [one.listed.ticket.customer for one in believed if _confirms(one.plan)])


def _record(pipeline: Pipeline, believed: _Believed) -> None:
    plan = believed.plan
    observations.record(
        pipeline,
        believed.listed.ticket,
        outcome=believed.outcome,
        calls=believed.listed.answer.calls,
        listed=len(believed.remote),
        changed=plan.writes,
        removed=len(plan.removed) + len(plan.proved),
        suspicious=len(plan.suspicious),
    )


def _told(believed: _Believed) -> Applied:
    """Count and log a list that is committed."""
    if believed.waited_seconds is not None:
        metrics.HINT_BELIEVED_SECONDS.observe(believed.waited_seconds)
    tell(believed.listed.ticket, believed.plan, believed.elsewhere, believed.oddities)
    return Applied(believed.outcome, believed.again(), believed.deletions)


def _hear_hints(
    pipeline: Pipeline,
    ticket: Ticket,
    known: _Known,
    oddities: Sequence[Oddity],
    policy: ApplyPolicy,
) -> _Known:
    """What is known, with the open hints taken that name a card which is about to go.

    Such a hint is evidence that must be heard before a card is removed, and it holds the token that must go with the card.
    """
    observation = diff.Observation(ticket.number, ticket.asked_at)
    plan = diff.plan(known.local, known.remote, observation, confirm_seconds=policy.confirm_seconds, oddities=oddities)
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
    return replace(known, local=cards.of_customer(connection, ticket.customer, _fingerprints(known.remote))())


def _take_hints(
    connection: Connection, ticket: Ticket, going: list[diff.LocalCard], policy: ApplyPolicy
) -> list[inbox.TakenHint]:
    whose = (ticket.environment, ticket.customer_id)
    opened = inbox.open_hints(connection, *whose, fingerprint_key=policy.fingerprint_key, ring=policy.ring)
    return inbox.take_hints(connection, opened, {card.fingerprint: card.card_id for card in going})


def _write(
    pipeline: Pipeline,
    listed: Listed,
    plan: diff.Plan,
    known: _Known,
    remote: list[diff.RemoteCard],
    policy: ApplyPolicy,
) -> _Believed:
    """Write the plan: cards, agreements, deletions, the customer."""
    ticket = listed.ticket
    oddities = _that_matter(listed.answer.oddities, plan)
    ids = cards.apply(
        pipeline, ticket.customer, plan, ring=policy.ring, confirmed_at=ticket.asked_at, cause=ticket.lane
    )
    claims = _claims(known.local, remote, ids)
    moved = agreements.apply(pipeline, ticket.environment, claims, [*plan.removed, *plan.proved], ticket.number)
    of_customer = known.agreements
    if moved:
        of_customer = known_agreements.of_customers(pipeline, [ticket.customer])()[ticket.customer]
    _agreements(pipeline, ticket, claims, of_customer)
    due = _settle_deletions(pipeline, ticket, plan, known.local, listed.jitter)
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
    return _Believed(listed, remote, plan, known.waited_seconds, oddities, again, due)


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


def _claimed_before(local: Sequence[diff.LocalCard]) -> dict[bytes, tuple[str, ...]]:
    return {card.fingerprint: card.facts.agreements or () for card in local if card.status in LISTED_STATUSES}


def _claims(
    local: Sequence[diff.LocalCard], remote: Sequence[diff.RemoteCard], ids: dict[bytes, uuid.UUID]
) -> list[agreements.Claims]:
    before = _claimed_before(local)
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
