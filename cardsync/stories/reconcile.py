"""``reconcile``: ticket, call, believe once.

A short transaction takes the ticket, numbered after all evidence so far. Ottu is asked with no transaction open. A short
transaction applies the answer, only if the ticket still stands: a stale answer never overwrites a fresh one. An answer that is
not a believable list changes nothing but the date of the next attempt; whose trouble that is, and so how long it waits and in
which lane, stands in ``core.trouble``. An error that the table does not foresee is noted by its class, and backs off too.

**A 404 to a list.** Ottu may answer 404 for a customer without cards; so does a wrong route. It is read as an empty list only if
that removes nothing but what Ottu itself said to have deleted (``lists.is_404_an_empty_list``): its body is JSON, each card
that the customer still has is under a deletion that was answered with 2xx, no hint is open, and lists with cards of other
customers were believed since. Otherwise it is a failed call, and receipts of deletions that wait for the list say so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from cardsync import metrics, traces
from cardsync.core import leases
from cardsync.core.backoff import after_failure
from cardsync.core.call_budget import COMMIT_SECONDS, Lane
from cardsync.core.cards import LISTED_STATUSES, Environment
from cardsync.core.repeats import APART_SECONDS
from cardsync.core.trouble import (
    LONGEST_WAIT_OF_A_PROBE_SECONDS,
    PATIENT_FAILURES,
    Trouble,
    lane_after,
    longest_wait_seconds,
)
from cardsync.errors import CardsyncError, InvalidAnswer, ListNotFound, Superseded, named
from cardsync.ottu import CardList
from cardsync.settings import Settings
from cardsync.store import cards, customers, observations
from cardsync.store.calls import budget, failures, gate
from cardsync.store.calls.failures import Ended
from cardsync.store.customers import Ticket
from cardsync.store.deletions import lists
from cardsync.stories.apply_list import ApplyPolicy, apply_list
from cardsync.stories.apply_queue import ApplyQueue
from cardsync.stories.counted_calls import log_turn, log_unforeseen

log = structlog.get_logger(__name__)

READ_AS_EMPTY: Final = (
    "404 to the list, read as an empty one: Ottu said that each card is deleted, and other lists work"
)

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
class ReconcilePolicy(ApplyPolicy):
    """The settings that this story goes by. ``call_seconds`` bounds one call."""

    daily_calls: int
    call_seconds: float

    @classmethod
    def of(cls, settings: Settings, fingerprint_key: bytes) -> ReconcilePolicy:
        """Take the policy from the settings; the key of the fingerprints is the database's (``store.access.secret_keys``)."""
        return cls(
            fingerprint_key=fingerprint_key,
            ring=settings.key_ring(),
            confirm_seconds=settings.confirm_seconds,
            daily_calls=settings.ottu_daily_calls,
            call_seconds=settings.ottu_timeout_s,
            brake_share=settings.removal_brake_share,
            brake_floor=settings.removal_brake_floor,
        )

    @property
    def lease_seconds(self) -> float:
        """How long a ticket stands: one call, and the applying."""
        return leases.lease_seconds(self.call_seconds)

    @property
    def list_seconds(self) -> float:
        """How long all pages of one list may take together."""
        return leases.list_seconds(self.call_seconds)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one reconciliation; ``again`` asks the caller to ring for the customer once more.

    ``deletions``: calls of the customer's deletions are due, which waited for this to end.
    """

    outcome: Outcome
    again: bool = False
    error: str | None = None
    deletions: bool = False


@dataclass(frozen=True, slots=True)
class CountedTicket:
    """A claimed ticket, whose first call is let through and counted; ``counting`` is when that began, by ``time.monotonic``.

    ``heard`` are the contexts of the spans in which the hints arrived that it was taken for.
    """

    ticket: Ticket
    counting: float
    heard: tuple[str, ...] = ()


def reconcile(engine: Engine, ottu: Lists, customer: int, policy: ReconcilePolicy, *, jitter: float) -> Result:
    """Bring one customer's cards in line with Ottu's list, if the customer is due and no other process asks about it."""
    with engine.begin() as connection:
        ticket = customers.take_ticket(connection, customer, lease_seconds=policy.lease_seconds)
    if ticket is None:
        return Result("not_due")
    return _tell(engine, ottu, ticket, policy, _Calls(engine, ticket, policy), jitter)


def look(
    engine: Engine,
    ottu: Lists,
    claimed: CountedTicket,
    policy: ReconcilePolicy,
    *,
    jitter: float,
    queue: ApplyQueue | None = None,
) -> Result:
    """Ask for the list of a claimed customer, and apply it: the same as ``reconcile`` after its ticket (``claim``).

    With a ``queue`` the list is applied together with those that other threads brought.
    """
    calls = _Calls(engine, claimed.ticket, policy, counting=claimed.counting)
    return _tell(engine, ottu, claimed.ticket, policy, calls, jitter, heard=claimed.heard, queue=queue)


def _tell(
    engine: Engine,
    ottu: Lists,
    ticket: Ticket,
    policy: ReconcilePolicy,
    calls: _Calls,
    jitter: float,
    heard: Sequence[str] = (),
    queue: ApplyQueue | None = None,
) -> Result:
    """Look, and count and log what became of it."""
    began = time.monotonic()
    of: traces.Attributes = {"customer": ticket.customer, "observation": ticket.number, "lane": ticket.lane}
    with traces.span("reconcile", of, links=heard) as span:
        result = _look(engine, ottu, ticket, policy, calls, jitter, queue)
        span.set({"outcome": result.outcome})
    seconds = time.monotonic() - began
    metrics.RECONCILIATIONS.labels(ticket.lane, result.outcome).inc()
    metrics.RECONCILIATION_SECONDS.labels(result.outcome).observe(seconds)
    # While calls are paused there are many of these, all alike: the metrics count them.
    say = log.debug if result.outcome == "paused" else log.info
    say(
        "reconciled",
        customer=ticket.customer,
        observation=ticket.number,
        lane=ticket.lane,
        outcome=result.outcome,
        calls=calls.made,
        error=result.error,
        milliseconds=round(seconds * 1000),
    )
    return result


def _look(
    engine: Engine,
    ottu: Lists,
    ticket: Ticket,
    policy: ReconcilePolicy,
    calls: _Calls,
    jitter: float,
    queue: ApplyQueue | None,
) -> Result:
    """Ask, and apply what was answered; or note what went wrong, and give the ticket back."""
    try:
        answer = _ask(engine, ottu, ticket, policy, calls)
        calls.count("answered")
        if queue is None:
            believed = apply_list(engine, ticket, answer, policy, jitter=jitter)
        else:
            believed = queue.apply(ticket, answer, jitter=jitter)
    except Superseded as error:
        return Result("superseded", error=str(error))
    except IntegrityError as error:
        # An answer that the database will not hold is one not to believe. Its text holds the row, so it ends here.
        sqlstate = getattr(error.orig, "sqlstate", None)
        refused = InvalidAnswer(f"the database refuses what was listed ({sqlstate})")
        return _postpone(engine, ticket, refused, calls.made, jitter)
    except Exception as error:
        if isinstance(error, SQLAlchemyError) and not calls.made:
            raise  # the database's trouble before any call: the lease runs out, and nothing failed for this customer
        calls.count(type(error).__name__)
        try:
            return _postpone(engine, ticket, error, calls.made, jitter)
        except SQLAlchemyError as away:  # with the database away nothing can be noted: the lease runs out
            # The call's own end was foreseen, so what is left is the database's trouble. An error of our own code must be seen.
            raise (away if isinstance(error, CardsyncError) else error) from None
    if ticket.failures > PATIENT_FAILURES:
        log.warning("customer_answers_again", customer=ticket.customer, failures=ticket.failures)
    return Result(believed.outcome, again=believed.again, deletions=believed.deletions)


def _ask(engine: Engine, ottu: Lists, ticket: Ticket, policy: ReconcilePolicy, calls: _Calls) -> CardList:
    """Ask for the list; one of several pages that lacks a known card is asked for twice.

    A card that is deleted between two pages moves the others up, and one that moves over the edge of a page is in neither,
    while the count still agrees if another was added. Absent is only what both lists lack.
    """

    def ask() -> CardList:
        try:
            return ottu.list_cards(
                ticket.environment, ticket.customer_id, deadline_seconds=policy.list_seconds, before_call=calls.spend
            )
        except ListNotFound as error:
            if error.says_why and _is_an_empty_list(engine, ticket):
                return CardList((), calls.made)
            raise

    answer = ask()
    if answer.calls == 1:
        return answer
    listed = {c.token.fingerprint(policy.fingerprint_key, ticket.environment) for c in answer.cards}
    with engine.connect() as connection:
        known = cards.of_customer(connection, ticket.customer, listed)()
    if all(c.fingerprint in listed for c in known if c.status in LISTED_STATUSES):
        return answer
    return answer.united_with(ask())


def _is_an_empty_list(engine: Engine, ticket: Ticket) -> bool:
    """Whether a 404 says that the customer has no cards; then the receipts of deletions that wait for the list say why."""
    with engine.begin() as connection:
        is_one = lists.is_404_an_empty_list(connection, ticket)
        if is_one:
            lists.note_404(connection, ticket, why=READ_AS_EMPTY)
    return is_one


class _Calls:
    """Counts every call of one ticket against the budget before it is made, and renews the ticket for it.

    ``counting``: the first call was counted by the claim, which began then. A process that stood still since counts it again.
    """

    def __init__(
        self, engine: Engine, ticket: Ticket, policy: ReconcilePolicy, *, counting: float | None = None
    ) -> None:
        self._engine, self._ticket, self._policy = engine, ticket, policy
        self._counting = counting
        self.made = 0

    def spend(self) -> None:
        counting, self._counting = self._counting, None
        if counting is None or time.monotonic() - counting >= COMMIT_SECONDS:
            self._count()
        self.made += 1

    def _count(self) -> None:
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

    def count(self, outcome: str) -> None:
        """Count the calls by outcome: how the last one ended; those before it were pages that were answered."""
        if self.made:
            metrics.CALLS.labels("list", outcome).inc()
            metrics.CALLS.labels("list", "answered").inc(self.made - 1)


def _postpone(engine: Engine, ticket: Ticket, error: Exception, calls: int, jitter: float) -> Result:
    """Note how the call ended where each one hears of it, and give the ticket back, due again later."""
    try:
        with engine.begin() as connection:
            is_open = gate.waits_for_a_probe(connection)
            ended = failures.told(connection, error, call="list", who=ticket.customer)
            said = f"{named(error)}{ended.trouble.note}"
            given_up = _give_back(connection, ticket, ended, said, jitter=jitter, is_open=is_open)
            if calls:
                observations.record(connection, ticket, outcome=type(error).__name__, calls=calls)
    except Superseded as late:
        return Result("superseded", error=str(late))
    log_turn(ended.turn)
    log_unforeseen(error, ended.trouble, customer=ticket.customer, observation=ticket.number)
    if ended.trouble.counts and not ended.trouble.stays_urgent and ticket.failures == PATIENT_FAILURES:
        log.warning("customer_in_trouble", customer=ticket.customer, error=said)
    metrics.DELETIONS.labels("failed").inc(given_up)
    return Result("failed" if ended.trouble.counts else "paused", error=said)


def _give_back(connection: Connection, ticket: Ticket, ended: Ended, said: str, *, jitter: float, is_open: bool) -> int:
    """Give the ticket back, and tell the customer's deletions; return how many of them are given up."""
    trouble, asked_seconds = ended.trouble, ended.retry_after_seconds
    failures = ticket.failures + 1 if trouble.counts else 1
    waits = lists.waits_for_a_list(connection, ticket.customer)
    lane = lane_after(trouble, ticket.lane, failures=failures, deletion_waits=waits)
    wait = after_failure(
        failures,
        jitter=jitter,
        retry_after_seconds=asked_seconds,
        longest_seconds=_longest_seconds(trouble, lane, is_open=is_open),
    )
    if lane == "repeat":
        wait = max(wait, APART_SECONDS)
    customers.fail(
        connection,
        ticket,
        error=said,
        wait_seconds=wait,
        counted=trouble.counts,
        lane=lane,
        least_seconds=asked_seconds or 0.0,
    )
    if not trouble.counts:
        return 0
    return lists.unlisted(connection, ticket.customer, trouble, error=said, wait_seconds=wait)


def _longest_seconds(trouble: Trouble, lane: Lane, *, is_open: bool) -> float:
    longest = longest_wait_seconds(trouble, lane)
    return min(longest, LONGEST_WAIT_OF_A_PROBE_SECONDS) if is_open and trouble.counts else longest
