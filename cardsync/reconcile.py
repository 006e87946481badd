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
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from cardsync import metrics
from cardsync.believe import BeliefPolicy, believe
from cardsync.core.backoff import LONGEST_OF_A_CUSTOMER_SECONDS, LONGEST_SECONDS, after_failure
from cardsync.core.breaker import word_of
from cardsync.core.cards import Environment
from cardsync.core.repeats import APART_SECONDS
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
from cardsync.store import budget, cards, customers, deleting, gate, observations
from cardsync.store.customers import Ticket

log = structlog.get_logger(__name__)

# While all calls fail for everybody the breaker protects Ottu, and who finds that out is needed again as the next probe: with the
# breaker and the sweep, all goes on under a minute after Ottu does.
LONGEST_WAIT_OF_A_PROBE_SECONDS: Final = 20.0
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
class ReconcilePolicy(BeliefPolicy):
    """The settings that this story goes by. ``call_seconds`` bounds one call."""

    daily_calls: int
    call_seconds: float

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
        believed = believe(engine, ticket, answer, policy, jitter=jitter)
        result = Result(believed.outcome, again=believed.again, deletions=believed.deletions)
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
            budget.spend_call(
                connection,
                self._ticket.lane,
                who=self._ticket.customer,
                daily_calls=self._policy.daily_calls,
                call_seconds=self._policy.lease_seconds,
            )
        self.made += 1

    def count(self, outcome: str) -> None:
        """Count the calls by outcome: how the last one ended; those before it were pages that were answered."""
        if self.made:
            metrics.CALLS.labels("list", outcome).inc()
            metrics.CALLS.labels("list", "answered").inc(self.made - 1)


def _postpone(engine: Engine, ticket: Ticket, error: Transient | Terminal, calls: int, jitter: float) -> Result:
    """Give the ticket back, due again later."""
    counted = not isinstance(error, Transient) or error.called
    retry_after = error.retry_after_seconds if isinstance(error, Transient) else None
    # What was not called is no failure of this customer's, and keeps none of its waits: it is back when calls may be.
    wait = after_failure(
        ticket.failures + 1 if counted else 1,
        jitter=jitter,
        retry_after_seconds=retry_after,
        longest_seconds=LONGEST_SECONDS if ticket.lane == "deletion" else LONGEST_OF_A_CUSTOMER_SECONDS,
    )
    if ticket.lane == "repeat":
        wait = max(wait, APART_SECONDS)
    outcome: Outcome = "failed" if counted else "paused"
    try:
        with engine.begin() as connection:
            if isinstance(error, CredentialsRefused) or (counted and gate.waits_for_a_probe(connection)):
                wait = max(retry_after or 0.0, min(wait, LONGEST_WAIT_OF_A_PROBE_SECONDS))
            customers.fail(connection, ticket, error=_named(error), wait_seconds=wait, counted=counted)
            given_up = deleting.unlisted(
                connection,
                ticket.customer,
                error=_named(error),
                credentials=isinstance(error, CredentialsRefused),
                counted=counted,
                wait_seconds=wait,
            )
            gate.heard(connection, word_of(error), who=ticket.customer, retry_after_seconds=retry_after)
            if calls:
                observations.record(connection, ticket, outcome=type(error).__name__, calls=calls)
    except Superseded as late:
        return Result("superseded", error=str(late))
    metrics.DELETIONS.labels("failed").inc(given_up)
    return Result(outcome, error=_named(error))


def _named(error: CardsyncError) -> str:
    return f"{type(error).__name__}: {error}"
