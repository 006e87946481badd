"""``process``: fold hints into the one fact per customer that they are about: "may differ from Ottu since ...".

Any number of hints for a customer become one reconciliation. A hint that a list asked for later has already answered costs
none. Work and settlement are one transaction, so a crash between them does not exist: the row is pending, or it is done.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from cardsync import db, metrics, traces
from cardsync.ciphers import KeyRing
from cardsync.core.backoff import LONGEST_UNREADABLE_SECONDS, after_failure, while_unreadable
from cardsync.core.believe import Doubt
from cardsync.core.cards import Environment
from cardsync.core.repeats import APART_SECONDS
from cardsync.db import Answer, Transaction
from cardsync.episodes import Episode
from cardsync.errors import CardsyncError, UnknownSecretKey
from cardsync.store import agreement_asks, agreements, customers, inbox, known_agreements, repeats
from cardsync.store.folding import Heard, fold
from cardsync.stories.believe_hint import ask_about, take_hint

log = structlog.get_logger(__name__)
_one_by_one = Episode("hints_settled_one_by_one")
_unreadable = Episode("hints_unreadable", level="error")
# Such a hint is tried again every minute, and the others succeed meanwhile.
QUIET_SECONDS: Final = 2 * LONGEST_UNREADABLE_SECONDS

# What one row can raise: the database's refusal of it, or content that this version cannot read.
UNREADABLE: Final = (SQLAlchemyError, CardsyncError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class HintPolicy:
    """How hints are taken. ``believed``: Ottu offers no list here (KSA), so that hints are the source (``believe_hint``)."""

    fingerprint_key: bytes
    believed: bool
    ring: KeyRing


def process(engine: Engine, event_ids: Sequence[uuid.UUID], policy: HintPolicy, *, jitter: float) -> list[int]:
    """Settle those of the events that are pending; return the customers to reconcile; the caller rings for them.

    One transaction for all; if that fails, one for each, so that a hint that cannot be settled holds up no other.
    """
    try:
        due = _settle_together(engine, event_ids, policy)
    except UNREADABLE as error:
        _one_by_one.goes_on(count=len(event_ids), error=type(error).__name__, why=db.why(error))
    else:
        note_settled()
        return due
    due = []
    for event_id in event_ids:
        try:
            due += _settle_together(engine, [event_id], policy)
        except UNREADABLE as error:
            due += _postpone(engine, event_id, error, policy, jitter)
    return sorted(set(due))


def note_settled() -> None:
    """Note that hints were settled: troubles that were not met for a while are over."""
    for trouble in (_one_by_one, _unreadable):
        trouble.is_over_unless_met(QUIET_SECONDS)


def _settle_together(engine: Engine, event_ids: Sequence[uuid.UUID], policy: HintPolicy) -> list[int]:
    due: set[int] = set()
    doubts: Counter[Doubt] = Counter()
    with engine.begin() as connection:
        repeated, too_many = _sort_out_repeats(connection, event_ids, all_count=policy.believed)
        # Customers first, then their hints: a removal of a card locks in the same order, and takes the hints that name it.
        held = {
            who: customers.touch(connection, *who, by_hint=True)
            for who in _customers_to_hold(connection, event_ids, policy)
        }
        # One that was reopened since the statement before is left to its own bell: its customer is not locked here.
        claimed = inbox.claim(connection, event_ids, policy.ring)
        hints = [h for h in claimed if (h.environment, h.customer_id) in held]
        with traces.span("process", {"hints": len(hints)}, kind="consumer", links=(hint.trace for hint in hints)):
            if policy.believed:
                doubts = _believe(connection, held, hints, event_ids, policy)
            else:
                due = _fold(connection, held, hints, repeated, policy)
    metrics.EVENTS.labels("done").inc(len(hints))
    metrics.EVENTS.labels("repeated").inc(sum(1 for hint in hints if hint.event_id in repeated))
    _tell_of_doubts(doubts)
    _tell_of_replays(too_many)
    return sorted(due)


def _believe(
    connection: Connection,
    held: Mapping[tuple[Environment, str], customers.Touched],
    hints: Sequence[inbox.PendingHint],
    event_ids: Sequence[uuid.UUID],
    policy: HintPolicy,
) -> Counter[Doubt]:
    """Take the hints as the source that they are where there is no list; return the doubts about those that stay unconfirmed."""
    doubts: Counter[Doubt] = Counter()
    altered = repeats.in_other_bodies(connection, event_ids)
    for hint in sorted(hints, key=lambda one: one.order):
        customer = held[hint.environment, hint.customer_id]
        fingerprint = hint.token.fingerprint(policy.fingerprint_key, hint.environment)
        alone = hint.event_id not in altered
        heard = take_hint(connection, customer.customer, hint, fingerprint, policy.ring, alone=alone)
        doubts.update([heard.doubt] if heard.doubt else [])
        inbox.settle(connection, hint.event_id, heard.card_id)
    return doubts


def _customers_to_hold(
    connection: Connection, event_ids: Sequence[uuid.UUID], policy: HintPolicy
) -> list[tuple[Environment, str]]:
    """The customers to lock, in the order in which customers are locked everywhere (by code point).

    Where a hint moves an agreement, the customer whose card has it until now is one of them.
    """
    own = inbox.whose(connection, event_ids)
    return sorted({*own, *agreements.holders(connection, event_ids)}) if policy.believed else own


def _sort_out_repeats(
    connection: Connection, event_ids: Sequence[uuid.UUID], *, all_count: bool
) -> tuple[set[uuid.UUID], int]:
    """Which of the events are repeats; those that name a stranger too many are given up here, and counted.

    Where there is no list, no list drops an invented card of a known customer either: ``all_count`` limits every repeat.
    """
    found = repeats.among(connection, event_ids)
    limited = [r for r in found if all_count or r.stranger]
    too_many = [r.event_id for r in limited if not repeats.admit_stranger(connection, r.signature_hash)]
    given_up = repeats.give_up(connection, too_many) if too_many else 0
    return {r.event_id for r in found}, given_up


def _tell_of_doubts(doubts: Counter[Doubt]) -> None:
    for because, count in doubts.items():
        metrics.UNCONFIRMED.labels(because).inc(count)
        log.info("hints_unconfirmed", reason=because, count=count)


def _tell_of_replays(count: int) -> None:
    if count:
        metrics.EVENTS.labels("given_up").inc(count)
        metrics.SUSPICIOUS.labels("repeated_signature").inc(count)
        log.warning("suspicious_hints", reason="repeated_signature", count=count)


def _fold(
    connection: Connection,
    held: Mapping[tuple[Environment, str], customers.Touched],
    hints: Sequence[inbox.PendingHint],
    repeated: Collection[uuid.UUID],
    policy: HintPolicy,
) -> set[int]:
    """Note what the hints say; return the customers that are to be looked at now."""
    heard = [
        Heard(
            hint,
            held[hint.environment, hint.customer_id].customer,
            hint.token.fingerprint(policy.fingerprint_key, hint.environment),
            repeated=hint.event_id in repeated,
        )
        for hint in hints
    ]
    answered = note(connection, heard, policy.ring)()
    asking = [one for one in heard if one.hint.event_id not in answered]
    due = {one.customer for one in asking if not one.repeated}
    for one in asking:
        if one.repeated and repeats.mark_dirty(
            connection, one.customer, evidence_no=one.hint.evidence_no, apart_seconds=APART_SECONDS
        ):
            due.add(one.customer)
    return due


def note(connection: Transaction, heard: Sequence[Heard], ring: KeyRing) -> Answer[set[uuid.UUID]]:
    """Note what hints say of agreements and cards, and settle them; return those that a later list has answered already.

    What a repeat says of agreements is left out: a body whose signature came in another one may be about anything. So is what a
    payment says that did not succeed: it made no agreement and changed none, and it was no charge.
    """
    said = [
        known_agreements.Heard(
            one.customer,
            one.hint.environment,
            one.hint.agreement_id,
            one.hint.evidence_no,
            one.hint.as_of or one.hint.received_at,
            one.hint.terms,
            proves=one.hint.succeeded is True,
        )
        for one in heard
        if one.hint.agreement_id is not None and not one.repeated and one.hint.succeeded is not False
    ]
    known_agreements.hear(connection, said)
    agreement_asks.want_unclaimed(connection, {(one.environment, one.agreement_id) for one in said})
    return fold(connection, heard, ring)


def _postpone(engine: Engine, event_id: uuid.UUID, error: Exception, policy: HintPolicy, jitter: float) -> list[int]:
    """Put the one event off. Its last failed attempt leaves to others what it may have told (``_give_up``).

    Trouble of the database's own (a lock, a time-out, a connection) does not count as a failed attempt, and neither does a hint
    that another process encrypted with a key that this one was not given: in a rotation it soon is. If even this cannot be
    written, the row is as it was, and the sweep comes back to it.
    """
    counted = not isinstance(error, OperationalError | UnknownSecretKey)
    due: list[int] = []
    status = None
    try:
        with engine.begin() as connection:
            if isinstance(error, UnknownSecretKey):
                wait = while_unreadable(inbox.age_seconds(connection, event_id), jitter=jitter)
            else:
                wait = after_failure(inbox.attempts(connection, event_id) + 1, jitter=jitter)
            name = type(error).__name__
            status = inbox.postpone(connection, event_id, error=name, wait_seconds=wait, counted=counted)
        if status == "failed":
            due = _give_up(engine, event_id, policy)
    except SQLAlchemyError:
        pass
    metrics.EVENTS.labels("failed" if status == "failed" else "postponed").inc()
    if isinstance(error, UnknownSecretKey):
        _unreadable.goes_on(
            error=type(error).__name__, advice="name the key: docs/deployment.md#changing-the-secret-key"
        )
        return due
    log.warning("hint_postponed", event_id=str(event_id), status=status, error=type(error).__name__)
    return due


def _give_up(engine: Engine, event_id: uuid.UUID, policy: HintPolicy) -> list[int]:
    """Let a list say what the failed hint may have told; where there is no list, the inquiry endpoint.

    There its customer is not made due: nothing would ever look, and the customer would be due for ever.
    """
    with engine.begin() as connection:
        if policy.believed:
            ask_about(connection, event_id)
            return []
        due = []
        for environment, customer_id in inbox.whose(connection, [event_id], status="failed"):
            customer = customers.touch(connection, environment, customer_id, by_hint=True).customer
            customers.mark_dirty(connection, customer, evidence_no=None, lane="hint")
            due.append(customer)
        return due
