"""Deliveries to endpoints of the merchant's: what an answer means, how long to wait, when to give up. Pure; times are arguments.

A *delivery* is one notification for one endpoint. It is ``pending`` until the endpoint answers with 2xx (``done``) or three days
are over (``failed``). Deliveries are independent of each other: an endpoint that answers 500 to one body gets all the others.

What is sent to an endpoint of kind ``changes`` is a *batch* of the feed. Batches are in order, so that one that fails is sent
again until it succeeds. After five days of failing the endpoint is disabled, and its cursor stays.

**A circuit breaker for each endpoint.** If five different deliveries in a row fail, the trouble is the endpoint's own. Then one
delivery at a time is tried (the probe), after waits of five seconds to a minute, and all the others wait without using up their
attempts. Meanwhile no delivery's own wait is longer than a minute, so that there always is one to try. Any success closes the
breaker, and they go out at once: what waits is *woken*. Rejected: a back-off for each delivery alone. After an hour's outage what
arrived at its beginning would wait for most of another, and meanwhile each notification would hold one of the eight places for as
long as a call may last.

**Fewer than five open no breaker.** So the first success after a minute without one wakes what waits, too. It wakes no delivery
from before the success before that: such a delivery was woken then, and what it failed at is its own body.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import Final, Literal

from cardsync.core import backoff

Kind = Literal["notifications", "changes"]
KINDS: Final[tuple[Kind, ...]] = ("notifications", "changes")
DisabledBecause = Literal["operator", "gone", "failing", "restored"]
Verdict = Literal["delivered", "gone", "failed"]

FIRST_SECONDS: Final = 5.0
LONGEST_SECONDS: Final = 21_600.0  # 6 hours, of a notification
LONGEST_OF_A_BATCH_SECONDS: Final = 3_600.0  # an hour: everything behind it waits too
LONGEST_ASKED_SECONDS: Final = 86_400.0  # ``Retry-After`` is honoured up to a day
GIVE_UP_SECONDS: Final = 3 * 86_400.0  # a notification
LAST_TRY_SECONDS: Final = 60.0  # before these are over, the last try is due: time for its claim and its call
DISABLE_SECONDS: Final = 5 * 86_400.0  # an endpoint of kind ``changes`` that fails for so long

UNDER_WAY: Final = 8  # deliveries to one endpoint at once, of all workers together
BATCH: Final = 100  # changes in one message
CALL_SECONDS: Final = 10.0  # for one call in all: connecting, sending, waiting, reading

FAILED_IN_A_ROW: Final = 5
FIRST_PROBE_SECONDS: Final = 5.0
LONGEST_PROBE_SECONDS: Final = 60.0

OUTAGE_SECONDS: Final = 60.0  # of failing without any success: shorter ones cost no longer wait than this

GONE: Final = 410


def verdict(status: int | None) -> Verdict:
    """What an answer's status means; ``None`` stands for no answer. A redirect is a failure: it is not followed."""
    if status is not None and 200 <= status < 300:
        return "delivered"
    return "gone" if status == GONE else "failed"


def wait_seconds(
    failures: int, *, jitter: float, retry_after_seconds: float | None, longest_seconds: float = LONGEST_SECONDS
) -> float:
    """The seconds to wait after the ``failures``-th failure (1, 2, ...): 5 s, doubled each time, up to the longest.

    ``jitter`` in [0, 1) spreads the wait over a fourth more. A wait that the other side asked for is kept, up to a day.
    """
    wait = backoff.doubled(failures, first_seconds=FIRST_SECONDS, longest_seconds=longest_seconds)
    asked = backoff.spread(min(retry_after_seconds or 0.0, LONGEST_ASKED_SECONDS), jitter=jitter)
    return max(asked, min(longest_seconds, wait * (1 + jitter / 4)))


def wait_within_days(age_seconds: float, wait: float) -> float | None:
    """The seconds until a notification of this age is tried again, ``None`` if this was its last try.

    A wait that ends beyond its three days is shortened, also one that was asked for: the last try is shortly before their end.
    """
    left = GIVE_UP_SECONDS - LAST_TRY_SECONDS - age_seconds
    return None if left <= 0 else min(wait, max(FIRST_SECONDS, left))


@dataclass(frozen=True, slots=True)
class Breaker:
    """What is known of an endpoint: the deliveries that failed in a row, since when it is open, when the next probe may begin."""

    failing: tuple[str, ...] = ()
    opened_at: dt.datetime | None = None
    shut_until: dt.datetime | None = None


CLOSED: Final = Breaker()


Woken = Literal["all", "recent"]


def woken(before: Breaker, after: Breaker, failing_seconds: float) -> Woken | None:
    """Which deliveries a success wakes: all where it closed the breaker, else those from since the success before, or none.

    ``before`` and ``failing_seconds`` say how the endpoint was when the success was heard, ``after`` how it is now.
    """
    if before.opened_at is not None and after.opened_at is None:
        return "all"
    return "recent" if failing_seconds > OUTAGE_SECONDS else None


def heard(breaker: Breaker, delivery: str, now: dt.datetime, *, delivered: bool) -> Breaker:
    """Return the breaker after a delivery ended. While it is open any success closes it, and any failure means: wait on."""
    if delivered:
        return CLOSED
    if breaker.opened_at is not None:
        open_seconds = (now - breaker.opened_at).total_seconds()
        wait = min(LONGEST_PROBE_SECONDS, max(FIRST_PROBE_SECONDS, open_seconds / 2))
        return replace(breaker, shut_until=now + dt.timedelta(seconds=wait))
    failing = breaker.failing if delivery in breaker.failing else (*breaker.failing, delivery)
    if len(failing) < FAILED_IN_A_ROW:
        return Breaker(failing)
    return Breaker(failing[-FAILED_IN_A_ROW:], now, now + dt.timedelta(seconds=FIRST_PROBE_SECONDS))
