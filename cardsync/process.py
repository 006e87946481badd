"""``process``: fold hints into the one fact per customer that they are about: "may differ from Ottu since ...".

Any number of hints for a customer become one reconciliation. A hint that a list asked for later has already answered costs
none. Work and settlement are one transaction, so a crash between them does not exist: the row is pending, or it is done.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from cardsync import metrics
from cardsync.core.backoff import after_failure
from cardsync.core.cards import CardFacts
from cardsync.core.diff import Plan, RemoteCard, Shown
from cardsync.core.repeats import APART_SECONDS, NO_PATIENCE
from cardsync.errors import CardsyncError
from cardsync.store import agreements, cards, customers, inbox, repeats

log = structlog.get_logger(__name__)


# What one row can raise: the database's refusal of it, or content that this version cannot read.
UNREADABLE: Final = (SQLAlchemyError, CardsyncError, TypeError, ValueError)


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
    except UNREADABLE as error:
        log.warning("hints_settled_one_by_one", count=len(event_ids), error=type(error).__name__)
    due: list[int] = []
    for event_id in event_ids:
        try:
            due += _settle_together(engine, [event_id], policy)
        except UNREADABLE as error:
            due += _postpone(engine, event_id, error, jitter)
    return sorted(set(due))


def _settle_together(engine: Engine, event_ids: Sequence[uuid.UUID], policy: HintPolicy) -> list[int]:
    due: set[int] = set()
    with engine.begin() as connection:
        repeated, too_many = (set(), 0) if policy.believed else _sort_out_repeats(connection, event_ids)
        # Customers first, then their hints: the order of whoever removes a card, and takes the hints that name it.
        held = {who: customers.touch(connection, *who) for who in inbox.whose(connection, event_ids)}
        hints = inbox.claim(connection, event_ids)
        for hint in hints:
            customer = held[hint.environment, hint.customer_id]
            fingerprint = hint.token.fingerprint(policy.fingerprint_key, hint.environment)
            if policy.believed:
                card_id = _believe(connection, customer.customer, hint, fingerprint)
            else:
                card_id, is_due = _note(connection, customer, hint, fingerprint, hint.event_id in repeated)
                if is_due:
                    due.add(customer.customer)
            inbox.settle(connection, hint.event_id, card_id)
    metrics.EVENTS.labels("done").inc(len(hints))
    metrics.EVENTS.labels("repeated").inc(sum(1 for hint in hints if hint.event_id in repeated))
    _tell_of_replays(too_many)
    return sorted(due)


def _sort_out_repeats(connection: Connection, event_ids: Sequence[uuid.UUID]) -> tuple[set[uuid.UUID], int]:
    """Which of the events are repeats; those that name a stranger too many fail here, and are counted."""
    found = repeats.among(connection, event_ids)
    too_many = [r.event_id for r in found if r.stranger and not repeats.admit_stranger(connection, r.signature_hash)]
    given_up = repeats.give_up(connection, too_many) if too_many else 0
    return {r.event_id for r in found}, given_up


def _tell_of_replays(count: int) -> None:
    if count:
        metrics.EVENTS.labels("failed").inc(count)
        metrics.SUSPICIOUS.labels("repeated_signature").inc(count)
        log.warning("suspicious_hints", reason="repeated_signature", count=count)


def _note(
    connection: Connection, customer: customers.Touched, hint: inbox.PendingHint, fingerprint: bytes, repeated: bool
) -> tuple[uuid.UUID, bool]:
    """Note what the hint says; whether the customer is to be looked at now."""
    known = cards.find(connection, customer.customer, fingerprint)
    if known is not None and _is_answered(known, customer, hint):
        return known.card_id, False
    card_id = cards.await_hinted(
        connection,
        customer.customer,
        RemoteCard(fingerprint, hint.token, hint.facts.over(CardFacts(agreements=()))),
        evidence_no=hint.evidence_no,
        received_at=NO_PATIENCE if repeated else hint.received_at,
    )
    if repeated:
        is_due = repeats.mark_dirty(
            connection, customer.customer, evidence_no=hint.evidence_no, apart_seconds=APART_SECONDS
        )
        return card_id, is_due
    customers.mark_dirty(connection, customer.customer, evidence_no=hint.evidence_no, lane="hint")
    return card_id, True


def _is_answered(known: cards.KnownCard, customer: customers.Touched, hint: inbox.PendingHint) -> bool:
    """Whether a list asked for after this hint has shown the card.

    That a later list is believed and the card is active does not say so: a card that an earlier hint still holds, or the
    brake, is active although that list lacked it. This hint has its own time then.
    """
    shown = known.status in ("active", "deleting") and not known.awaited and not customer.removals_held
    return shown and customer.applied_no > hint.evidence_no


def _believe(connection: Connection, customer: int, hint: inbox.PendingHint, fingerprint: bytes) -> uuid.UUID:
    """Take the hint for the truth. Of two that differ the later received counts, in whichever order they are processed.

    What a hint does not say of a known card stays as it is.
    """
    known = {c.fingerprint: c for c in cards.of_customer(connection, customer, [fingerprint])}.get(fingerprint)
    before = known.facts if known is not None else CardFacts(agreements=())
    newest = known is None or hint.evidence_no > cards.believed_no(connection, known.card_id)
    facts = hint.facts.over(before) if newest else before.over(hint.facts)
    remote = RemoteCard(fingerprint, hint.token, facts)
    if known is None:
        plan = Plan(added=(remote,))
    else:
        shown = Shown(
            card_id=known.card_id,
            remote=remote,
            was=known.status,
            revive=known.status in ("unconfirmed", "removed"),
            changed=facts != before,
            answered=True,
        )
        plan = Plan(shown=(shown,))
    card_id = cards.apply(connection, customer, plan, confirmed_at=None, cause="hint")[fingerprint]
    cards.note_believed(connection, card_id, hint.evidence_no)
    claims = agreements.Claims(card_id, facts.agreements or (), before.agreements or ())
    agreements.apply(connection, hint.environment, [claims], [], hint.evidence_no)
    return card_id


def _postpone(engine: Engine, event_id: uuid.UUID, error: Exception, jitter: float) -> list[int]:
    """Put the one event off. Its last failed attempt still makes the customer dirty: a hint needs no more than that.

    Trouble of the database's own (a lock, a time-out, a connection) is nobody's failed attempt. If even this cannot be
    written, the row is as it was, and the sweep comes back to it.
    """
    counted = not isinstance(error, OperationalError)
    due: list[int] = []
    status = None
    try:
        with engine.begin() as connection:
            attempts = inbox.attempts(connection, event_id)
            wait = after_failure(attempts + 1, jitter=jitter)
            name = type(error).__name__
            status = inbox.postpone(connection, event_id, error=name, wait_seconds=wait, counted=counted)
        if status == "failed":
            with engine.begin() as connection:
                for environment, customer_id in inbox.whose(connection, [event_id], status="failed"):
                    customer = customers.touch(connection, environment, customer_id).customer
                    customers.mark_dirty(connection, customer, evidence_no=None, lane="hint")
                    due.append(customer)
    except SQLAlchemyError:
        pass
    metrics.EVENTS.labels("failed" if status == "failed" else "postponed").inc()
    log.warning("hint_postponed", event_id=str(event_id), status=status, error=type(error).__name__)
    return due
