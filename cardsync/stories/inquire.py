"""``inquire``: ask Ottu about one payment, and take the answer as a hint: ticket, call, apply once.

A short transaction takes the ticket and counts the call; Ottu is asked with no transaction open; a short transaction writes the
answer into the inbox as an event of scheme ``inquiry``. From there it goes the way of every hint. It names its customer and its
card itself: what the hint that caused the inquiry said of them is not looked at, but for one thing: the unconfirmed cards that
such hints named, and the answer does not, are dropped and counted as suspicious.

The limits are Ottu's (``core.inquiry_limits``), kept under the gate's row by all processes together. A 429 puts off this payment
and pauses inquiries; other calls go on, since anybody may name a payment that Ottu does not want to be asked about.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import structlog
from sqlalchemy import Connection, Engine

from cardsync import metrics
from cardsync.ciphers import KeyRing
from cardsync.core.backoff import after_failure
from cardsync.core.call_budget import Lane
from cardsync.core.circuit_breaker import Word
from cardsync.core.inquiry_limits import (
    A_MINUTE,
    APART,
    LONGEST_WAIT_SECONDS,
    MINUTE_SECONDS,
    hints_left,
    may_be_asked_at,
)
from cardsync.errors import (
    BudgetSpent,
    CardsyncError,
    CredentialsRefused,
    OttuFault,
    OttuThrottled,
    OttuUnavailable,
    Terminal,
    Transient,
    named,
)
from cardsync.ottu import Inquired
from cardsync.settings import Settings
from cardsync.store import cards, customers, inquiries, intake
from cardsync.store.calls import budget, gate, ledger, permits
from cardsync.store.inquiries import Ticket
from cardsync.store.intake import NewEvent
from cardsync.stories.counted_calls import log_turn

log = structlog.get_logger(__name__)

LANE: Final[Lane] = "retry"
APPLY_SECONDS: Final = 5.0  # as a list's ticket has
AT_ONCE: Final = 5  # of one tick: a call may take ten seconds, and a tick comes every few
THROTTLED_PAUSE_SECONDS: Final = 60.0  # a minute is what Ottu's limit over all payments counts by
SHORTEST_WAIT_SECONDS: Final = 1.0
KEY_ID: Final = "inquiry"  # in the place of a key's name: Ottu's TLS and our credentials vouched for it
# Where nothing says when a payment was made, its answer is the oldest evidence: it fills gaps, and overrules nothing.
LONG_AGO: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

Outcome = Literal[
    "answered",
    "unknown",  # Ottu knows no such payment
    "early",  # not called: it is too early for this payment
    "paced",  # not called: no payment may be asked about now
    "throttled",  # a 429, which the workers will outwait
    "failed",
    "not_due",
    "superseded",
]


class Inquiries(Protocol):
    """What this story needs of Ottu."""

    def inquire(self, session_id: str, *, before_call: Callable[[], None]) -> Inquired | None:
        """Ask about one payment."""
        ...


@dataclass(frozen=True, slots=True)
class InquiryPolicy:
    """The settings that this story goes by. ``call_seconds`` bounds one call."""

    fingerprint_key: bytes
    ring: KeyRing
    daily_calls: int
    call_seconds: float

    @classmethod
    def of(cls, settings: Settings, fingerprint_key: bytes) -> InquiryPolicy:
        """Take the policy from the settings; the key of the fingerprints is the database's (``store.access.secret_keys``)."""
        return cls(fingerprint_key, settings.key_ring(), settings.ottu_daily_calls, settings.ottu_timeout_s)

    @property
    def lease_seconds(self) -> float:
        """How long a ticket stands: one call, and the applying."""
        return self.call_seconds + APPLY_SECONDS


@dataclass(frozen=True, slots=True)
class InquiryResult:
    """What became of one inquiry. ``event_id`` is to be rung for; ``retry_after_seconds`` is when it may be tried again.

    ``names_card``: the payment that was answered names a card, also if an equal answer was taken before.
    """

    outcome: Outcome
    event_id: uuid.UUID | None = None
    names_card: bool = False
    error: str | None = None
    retry_after_seconds: float | None = None


def inquire_due(engine: Engine, ottu: Inquiries, policy: InquiryPolicy, *, jitter: float) -> list[uuid.UUID]:
    """Ask about the payments that are due longest, a few of them; return the events to ring for."""
    found = []
    for _ in range(AT_ONCE):
        result = inquire(engine, ottu, None, policy, jitter=jitter)
        if result.event_id is not None:
            found.append(result.event_id)
        if result.outcome in ("not_due", "paced", "throttled", "failed"):  # the next one would hear the same
            break
    return found


def inquire(
    engine: Engine, ottu: Inquiries, session_id: str | None, policy: InquiryPolicy, *, jitter: float
) -> InquiryResult:
    """Ask about one payment, if it is due, no other process asks and Ottu's limits allow it; ``None`` is the one due longest."""
    with engine.begin() as connection:
        ticket = inquiries.take(connection, session_id=session_id, lease_seconds=policy.lease_seconds)
    if ticket is None:
        return InquiryResult("not_due")
    made = False

    def spend() -> None:
        nonlocal made
        with engine.begin() as connection:
            _spend(connection, ticket, policy)
        made = True

    try:
        answer = ottu.inquire(ticket.session_id, before_call=spend)
    except (Transient, Terminal) as error:
        result = _put_off(engine, ticket, error, made=made, jitter=jitter)
    else:
        result = _apply(engine, ticket, answer, policy)
    log.info(
        "inquired", inquiry=ticket.inquiry_id, outcome=result.outcome, asked_for=ticket.asked_for, error=result.error
    )
    return result


class _Limited(Transient):
    """Ottu's limits allow no inquiry now; nothing was called."""


class _TooEarly(_Limited):
    """... about this payment; others may be asked about."""


def _spend(connection: Connection, ticket: Ticket, policy: InquiryPolicy) -> None:
    """Count the call before it is made. Raises ``_Limited``, ``CallsPaused`` or ``BudgetSpent`` if it must not be made now."""
    earliest = may_be_asked_at(ticket.asked_at, ticket.heard_at)
    if earliest is not None and earliest > ticket.now:
        wait = (earliest - ticket.now).total_seconds()
        raise _TooEarly("Ottu takes no question about this payment yet", retry_after_seconds=wait)
    budget.spend_call(
        connection, LANE, who=_who(ticket), daily_calls=policy.daily_calls, call_seconds=policy.lease_seconds
    )
    spent = ledger.spent_by_lane(connection).get(LANE, 0) - 1
    if ticket.asked_for == "hint" and not hints_left(policy.daily_calls, spent):
        raise BudgetSpent("hints have caused their share of calls", retry_after_seconds=permits.LONGEST_WAIT_SECONDS)
    recent = inquiries.recent(connection, seconds=MINUTE_SECONDS)
    if recent.paused_seconds:
        raise _Limited("inquiries are paused after a 429", retry_after_seconds=recent.paused_seconds)
    if recent.count >= A_MINUTE:
        raise _Limited(f"{A_MINUTE} inquiries were made within a minute", retry_after_seconds=SHORTEST_WAIT_SECONDS)
    inquiries.note_asked(connection, ticket)


def _who(ticket: Ticket) -> int:
    """Whose trouble a failure is, for the breaker: this payment's. Customers have the positive numbers."""
    return -ticket.inquiry_id


def _apply(engine: Engine, ticket: Ticket, answer: Inquired | None, policy: InquiryPolicy) -> InquiryResult:
    """Write the answer into the inbox, if the ticket still stands, and drop the unconfirmed cards that it does not name."""
    event_id: uuid.UUID | None = None
    with engine.begin() as connection:
        dropped = _drop_others(connection, ticket, answer, policy)
        if not inquiries.settle(connection, ticket, status="unknown" if answer is None else "answered"):
            connection.rollback()
            return InquiryResult("superseded")
        if answer is not None:
            row = intake.as_row(_as_event(answer, ticket), policy.ring)
            (stored,) = intake.store_rows(connection, [row])
            event_id = stored.event_id if stored.status == "pending" else None
        turn = gate.heard(connection, "answered", who=_who(ticket))
    log_turn(turn)
    outcome: Outcome = "unknown" if answer is None else "answered"
    metrics.CALLS.labels("inquiry", outcome).inc()
    if dropped:
        reason = "unknown_payment" if answer is None else "not_in_payment"
        metrics.SUSPICIOUS.labels(reason).inc(dropped)
        log.warning("suspicious_hints", reason=reason, count=dropped)
    return InquiryResult(outcome, event_id, names_card=answer is not None and answer.event.card is not None)


def _as_event(answer: Inquired, ticket: Ticket) -> NewEvent:
    """The answer as a hint, ordered by when the payment was made, and not by when we asked: it may be a week old.

    Where a signed hint named the payment, it was there at that moment.
    """
    moments = [moment for moment in (answer.at, ticket.signed_at) if moment is not None]
    return NewEvent(
        answer.event,
        answer.content_hash,
        "inquiry",
        KEY_ID,
        None,
        vouched=True,
        as_of=max(moments, default=LONG_AGO),
    )


def _drop_others(connection: Connection, ticket: Ticket, answer: Inquired | None, policy: InquiryPolicy) -> int:
    """Drop the unconfirmed cards that hints named with this payment, and the payment does not name; the count of them."""
    named = None if answer is None else _card_named(answer, policy)
    others = [
        card
        for card in cards.unconfirmed(connection, ticket.card_ids)
        if (card.environment, card.customer_id, bytes(card.fingerprint)) != named
    ]
    for card in others:
        customers.touch(connection, card.environment, card.customer_id)
    return cards.drop_unconfirmed(connection, [card.card_id for card in others])


def _card_named(answer: Inquired, policy: InquiryPolicy) -> tuple[str, str | None, bytes] | None:
    """The card that the answer names, as (environment, customer_id, fingerprint)."""
    event = answer.event
    if event.card is None or event.environment is None:
        return None
    return event.environment, event.customer_id, event.card.token.fingerprint(policy.fingerprint_key, event.environment)


def _put_off(
    engine: Engine, ticket: Ticket, error: Transient | Terminal, *, made: bool, jitter: float
) -> InquiryResult:
    """Give the ticket back, due again later, and say to the gate what the call's end tells of Ottu."""
    asked_for = error.retry_after_seconds if isinstance(error, Transient) else None
    wait = after_failure(
        ticket.failures + 1 if made else 1,
        jitter=jitter,
        retry_after_seconds=asked_for,
        longest_seconds=LONGEST_WAIT_SECONDS,
    )
    if isinstance(error, OttuThrottled):
        wait = max(wait, APART.total_seconds())
    elif not made:
        wait = max(SHORTEST_WAIT_SECONDS, asked_for or 0.0)
    said = str(error) if isinstance(error, _Limited) else named(error)
    with engine.begin() as connection:
        if isinstance(error, OttuThrottled):
            pause = min(permits.LONGEST_WAIT_SECONDS, max(THROTTLED_PAUSE_SECONDS, asked_for or 0.0))
            inquiries.pause_all(connection, seconds=pause)
        inquiries.put_off(connection, ticket, wait_seconds=wait, error=said, counted=made)
        turn = gate.heard(connection, _word(error) if made else None, who=_who(ticket))
    log_turn(turn)
    if made:
        metrics.CALLS.labels("inquiry", type(error).__name__).inc()
    outcome: Outcome = "throttled" if isinstance(error, OttuThrottled) else "failed" if made else "paced"
    if isinstance(error, _TooEarly):
        outcome = "early"
    return InquiryResult(outcome, error=said, retry_after_seconds=wait)


def _word(error: CardsyncError) -> Word:
    """What a failed inquiry says of Ottu to all other calls.

    Little: anybody may name a payment in a hint. A 429, an odd answer or a refusal is that payment's, and shows that Ottu is
    there.
    """
    if isinstance(error, CredentialsRefused):
        return "credentials_refused"
    return "failed" if isinstance(error, OttuUnavailable | OttuFault) else "rejected"
