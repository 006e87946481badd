"""``reconcile``: ticket, call, believe once.

A short transaction takes the ticket, numbered after all evidence so far. Ottu is asked with no transaction open. A short
transaction applies the answer, only if the ticket still stands: a stale answer never overwrites a fresh one. An answer that is
not a believable list changes nothing but the date of the next attempt.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from cardsync import metrics
from cardsync.core import diff
from cardsync.core.backoff import after_failure
from cardsync.core.cards import CardFacts, Environment, ListedCard
from cardsync.core.deletion import next_phase
from cardsync.errors import (
    CardsyncError,
    CredentialsRefused,
    InvalidAnswer,
    Superseded,
    Terminal,
    Transient,
)
from cardsync.ottu import CardList
from cardsync.settings import Settings
from cardsync.store import agreements, cards, customers, deleting, gate, inbox, observations
from cardsync.store.customers import Ticket

log = structlog.get_logger(__name__)

LONGEST_WAIT_FOR_CREDENTIALS_SECONDS: Final = 40.0  # with the sweep's tick: under a minute after they work again
# A ticket stands for one call and the applying, and is renewed before each further page: short, because a customer whose
# worker was killed waits this long for the next one.
APPLY_SECONDS: Final = 5.0
CALLS_A_LIST: Final = 10  # in time-outs: how long all pages of one list may take together

Outcome = Literal["unchanged", "changed", "not_due", "superseded", "failed", "paused"]


class Lists(Protocol):
    """What this story needs of Ottu."""

    def list_cards(
        self,
        environment: Environment,
        customer_id: str,
        *,
        deadline_seconds: float,
        before_call: Callable[[], None],
    ) -> CardList:
        """Ask for all cards of a customer."""
        ...


@dataclass(frozen=True, slots=True)
class ReconcilePolicy:
    """The settings that this story goes by. ``call_seconds`` bounds one call."""

    fingerprint_key: bytes
    confirm_seconds: float
    daily_calls: int
    call_seconds: float
    brake_share: float
    brake_floor: int

    @classmethod
    def of(cls, settings: Settings) -> ReconcilePolicy:
        """Take the policy from the settings."""
        return cls(
            fingerprint_key=settings.secret_bytes(),
            confirm_seconds=settings.confirm_seconds,
            daily_calls=settings.ottu_daily_calls,
            call_seconds=settings.ottu_timeout_s,
            brake_share=settings.removal_brake_share,
            brake_floor=settings.removal_brake_floor,
        )

    @property
    def lease_seconds(self) -> float:
        """How long a ticket stands: one call, and the applying."""
        return self.call_seconds + APPLY_SECONDS

    @property
    def list_seconds(self) -> float:
        """How long all pages of one list may take together."""
        return self.call_seconds * CALLS_A_LIST


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one reconciliation; ``again`` asks the caller to ring for the customer once more.

    ``deletions`` are those of the customer's whose call is due, and may have waited for this to end.
    """

    outcome: Outcome
    again: bool = False
    error: str | None = None
    deletions: tuple[uuid.UUID, ...] = ()


def reconcile(engine: Engine, ottu: Lists, customer: int, policy: ReconcilePolicy, *, jitter: float) -> Result:
    """Bring one customer's cards in line with Ottu's list, if the customer is due and nobody else is at it."""
    began = time.monotonic()
    with engine.begin() as connection:
        ticket = customers.take_ticket(connection, customer, lease_seconds=policy.lease_seconds)
    if ticket is None:
        return Result("not_due")
    calls = _Calls(engine, ticket, policy)
    try:
        answer = _ask(engine, ottu, ticket, policy, calls)
        calls.count("answered")
        result = _believe(engine, ticket, answer, policy, jitter)
    except Superseded as error:
        result = Result("superseded", error=str(error))
    except IntegrityError as error:
        # An answer that the database will not hold is one not to believe. Its text holds the row, so it ends here.
        sqlstate = getattr(error.orig, "sqlstate", None)
        refused = InvalidAnswer(f"the database refuses what was listed ({sqlstate})")
        result = _postpone(engine, ticket, refused, calls.made, jitter)
    except (Transient, Terminal) as error:
        calls.count(type(error).__name__)
        result = _postpone(engine, ticket, error, calls.made, jitter)
    seconds = time.monotonic() - began
    metrics.RECONCILIATIONS.labels(ticket.lane, result.outcome).inc()
    metrics.RECONCILIATION_SECONDS.labels(result.outcome).observe(seconds)
    log.info(
        "reconciled",
        customer=customer,
        observation=ticket.number,
        lane=ticket.lane,
        outcome=result.outcome,
        calls=calls.made,
        error=result.error,
        milliseconds=round(seconds * 1000),
    )
    return result


def _ask(engine: Engine, ottu: Lists, ticket: Ticket, policy: ReconcilePolicy, calls: _Calls) -> CardList:
    """Ask for the list; one of several pages that lacks a known card is asked for twice.

    A card that is deleted between two pages moves the others up, and one that moves over the edge of a page is in neither,
    while the count still agrees if another was added. Absent is only what both lists lack.
    """

    def ask() -> CardList:
        return ottu.list_cards(
            ticket.environment, ticket.customer_id, deadline_seconds=policy.list_seconds, before_call=calls.spend
        )

    answer = ask()
    if answer.calls == 1:
        return answer
    listed = {c.token.fingerprint(policy.fingerprint_key, ticket.environment) for c in answer.cards}
    with engine.connect() as connection:
        known = cards.of_customer(connection, ticket.customer, listed)
    if all(c.fingerprint in listed for c in known if c.status in ("active", "deleting")):
        return answer
    again = ask()
    cards_by_token = {c.token: c for c in (*answer.cards, *again.cards)}
    return CardList(tuple(cards_by_token.values()), answer.calls + again.calls)


class _Calls:
    """Counts every call of one ticket against the budget before it is made, and renews the ticket for it."""

    def __init__(self, engine: Engine, ticket: Ticket, policy: ReconcilePolicy) -> None:
        self._engine, self._ticket, self._policy = engine, ticket, policy
        self.made = 0

    def spend(self) -> None:
        with self._engine.begin() as connection:
            if self.made:
                customers.renew(connection, self._ticket, lease_seconds=self._policy.lease_seconds)
            gate.spend_call(connection, self._ticket.lane, daily_calls=self._policy.daily_calls)
        self.made += 1

    def count(self, outcome: str) -> None:
        """Count the calls by outcome: how the last one ended; those before it were pages that were answered."""
        if self.made:
            metrics.CALLS.labels("list", outcome).inc()
            metrics.CALLS.labels("list", "answered").inc(self.made - 1)


def _believe(engine: Engine, ticket: Ticket, answer: CardList, policy: ReconcilePolicy, jitter: float) -> Result:
    """Apply a complete list under the ticket, in one transaction. Raises ``Superseded`` if the ticket stands no more."""
    remote = [_remote(card, ticket.environment, policy.fingerprint_key) for card in answer.cards]
    with engine.begin() as connection:
        customers.hold(connection, ticket)
        local = _known(connection, ticket, remote, policy)
        plan = _plan_under_the_brake(connection, ticket, local, remote, policy)
        elsewhere = bool(plan.suspicious) and cards.known_elsewhere(connection, plan.suspicious)
        ids = cards.apply(connection, ticket.customer, plan, confirmed_at=ticket.asked_at, cause=ticket.lane)
        _link_agreements(connection, ticket, plan, local, remote, ids)
        due = _settle_deletions(connection, ticket, plan, local, jitter)
        again = customers.settle(
            connection,
            ticket,
            look_again_seconds=plan.look_again_seconds,
            removals_held=bool(plan.held),
            lane="deletion" if plan.deletions else "hint",
        )
        outcome: Outcome = "changed" if plan.writes else "unchanged"
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
    return Result(outcome, again=again, deletions=due)


def _known(
    connection: Connection, ticket: Ticket, remote: list[diff.RemoteCard], policy: ReconcilePolicy
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
    for card_id, evidence_no, received_at in hints:
        cards.await_again(connection, card_id, evidence_no=evidence_no, received_at=received_at)
        customers.mark_dirty(connection, ticket.customer, evidence_no=evidence_no, lane="hint")
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


def _remote(card: ListedCard, environment: Environment, key: bytes) -> diff.RemoteCard:
    facts = card.facts.over(CardFacts(agreements=()))  # a card that names no agreement serves none
    return diff.RemoteCard(card.token.fingerprint(key, environment), card.token, facts)


def _plan_under_the_brake(
    connection: Connection,
    ticket: Ticket,
    local: list[diff.LocalCard],
    remote: list[diff.RemoteCard],
    policy: ReconcilePolicy,
) -> diff.Plan:
    observation = diff.Observation(ticket.number, ticket.asked_at)
    plan = diff.plan(local, remote, observation, confirm_seconds=policy.confirm_seconds)
    allowed = gate.may_remove(
        connection,
        len(plan.removed),
        sweeping=ticket.lane == "sweep",
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


def _postpone(engine: Engine, ticket: Ticket, error: Transient | Terminal, calls: int, jitter: float) -> Result:
    """Give the ticket back, due again later."""
    counted = not isinstance(error, Transient) or error.called
    retry_after = error.retry_after_seconds if isinstance(error, Transient) else None
    wait = after_failure(ticket.failures + 1, jitter=jitter, retry_after_seconds=retry_after)
    if isinstance(error, CredentialsRefused):
        wait = min(wait, LONGEST_WAIT_FOR_CREDENTIALS_SECONDS)
    outcome: Outcome = "failed" if counted else "paused"
    try:
        with engine.begin() as connection:
            customers.fail(connection, ticket, error=_named(error), wait_seconds=wait, counted=counted)
            gate.close_if_it_is_everybodys(connection, error)
            given_up = deleting.unlisted(
                connection,
                ticket.customer,
                error=_named(error),
                credentials=isinstance(error, CredentialsRefused),
                counted=counted,
                wait_seconds=wait,
            )
            if calls:
                observations.record(connection, ticket, outcome=type(error).__name__, calls=calls)
    except Superseded as late:
        return Result("superseded", error=str(late))
    metrics.DELETIONS.labels("failed").inc(given_up)
    return Result(outcome, error=_named(error))


def _named(error: CardsyncError) -> str:
    return f"{type(error).__name__}: {error}"


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
