"""``delete``: ticket, call, and leave the verdict to a list.

A short transaction counts the call, takes the customer's ticket and writes down that a call begins. Ottu is asked with no
transaction open. A short transaction writes what was answered, and makes the customer due: whatever the answer was, only a list
asked for after the call says what became of the card (``reconcile``). So a crash at any point, a time-out that succeeded and an
answer that comes too late all lead to the same place: the list decides, and nothing is called twice before it has.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import structlog
from sqlalchemy import Connection, Engine

from cardsync import metrics
from cardsync.core.allowance import COMMIT_SECONDS
from cardsync.core.backoff import after_failure
from cardsync.core.breaker import Word, word_of
from cardsync.core.cards import Environment, Token
from cardsync.core.deletion import Event, is_over
from cardsync.errors import (
    BudgetSpent,
    CallsPaused,
    CardsyncError,
    CredentialsRefused,
    OttuRejected,
    OttuThrottled,
    Superseded,
    Transient,
    UnusableCard,
)
from cardsync.ottu import DeleteAnswer
from cardsync.settings import Settings
from cardsync.store import budget, deleting, gate, operator, receipts
from cardsync.store.customers import hold
from cardsync.store.deleting import Job

log = structlog.get_logger(__name__)

APPLY_SECONDS: Final = 5.0  # a ticket stands for the call, and so long for writing down its answer
# With the breaker and the sweep: under a minute after our credentials work again.
LONGEST_WAIT_FOR_CREDENTIALS_SECONDS: Final = 20.0

Outcome = Literal["gone", "refused", "no_answer", "not_done", "gave_up", "not_due", "paused", "superseded"]
OUTCOMES: Final[Mapping[Event, Outcome]] = {
    "said_gone": "gone",
    "refused": "refused",
    "no_answer": "no_answer",
    "not_done": "not_done",
    "gave_up": "gave_up",
}


class Deletes(Protocol):
    """What this story needs of Ottu."""

    def delete_card(self, environment: Environment, customer_id: str, token: Token) -> DeleteAnswer:
        """Ask Ottu to delete one card."""
        ...


@dataclass(frozen=True, slots=True)
class DeletePolicy:
    """The settings that this story goes by. ``call_seconds`` bounds the call."""

    daily_calls: int
    call_seconds: float

    @classmethod
    def of(cls, settings: Settings) -> DeletePolicy:
        """Take the policy from the settings."""
        return cls(daily_calls=settings.ottu_daily_calls, call_seconds=settings.ottu_timeout_s)

    @property
    def lease_seconds(self) -> float:
        """How long the ticket stands."""
        return self.call_seconds + APPLY_SECONDS


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one call; ``customer`` is due to be asked about, for whom the caller rings."""

    outcome: Outcome
    customer: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the call came to: the machine's event, and what to write of it."""

    event: Event
    error: str | None = None
    status_code: int | None = None
    refund: bool = False
    retry_after_seconds: float | None = None
    raised: CardsyncError | None = None

    @property
    def is_from_ottu(self) -> bool:
        """Whether Ottu took a decision about the card."""
        return self.event in ("said_gone", "refused")

    @property
    def word(self) -> Word | None:
        """What it says of Ottu as such."""
        if self.event == "refused":
            return "rejected"
        return "answered" if self.event == "said_gone" else word_of(self.raised)


def delete(
    engine: Engine, ottu: Deletes | None, deletion_id: uuid.UUID, policy: DeletePolicy, *, jitter: float
) -> Result:
    """Make a deletion's next call, if it is due and nobody else asks about the customer.

    ``ottu`` is ``None`` where Ottu offers no API for cards (KSA): what somebody asked for by SQL is then given up at once.
    """
    if ottu is None:
        return _give_up(engine, deletion_id)
    counting = time.monotonic()
    try:
        job = _begin(engine, deletion_id, policy)
    except (CallsPaused, BudgetSpent) as paused:
        return _put_off(engine, deletion_id, paused, jitter)
    if job is None:
        return Result("not_due")
    began = time.monotonic()
    answer = _call(ottu, job) if began - counting < COMMIT_SECONDS else _counted_too_long_ago()
    try:
        result = _settle(engine, job, answer, jitter)
    except Superseded as late:
        result = _note_late(engine, job, answer, late)
    metrics.CALLS.labels("delete", type(answer.raised).__name__ if answer.raised else "answered").inc()
    log.info(
        "deletion_called",
        deletion_id=str(deletion_id),
        customer=job.ticket.customer,
        call_no=job.ticket.number,
        outcome=result.outcome,
        status_code=answer.status_code,
        error=result.error,
        milliseconds=round((time.monotonic() - began) * 1000),
    )
    return result


def _begin(engine: Engine, deletion_id: uuid.UUID, policy: DeletePolicy) -> Job | None:
    """Write the intent down. Raises ``CallsPaused`` or ``BudgetSpent``, and then nothing is written."""
    with engine.begin() as connection:
        job = deleting.begin(connection, deletion_id, lease_seconds=policy.lease_seconds)
        if job is not None:
            budget.spend_call(
                connection,
                "deletion",
                who=job.ticket.customer,
                daily_calls=policy.daily_calls,
                call_seconds=policy.lease_seconds,
                may_probe=False,
            )
        return job


def _call(ottu: Deletes, job: Job) -> _Answer:
    """Make the call, and say what it came to. Nothing that Ottu answers is raised: every answer is written down."""
    ticket = job.ticket
    try:
        said = ottu.delete_card(ticket.environment, ticket.customer_id, job.token)
    except Transient as error:
        is_certain = isinstance(error, CredentialsRefused | OttuThrottled)
        return _Answer(
            "not_done" if is_certain else "no_answer",
            _named(error),
            error.status_code,
            refund=isinstance(error, CredentialsRefused),
            retry_after_seconds=error.retry_after_seconds,
            raised=error,
        )
    except UnusableCard as error:
        return _Answer("gave_up", _named(error), raised=error)
    except OttuRejected as error:
        return _Answer("refused", _named(error), error.status_code, raised=error)
    if said.gone:
        return _Answer("said_gone", None, said.status_code)
    return _Answer(
        "refused", f"Ottu refuses ({said.status_code}): {said.reason or 'no reason given'}", said.status_code
    )


def _counted_too_long_ago() -> _Answer:
    """The call was not made: what was counted would leave the ledger before 24 hours were over since then."""
    stalled = CallsPaused("the process stood still after the call was counted, and made none")
    return _Answer("not_done", _named(stalled), refund=True, raised=stalled)


def _settle(engine: Engine, job: Job, answer: _Answer, jitter: float) -> Result:
    """Write what was answered, and give the ticket back. Raises ``Superseded`` if the ticket stands no more."""
    with engine.begin() as connection:
        hold(connection, job.ticket)
        word, retry_after = answer.word, answer.retry_after_seconds
        gate.heard(connection, word, who=job.ticket.customer, retry_after_seconds=retry_after)
        if answer.event == "refused" and answer.status_code == 403 and gate.credentials_doubted(connection):
            # Not this card's refusal, as far as we can know: the last list was refused for our credentials, too.
            answer = _Answer("not_done", answer.error, 403, refund=True)
        wait = after_failure(job.failures, jitter=jitter, retry_after_seconds=answer.retry_after_seconds)
        if answer.refund:
            wait = min(wait, LONGEST_WAIT_FOR_CREDENTIALS_SECONDS)
        event = answer.event
        if event == "not_done" and not answer.refund and is_over(job.tried_since, operator.moment(connection)):
            event = "gave_up"
        _record(connection, job, answer)
        deleting.move(
            connection,
            job.deletion_id,
            "calling",
            event,
            error=answer.error,
            wait_seconds=wait,
            refund=answer.refund,
        )
        deleting.hand_back(connection, job.ticket, answered=answer.is_from_ottu)
    if event == "gave_up":
        metrics.DELETIONS.labels("failed").inc()
    return Result(OUTCOMES[event], job.ticket.customer, answer.error)


def _record(connection: Connection, job: Job, answer: _Answer, *, late: bool | None = None) -> None:
    receipts.add(
        connection,
        job.deletion_id,
        "answered" if answer.status_code is not None else "no_answer",
        call_no=job.ticket.number,
        status_code=answer.status_code,
        error=answer.error,
        late=late,
    )


def _note_late(engine: Engine, job: Job, answer: _Answer, late: Superseded) -> Result:
    """Somebody newer has the floor, and a list decides; the receipt still says what was answered."""
    with engine.begin() as connection:
        _record(connection, job, answer, late=True)
    return Result("superseded", error=str(late))


def _put_off(engine: Engine, deletion_id: uuid.UUID, paused: CallsPaused | BudgetSpent, jitter: float) -> Result:
    """Let it be due later. While the breaker is open a list has to find out whether calls may go on: one is asked for."""
    wait = after_failure(1, jitter=jitter, retry_after_seconds=paused.retry_after_seconds)
    with engine.begin() as connection:
        probes = gate.waits_for_a_probe(connection)
        customer = deleting.ask_for_a_list(connection, deletion_id) if probes else None
        deleting.put_off(connection, deletion_id, error=_named(paused), wait_seconds=wait)
    return Result("paused", customer, _named(paused))


def _give_up(engine: Engine, deletion_id: uuid.UUID) -> Result:
    error = "Ottu offers no API for cards here (OTTU_CARDS_API=unavailable)"
    with engine.begin() as connection:
        given_up = deleting.give_up(connection, deletion_id, error=error)
    return Result("gave_up", error=error) if given_up else Result("not_due")


def _named(error: CardsyncError) -> str:
    return f"{type(error).__name__}: {error}"
