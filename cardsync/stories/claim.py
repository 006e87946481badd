"""``claim``: take the most urgent work that is due, at most as much as there are free threads for it.

PostgreSQL is the queue (``store.claims``). A claim is one transaction: it folds the oldest fresh hints (if wanted), takes
the tickets of the most urgent customers that are due, lets their calls through the gate and counts them. What is claimed needs no
further question before its call (``reconcile.look``). A claim that is lost with its process costs the tickets' time, as any call
that was never answered.

**While calls may not be made** the rows stay due. A few of them are put off with the reason, so that those who wait for these
customers see it, and the caller is told when to ask again: thousands may wait for Ottu to come back or for the budget to refill.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine

from cardsync import db, metrics, traces
from cardsync.core.backoff import after_failure
from cardsync.core.call_budget import Lane
from cardsync.db import Pipeline, pipelined
from cardsync.episodes import Episode
from cardsync.errors import BudgetSpent, CallsPaused
from cardsync.store import claims
from cardsync.store.calls import budget, gate
from cardsync.store.calls.permits import Permits
from cardsync.store.claims import ClaimedHint
from cardsync.store.deletions import transitions
from cardsync.store.folding import Heard
from cardsync.store.inbox import SETTLE_AT_ONCE
from cardsync.stories.process import QUIET_SECONDS, UNREADABLE, HintPolicy, note, note_settled, process
from cardsync.stories.reconcile import CountedTicket, ReconcilePolicy

_not_together = Episode("hints_not_claimed_together")

# While calls may not be made, asking again costs a short transaction a second; the gate itself decides who may probe, and when.
ASK_AGAIN_SECONDS: Final = 1.0
REPEATS_AT_ONCE: Final = 50  # one transaction of a worker
REPEATS_REST_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Claimed:
    """Tickets whose call is counted; ``wait_seconds``: there is more, and asking for it sooner is in vain."""

    tickets: tuple[CountedTicket, ...] = ()
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ClaimedDeletions:
    """Deletions to call for; ``wait_seconds`` as above."""

    deletion_ids: tuple[uuid.UUID, ...] = ()
    wait_seconds: float = 0.0


def claim_looks(
    engine: Engine,
    lists: ReconcilePolicy,
    lanes: Sequence[Lane],
    *,
    limit: int,
    jitter: float,
    hints: HintPolicy | None = None,
) -> Claimed:
    """Take the tickets of at most ``limit`` customers that are due in these lanes, the most urgent lane first.

    With ``hints`` the oldest fresh hints are folded first. Those of their customers that find no place are due, in their lane. If
    the hints cannot be folded together, they are settled one by one (``process``), so that one holds up no other.
    """
    try:
        claimed = _claim(engine, lists, lanes, limit, jitter, hints)
    except UNREADABLE as error:
        if hints is None:
            raise
        _not_together.goes_on(error=type(error).__name__, why=db.why(error))
    else:
        if hints is not None:
            _not_together.is_over_unless_met(QUIET_SECONDS)
            note_settled()
        return claimed
    claim_events(engine, hints, repeated=False, limit=SETTLE_AT_ONCE, jitter=jitter)
    return Claimed()


def _claim(
    engine: Engine, lists: ReconcilePolicy, lanes: Sequence[Lane], limit: int, jitter: float, hints: HintPolicy | None
) -> Claimed:
    counting = time.monotonic()
    claimed: Sequence[ClaimedHint] = ()
    with pipelined(engine) as pipeline:
        permits = Permits(pipeline, daily_calls=lists.daily_calls, call_seconds=lists.lease_seconds)
        due = claims.looks(pipeline, lanes, limit=limit)
        fresh = None if hints is None else claims.hints(pipeline, hints.ring)
        wanted: list[int] = []
        refused: list[tuple[int, CallsPaused | BudgetSpent]] = []
        for one in due():
            refusal = permits.ask(one.lane, who=one.customer)
            if refusal is None:
                wanted.append(one.customer)
            else:
                refused.append((one.customer, refusal))
        hinted: list[int] = []
        if hints is not None and fresh is not None:
            claimed = fresh()
            # While the gate is not wholly open it decides call by call, and the next claim asks it: these customers are due.
            most = min(limit - len(wanted), permits.left("hint")) if permits.is_free else 0
            hinted = [customer for customer in _fold(pipeline, claimed, hints) if customer not in wanted][:most]
        taken = claims.take(pipeline, wanted, hinted=hinted, lease_seconds=lists.lease_seconds)
        permits.save()
        for customer, refusal in refused:
            wait = after_failure(1, jitter=jitter, retry_after_seconds=refusal.retry_after_seconds)
            claims.put_off(pipeline, [customer], refusal, wait_seconds=wait)
    metrics.EVENTS.labels("done").inc(len(claimed))
    heard = [(one.customer, one.hint.trace) for one in claimed if one.hint.trace is not None]
    tickets = tuple(
        CountedTicket(ticket, counting, tuple(trace for customer, trace in heard if customer == ticket.customer))
        for ticket in taken()
    )
    return Claimed(tickets, ASK_AGAIN_SECONDS if refused else 0.0)


def _fold(pipeline: Pipeline, claimed: Sequence[ClaimedHint], hints: HintPolicy) -> list[int]:
    """Note what the hints say, and settle them; return the customers to ask about, unless their hints are answered already."""
    if not claimed:
        return []
    heard = [
        Heard(one.hint, one.customer, one.hint.token.fingerprint(hints.fingerprint_key, one.hint.environment))
        for one in claimed
    ]
    with traces.span("process", {"hints": len(claimed)}, kind="consumer", links=(one.hint.trace for one in claimed)):
        claims.note_hinted(pipeline, list({one.customer for one in claimed}))
        note(pipeline, heard, hints.ring)
    return list(dict.fromkeys(one.customer for one in heard if one.lane == "hint"))


def claim_events(engine: Engine, hints: HintPolicy, *, repeated: bool, limit: int, jitter: float) -> int:
    """Settle pending events by ``process`` alone, and return how many: repeats, and all hints where there is no list (KSA)."""
    with engine.begin() as connection:
        event_ids = claims.pick_events(connection, repeated=repeated, limit=limit)
    if event_ids:
        process(engine, event_ids, hints, jitter=jitter)
    return len(event_ids)


def claim_deletions(engine: Engine, lists: ReconcilePolicy, *, limit: int) -> ClaimedDeletions:
    """Pick deletions whose call is due, the longest due first; ``delete`` makes the call, if it still is, or puts it off."""
    with engine.begin() as connection:
        may_call = gate.seconds_to_wait(connection, "deletion") <= 0 and budget.calls_left(
            connection, daily_calls=lists.daily_calls
        )
        picked = transitions.claim(connection, limit=limit if may_call else min(limit, gate.FEW))
    return ClaimedDeletions(tuple(picked), 0.0 if may_call else ASK_AGAIN_SECONDS)
