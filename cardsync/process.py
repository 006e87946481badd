"""``process``: fold hints into the one fact per customer that they are about: "may differ from Ottu since ...".

Any number of hints for a customer become one reconciliation. A hint that a list asked for later has already answered costs
none. Work and settlement are one transaction, so a crash between them does not exist: the row is pending, or it is done.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from cardsync import metrics
from cardsync.core.backoff import after_failure
from cardsync.core.cards import CardFacts
from cardsync.core.diff import Plan, RemoteCard, Shown
from cardsync.store import cards, customers, inbox

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HintPolicy:
    """How hints are taken. ``believed``: Ottu offers no list here (KSA), so that verified hints are the source."""

    fingerprint_key: bytes
    believed: bool


def process(engine: Engine, event_ids: Sequence[uuid.UUID], policy: HintPolicy, *, jitter: float) -> list[int]:
    """Settle those of the events that are pending; return the customers to reconcile, for whom the caller rings.

    One transaction for all; if that fails, one for each, so that a hint that cannot be settled holds up no other.
    """
    try:
        return _settle_together(engine, event_ids, policy)
    except SQLAlchemyError as error:
        log.warning("hints_settled_one_by_one", count=len(event_ids), error=type(error).__name__)
    due: list[int] = []
    for event_id in event_ids:
        try:
            due += _settle_together(engine, [event_id], policy)
        except SQLAlchemyError as error:
            _postpone(engine, event_id, error, jitter)
    return sorted(set(due))


def _settle_together(engine: Engine, event_ids: Sequence[uuid.UUID], policy: HintPolicy) -> list[int]:
    due: set[int] = set()
    with engine.begin() as connection:
        hints = inbox.claim(connection, event_ids)
        for hint in hints:
            customer = customers.touch(connection, hint.environment, hint.customer_id)
            fingerprint = hint.token.fingerprint(policy.fingerprint_key, hint.environment)
            if policy.believed:
                card_id = _believe(connection, customer.customer, hint, fingerprint)
            else:
                card_id, dirty = _note(connection, customer, hint, fingerprint)
                if dirty:
                    due.add(customer.customer)
            inbox.settle(connection, hint.event_id, card_id)
    metrics.EVENTS.labels("done").inc(len(hints))
    return sorted(due)


def _note(
    connection: Connection, customer: customers.Touched, hint: inbox.PendingHint, fingerprint: bytes
) -> tuple[uuid.UUID, bool]:
    """Note what the hint says; whether it makes the customer dirty."""
    known = cards.find(connection, customer.customer, fingerprint)
    if known is not None and known[1] in ("active", "deleting") and customer.applied_no > hint.evidence_no:
        return known[0], False  # a list asked for after this hint has spoken
    card_id = cards.await_hinted(
        connection,
        customer.customer,
        RemoteCard(fingerprint, hint.token, hint.facts.over(CardFacts(agreements=()))),
        evidence_no=hint.evidence_no,
        received_at=hint.received_at,
    )
    customers.mark_dirty(connection, customer.customer, evidence_no=hint.evidence_no, lane="hint")
    return card_id, True


def _believe(connection: Connection, customer: int, hint: inbox.PendingHint, fingerprint: bytes) -> uuid.UUID:
    """Take the hint for the truth. What it does not say of a known card stays; the later received counts."""
    known = {c.fingerprint: c for c in cards.of_customer(connection, customer, [fingerprint])}.get(fingerprint)
    if known is None:
        plan = Plan(added=(RemoteCard(fingerprint, hint.token, hint.facts.over(CardFacts(agreements=()))),))
    else:
        facts = hint.facts.over(known.facts)
        shown = Shown(
            card_id=known.card_id,
            remote=RemoteCard(fingerprint, hint.token, facts),
            was=known.status,
            revive=known.status in ("unconfirmed", "removed"),
            changed=facts != known.facts,
            answered=True,
        )
        plan = Plan(shown=(shown,))
    return cards.apply(connection, customer, plan, confirmed_at=None, cause="hint")[fingerprint]


def _postpone(engine: Engine, event_id: uuid.UUID, error: SQLAlchemyError, jitter: float) -> None:
    """Count the failure against the one event; if even that fails, the row is as it was, and the sweep comes back to it."""
    try:
        with engine.begin() as connection:
            wait = after_failure(1, jitter=jitter)
            status = inbox.postpone(connection, event_id, error=type(error).__name__, wait_seconds=wait)
    except SQLAlchemyError:
        status = None
    metrics.EVENTS.labels("failed" if status == "failed" else "postponed").inc()
    log.warning("hint_postponed", event_id=str(event_id), status=status, error=type(error).__name__)
