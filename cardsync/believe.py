"""``believe``: apply a complete list to the registry, once, in one transaction.

The second half of ``reconcile``, after the call: only the answer to a ticket that still stands is believed. What follows from it
is planned purely (``core.diff``); the cards, their agreements, the deletions, the customer and the record of the observation
change together or not at all.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Literal

import structlog
from sqlalchemy import Connection, Engine

from cardsync import metrics
from cardsync.core import diff
from cardsync.core.allowance import ROUTINE
from cardsync.core.cards import CardFacts, Environment, ListedCard
from cardsync.core.deletion import next_phase
from cardsync.core.outlook import Look, found_in_silence, outlook
from cardsync.core.repeats import APART_SECONDS
from cardsync.ottu import CardList
from cardsync.store import (
    agreements,
    audits,
    brake,
    cards,
    customers,
    deleting,
    gate,
    inbox,
    observations,
    repeats,
    schedule,
)
from cardsync.store.customers import Ticket

log = structlog.get_logger(__name__)

Effect = Literal["unchanged", "changed"]


@dataclass(frozen=True, slots=True)
class BeliefPolicy:
    """The settings that believing goes by."""

    fingerprint_key: bytes
    confirm_seconds: float
    brake_share: float
    brake_floor: int


@dataclass(frozen=True, slots=True)
class Believed:
    """What a believed list did; ``again``: evidence came in meanwhile, so that it must be asked once more.

    ``deletions`` are those of the customer's whose call is due, and may have waited for this to end.
    """

    outcome: Effect
    again: bool
    deletions: tuple[uuid.UUID, ...]


def believe(engine: Engine, ticket: Ticket, answer: CardList, policy: BeliefPolicy, *, jitter: float) -> Believed:
    """Apply a complete list under the ticket, in one transaction. Raises ``Superseded`` if the ticket stands no more."""
    remote = [_remote(card, ticket.environment, policy.fingerprint_key) for card in answer.cards]
    with engine.begin() as connection:
        history = customers.hold(connection, ticket)
        local = _known(connection, ticket, remote, policy)
        plan = _plan_under_the_brake(connection, ticket, local, remote, policy)
        audits.judge(connection, ticket, local, plan, fingerprint_key=policy.fingerprint_key)
        elsewhere = bool(plan.suspicious) and cards.known_elsewhere(connection, plan.suspicious)
        ids = cards.apply(connection, ticket.customer, plan, confirmed_at=ticket.asked_at, cause=ticket.lane)
        _link_agreements(connection, ticket, plan, local, remote, ids)
        due = _settle_deletions(connection, ticket, plan, local, jitter)
        again = customers.settle(
            connection,
            ticket,
            outlook(history, _look(connection, ticket, plan, remote, first=history.looked_at is None)),
            look_again_seconds=plan.look_again_seconds,
            removals_held=bool(plan.held),
            lane="deletion" if plan.deletions else "hint",
        )
        gate.heard(connection, "answered", who=ticket.customer)
        outcome: Effect = "changed" if plan.writes else "unchanged"
        observations.record(
            connection,
            ticket,
            outcome=outcome,
            calls=answer.calls,
            listed=len(remote),
            changed=plan.writes,
            removed=len(plan.removed) + len(plan.proved),
            suspicious=len(plan.suspicious),
        )
    _tell(ticket, plan, elsewhere)
    return Believed(outcome, again, due)


def _known(
    connection: Connection, ticket: Ticket, remote: list[diff.RemoteCard], policy: BeliefPolicy
) -> list[diff.LocalCard]:
    """What is known of the customer's cards, with the open hints taken that name a card which is about to go.

    Such a hint is evidence that must be heard before a card is removed, and it holds the token that must go with the card.
    """
    listed = [r.fingerprint for r in remote]
    local = cards.of_customer(connection, ticket.customer, listed)
    plan = diff.plan(
        local, remote, diff.Observation(ticket.number, ticket.asked_at), confirm_seconds=policy.confirm_seconds
    )
    going = [*plan.removed, *plan.proved]
    hints = inbox.take_hints(connection, ticket.environment, ticket.customer_id, going) if going else []
    if not hints:
        return local
    for hint in hints:
        if hint.repeated:  # a look in its time; a list that was asked for before may still be believed
            repeats.mark_dirty(connection, ticket.customer, evidence_no=hint.evidence_no, apart_seconds=APART_SECONDS)
            continue
        cards.await_again(connection, hint.card_id, evidence_no=hint.evidence_no, received_at=hint.received_at)
        customers.mark_dirty(connection, ticket.customer, evidence_no=hint.evidence_no, lane="hint")
    metrics.EVENTS.labels("done").inc(len(hints))
    return cards.of_customer(connection, ticket.customer, listed)


def _settle_deletions(
    connection: Connection, ticket: Ticket, plan: diff.Plan, local: list[diff.LocalCard], jitter: float
) -> tuple[uuid.UUID, ...]:
    """Write what the list says of the customer's deletions; return those that may call now."""
    deleting.believe(connection, ticket, plan.deletions, jitter=jitter)
    of_cards = [card.deletion for card in local if card.deletion is not None]
    deleting.unlock(connection, ticket, [d.deletion_id for d in of_cards if d.phase == "blocked" and d.when_unlocked])
    return tuple(deleting.due_of_customer(connection, ticket.customer)) if of_cards else ()


def _look(
    connection: Connection, ticket: Ticket, plan: diff.Plan, remote: list[diff.RemoteCard], *, first: bool
) -> Look:
    """What the list says of when to look again."""
    served = {agreement for card in remote for agreement in card.facts.agreements or ()}
    return Look(
        asked_at=ticket.asked_at,
        found=found_in_silence(plan, first=first, routine=ticket.lane in ("sweep", "audit")),
        active=ticket.lane in ("hint", "read", "deletion"),
        has_cards=bool(remote),
        expiries=[card.facts.expires_on for card in remote if card.facts.expires_on is not None],
        charges=schedule.charges(connection, ticket.environment, ticket.customer_id, served),
    )


def _remote(card: ListedCard, environment: Environment, key: bytes) -> diff.RemoteCard:
    facts = card.facts.over(CardFacts(agreements=()))  # a card that names no agreement serves none
    return diff.RemoteCard(card.token.fingerprint(key, environment), card.token, facts)


def _plan_under_the_brake(
    connection: Connection,
    ticket: Ticket,
    local: list[diff.LocalCard],
    remote: list[diff.RemoteCard],
    policy: BeliefPolicy,
) -> diff.Plan:
    observation = diff.Observation(ticket.number, ticket.asked_at)
    plan = diff.plan(local, remote, observation, confirm_seconds=policy.confirm_seconds)
    allowed = brake.may_remove(
        connection,
        len(plan.removed),
        sweeping=ticket.lane in ROUTINE,
        share=policy.brake_share,
        floor=policy.brake_floor,
    )
    if allowed:
        return plan
    return diff.plan(local, remote, observation, confirm_seconds=policy.confirm_seconds, removals_allowed=False)


def _link_agreements(
    connection: Connection,
    ticket: Ticket,
    plan: diff.Plan,
    local: list[diff.LocalCard],
    remote: list[diff.RemoteCard],
    ids: dict[bytes, uuid.UUID],
) -> None:
    before = {c.fingerprint: c.facts.agreements or () for c in local if c.status in ("active", "deleting")}
    claims = [
        agreements.Claims(ids[r.fingerprint], r.facts.agreements or (), before.get(r.fingerprint, ())) for r in remote
    ]
    agreements.apply(connection, ticket.environment, claims, [*plan.removed, *plan.proved], ticket.number)


def _tell(ticket: Ticket, plan: diff.Plan, elsewhere: bool) -> None:
    """Count and log what was believed, after it is committed; by our own ids alone."""
    for change, count in (
        ("added", len(plan.added) + sum(1 for s in plan.shown if s.revive and s.was == "unconfirmed")),
        ("returned", sum(1 for s in plan.shown if s.revive and s.was == "removed")),
        ("updated", sum(1 for s in plan.shown if s.changed and not s.revive)),
        ("removed", len(plan.removed) + len(plan.proved)),
    ):
        if count:
            metrics.CARD_CHANGES.labels(change).inc(count)
    for verdict in plan.deletions:
        after = next_phase(verdict.deletion.phase, verdict.seen.event)
        if after in ("done", "blocked", "failed"):
            metrics.DELETIONS.labels(after).inc()
            log.info("deletion_ended", deletion_id=str(verdict.deletion.deletion_id), status=after)
    if plan.held:
        metrics.REMOVALS_HELD.inc(len(plan.held))
        log.error("removals_held", customer=ticket.customer, observation=ticket.number, count=len(plan.held))
    if plan.suspicious:
        reason = "another_customers_card" if elsewhere else "not_listed"
        metrics.SUSPICIOUS.labels(reason).inc(len(plan.suspicious))
        log.warning(
            "suspicious_hint",
            customer=ticket.customer,
            observation=ticket.number,
            reason=reason,
            card_ids=[str(c) for c in plan.suspicious],
        )
