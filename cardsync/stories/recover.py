"""``recover``: ask Ottu about payments whose notifications never came, one after the other, as fast as Ottu allows.

Each answer is taken as a hint and processed here. A payment for which Ottu demands a longer wait stays in ``inquiries``, and a
worker asks later: an interrupted run loses nothing, and a session that is given twice is asked about once.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import Engine

from cardsync.store import inquiries
from cardsync.stories.inquire import Inquiries, InquiryPolicy, inquire
from cardsync.stories.process import HintPolicy, process

Outcome = Literal["answered", "no_card", "unknown", "waiting", "failed"]

WISHES_AT_ONCE: Final = 500  # rows in one transaction
POLL_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of one payment. ``answered`` names a card; ``no_card`` does not; ``waiting`` is left to the workers."""

    session_id: str
    outcome: Outcome
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RecoverPolicy:
    """``max_wait_seconds`` is how long one payment is waited for; what may be asked about later than that is left waiting."""

    inquiries: InquiryPolicy
    hints: HintPolicy
    max_wait_seconds: float


def recover(
    engine: Engine,
    ottu: Inquiries,
    session_ids: Sequence[str],
    policy: RecoverPolicy,
    *,
    stopping: threading.Event,
) -> Iterator[Recovered]:
    """Ask about each of the payments, once each, in the order given; yield what became of each."""
    wanted = list(dict.fromkeys(session_ids))
    for first in range(0, len(wanted), WISHES_AT_ONCE):
        with engine.begin() as connection:
            for session_id in wanted[first : first + WISHES_AT_ONCE]:
                inquiries.wish(connection, session_id)
    for session_id in wanted:
        if stopping.is_set():
            yield Recovered(session_id, "waiting", "interrupted")
        else:
            yield _one(engine, ottu, session_id, policy, stopping)


def _one(
    engine: Engine, ottu: Inquiries, session_id: str, policy: RecoverPolicy, stopping: threading.Event
) -> Recovered:
    deadline = time.monotonic() + policy.max_wait_seconds
    while True:
        result = inquire(engine, ottu, session_id, policy.inquiries, jitter=random.random())  # noqa: S311
        match result.outcome:
            case "answered":
                due = [] if result.event_id is None else [result.event_id]
                process(engine, due, policy.hints, jitter=random.random())  # noqa: S311
                return Recovered(session_id, "answered" if result.names_card else "no_card")
            case "unknown":
                return Recovered(session_id, "unknown")
            case "failed":
                return Recovered(session_id, "failed", result.error)
        wait = result.retry_after_seconds or POLL_SECONDS
        if result.outcome in ("not_due", "superseded"):
            # A worker is at it, or has been.
            with engine.connect() as connection:
                stands = inquiries.waiting(connection, session_id)
            if stands is None or stands.status != "waiting":
                return Recovered(session_id, "unknown" if stands and stands.status == "unknown" else "answered")
            wait = max(POLL_SECONDS, stands.seconds or 0.0)
        if time.monotonic() + wait > deadline or stopping.wait(wait):
            return Recovered(session_id, "waiting", result.error)


def counted(found: Sequence[Recovered]) -> dict[str, int]:
    """How many payments came to each end."""
    counts = Counter(one.outcome for one in found)
    outcomes: tuple[Outcome, ...] = ("answered", "no_card", "unknown", "waiting", "failed")
    return {outcome: counts[outcome] for outcome in outcomes}
