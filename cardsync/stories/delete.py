"""``delete``: ticket, call, and leave the verdict to a list.

A short transaction counts the call, takes the customer's ticket and writes down that a call begins. Ottu is asked with no
transaction open. A short transaction writes what was answered, and makes the customer due: whatever the answer was, only a list
asked for after the call says what became of the card (``reconcile``). Whose trouble an end of the call is, and what follows from
that for the breaker, the attempt and the wait, stands in ``core.trouble``. So a crash at any point, a time-out that succeeded
and an answer that comes too late all lead to the same place: the list decides, and nothing is called twice before it has.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from cardsync import db, metrics, traces
from cardsync.ciphers import KeyRing
from cardsync.core import leases
from cardsync.core.backoff import after_failure
from cardsync.core.call_budget import COMMIT_SECONDS
from cardsync.core.cards import Environment, Token
from cardsync.core.deletion import FORBIDDEN, Event, is_over
from cardsync.core.trouble import TABLE, Trouble, longest_wait_seconds
from cardsync.errors import (
    BudgetSpent,
    CallsPaused,
    CardsyncError,
    MalformedBody,
    Superseded,
    Transient,
    UnknownSecretKey,
    named,
)
from cardsync.ottu import DeleteAnswer
from cardsync.settings import Settings
from cardsync.store.calls import budget, failures, gate
from cardsync.store.calls.gate import Turn
from cardsync.store.customers import lock_if_ticket_stands
from cardsync.store.deletions import receipts, requests, transitions
from cardsync.store.deletions.transitions import Job
from cardsync.stories.counted_calls import log_turn, log_unforeseen

log = structlog.get_logger(__name__)

UNREADABLE_SECONDS: Final = (
    30.0  # until a token is tried again that no key here opens: in a rotation it soon has a reader
)

Outcome = Literal["gone", "declined", "no_answer", "not_done", "gave_up", "not_due", "paused", "superseded"]
OUTCOMES: Final[Mapping[Event, Outcome]] = {
    "said_gone": "gone",
    "declined": "declined",
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

    ring: KeyRing
    daily_calls: int
    call_seconds: float

    @classmethod
    def of(cls, settings: Settings) -> DeletePolicy:
        """Take the policy from the settings."""
        return cls(settings.key_ring(), daily_calls=settings.ottu_daily_calls, call_seconds=settings.ottu_timeout_s)

    @property
    def lease_seconds(self) -> float:
        """How long the ticket stands."""
        return leases.lease_seconds(self.call_seconds)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one call; ``customer`` is due to be asked about, and the caller rings for it."""

    outcome: Outcome
    customer: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the call came to: Ottu's answer, or the error that it ended with."""

    said: DeleteAnswer | None = None
    raised: Exception | None = None

    @property
    def status_code(self) -> int | None:
        """Ottu's status, if an answer came."""
        return self.said.status_code if self.said is not None else getattr(self.raised, "status_code", None)

    @property
    def error(self) -> str | None:
        """One line that says why the card is not gone; ``None`` if Ottu says that it is."""
        if self.raised is not None:
            return named(self.raised)
        assert self.said is not None
        if self.said.gone:
            return None
        refused = f"Ottu refuses ({self.said.status_code})"
        return f"{refused}: {self.said.reason}" if self.said.reason else refused


def delete(
    engine: Engine, ottu: Deletes | None, deletion_id: uuid.UUID, policy: DeletePolicy, *, jitter: float
) -> Result:
    """Make a deletion's next call, if it is due and no other process asks about the customer.

    ``ottu`` is ``None`` where Ottu offers no API for cards (KSA): what somebody asked for by SQL is then given up at once.
    """
    if ottu is None:
        return _give_up(engine, deletion_id)
    counting = time.monotonic()
    try:
        job = _begin(engine, deletion_id, policy)
    except (CallsPaused, BudgetSpent, UnknownSecretKey, MalformedBody) as reason:
        return _put_off(engine, deletion_id, reason, jitter)
    if job is None:
        return Result("not_due")
    began = time.monotonic()
    of: traces.Attributes = {
        "deletion_id": str(deletion_id),
        "customer": job.ticket.customer,
        "call_no": job.ticket.number,
    }
    with traces.span("delete", of) as span:
        answer = _call(ottu, job) if began - counting < COMMIT_SECONDS else _counted_too_long_ago()
        result = _write_down(engine, job, answer, jitter)
        span.set({"outcome": result.outcome, "http.response.status_code": answer.status_code})
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
        job = transitions.begin(connection, deletion_id, ring=policy.ring, lease_seconds=policy.lease_seconds)
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
    """Make the call. Nothing that it ends with is raised: every end is written down, also one that was not foreseen."""
    ticket = job.ticket
    try:
        return _Answer(ottu.delete_card(ticket.environment, ticket.customer_id, job.token))
    except Exception as error:  # noqa: BLE001  (the call may have happened, so that a list has to decide)
        return _Answer(raised=error)


def _counted_too_long_ago() -> _Answer:
    """The call was not made: what was counted would leave the ledger before 24 hours were over since then."""
    return _Answer(raised=CallsPaused("the process stood still after the call was counted, and made none"))


def _write_down(engine: Engine, job: Job, answer: _Answer, jitter: float) -> Result:
    """Settle the call, also if writing its answer fails in a way that was not foreseen: then as one without an answer."""
    try:
        return _settle(engine, job, answer, jitter)
    except Superseded as late:
        return _note_late(engine, job, answer, late)
    except Exception as error:  # noqa: BLE001  (as above; its class is what the receipt and the customer's row say)
        try:
            return _settle(engine, job, _Answer(raised=error), jitter)
        except Superseded as late:
            return _note_late(engine, job, answer, late)
        except (
            SQLAlchemyError
        ) as away:  # with the database away nothing can be noted: the lease runs out, and a list decides
            raise error from away


def _settle(engine: Engine, job: Job, answer: _Answer, jitter: float) -> Result:
    """Write what was answered, and give the ticket back. Raises ``Superseded`` if the ticket stands no more."""
    with engine.begin() as connection:
        lock_if_ticket_stands(connection, job.ticket)()
        trouble, turn = _heard(connection, job, answer)
        event = "said_gone" if trouble is None else _event(connection, job, trouble)
        _record(connection, job, answer)
        transitions.move(
            connection,
            job.deletion_id,
            "calling",
            event,
            error=answer.error,
            wait_seconds=0.0 if trouble is None else _wait_seconds(job, answer, trouble, jitter),
            refund=trouble is not None and trouble.refund,
            said_status=answer.status_code,
        )
        transitions.hand_back(connection, job.ticket, answered=event in ("said_gone", "declined"))
    log_turn(turn)
    if answer.raised is not None and trouble is not None:
        log_unforeseen(answer.raised, trouble, deletion_id=str(job.deletion_id), customer=job.ticket.customer)
    if event == "gave_up":
        metrics.DELETIONS.labels("failed").inc()
    return Result(OUTCOMES[event], job.ticket.customer, answer.error)


def _heard(connection: Connection, job: Job, answer: _Answer) -> tuple[Trouble | None, Turn | None]:
    """Tell the gate how the call ended; return whose trouble that is, if any, and what it began or ended for all calls."""
    who = job.ticket.customer
    if answer.raised is not None:
        ended = failures.told(connection, answer.raised, call="delete", who=who)
        return ended.trouble, ended.turn
    assert answer.said is not None
    if answer.said.gone:
        return None, gate.heard(connection, "answered", who=who)
    trouble = TABLE["declined"]
    turn = gate.heard(connection, trouble.word, who=who)
    if answer.said.status_code == FORBIDDEN and failures.credentials_doubted(connection):
        # Not this card's refusal, as far as we can know: a list was refused within a minute, too, and none worked.
        trouble = TABLE["credentials"]
    return trouble, turn


def _event(connection: Connection, job: Job, trouble: Trouble) -> Event:
    """What the deletion meets; a try that Ottu certainly did not take, and that comes after the time for tries, is the last."""
    is_last = trouble.event == "not_done" and not trouble.refund and is_over(job.tried_since, db.moment(connection))
    return "gave_up" if is_last else trouble.event


def _wait_seconds(job: Job, answer: _Answer, trouble: Trouble, jitter: float) -> float:
    """How long until the next try, if there is to be one."""
    return after_failure(
        job.failures,
        jitter=jitter,
        retry_after_seconds=answer.raised.retry_after_seconds if isinstance(answer.raised, Transient) else None,
        longest_seconds=longest_wait_seconds(trouble, "deletion"),
    )


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
    """A newer ticket stands, and a list decides; the receipt still says what was answered."""
    with engine.begin() as connection:
        _record(connection, job, answer, late=True)
    return Result("superseded", error=str(late))


def _put_off(engine: Engine, deletion_id: uuid.UUID, reason: CardsyncError, jitter: float) -> Result:
    """Let it be due later. While the breaker is open a list has to find out whether calls may go on: one is asked for.

    A token that this process cannot read waits for settings that name its key, or for a process that has them.
    """
    asked_wait = reason.retry_after_seconds if isinstance(reason, Transient) else UNREADABLE_SECONDS
    if not isinstance(reason, Transient):
        log.error("token_unreadable", deletion_id=str(deletion_id), error=type(reason).__name__)
    wait = after_failure(1, jitter=jitter, retry_after_seconds=asked_wait)
    with engine.begin() as connection:
        probes = gate.waits_for_a_probe(connection)
        customer = transitions.ask_for_a_list(connection, deletion_id) if probes else None
        transitions.put_off(connection, deletion_id, error=named(reason), wait_seconds=wait)
    return Result("paused", customer, named(reason))


def _give_up(engine: Engine, deletion_id: uuid.UUID) -> Result:
    error = requests.NO_API
    with engine.begin() as connection:
        given_up = transitions.give_up(connection, deletion_id, error=error)
    return Result("gave_up", error=error) if given_up else Result("not_due")
