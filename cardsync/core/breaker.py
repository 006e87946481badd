"""The breaker before Ottu: when calls stop for everybody, whose call is let through to see, and what lets all go on.

Rules, each tested by name:

- It opens for ``down`` when the calls of several customers fail in a row and nothing succeeds between: one customer whose list
  is always odd stops nobody. It opens for ``credentials`` at the first refusal, unless lists work: then it is that customer's.
- While it is open one call at a time is let through, a probe, after waits that grow and are bounded. Only a list may be one: a
  DELETE that times out is expensive to settle, and a 403 to it may be the card's own.
- An answer to any call closes it at once. What else ends while it is open is a word of the past, unless it is the probe's.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import Final, Literal

from cardsync.errors import (
    CardsyncError,
    CredentialsRefused,
    InvalidAnswer,
    OttuFault,
    OttuRejected,
    OttuThrottled,
    OttuUnavailable,
)

Reason = Literal["down", "credentials"]
Word = Literal[
    "answered",  # a list to believe, or a deletion that was done: Ottu is there and takes our credentials
    "rejected",  # another 4xx: Ottu is there; of our credentials it says nothing
    "throttled",
    "refused",  # 401, or 403 to a list
    "failed",  # no answer, 5xx, or one that is not to be believed
]

# Two customers may have odd lists one after the other; three different ones without a success between are Ottu's trouble.
CUSTOMERS_IN_A_ROW: Final = 3
# What failed longer ago says nothing of now, and a merchant who calls so seldom needs no breaker.
FORGET_SECONDS: Final = 120.0
FIRST_PROBE_SECONDS: Final = 2.0
# With the waits of those who were sent away: everybody is back within a minute after Ottu is.
LONGEST_PROBE_SECONDS: Final = 20.0
# Who comes while a probe is under way hears of its end soon, though the probe may last as long as a call.
WHILE_PROBING_SECONDS: Final = 5.0
# More than any wait of ours: a moment further away than that was written before the clock was set back.
LONGEST_SHUT_SECONDS: Final = 3_600.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """What is known. ``shut_until`` is when the next probe may begin; ``probing`` is whose call is one (0: an operator's)."""

    reason: Reason | None = None
    opened_at: dt.datetime | None = None
    shut_until: dt.datetime | None = None
    probing: int | None = None
    failing: tuple[int, ...] = ()
    failed_at: dt.datetime | None = None


CLOSED: Final = Breaker()


def word_of(error: CardsyncError | None) -> Word | None:
    """What the end of a call says of Ottu; ``None`` if nothing was called."""
    if error is None:
        return "answered"
    if isinstance(error, OttuUnavailable | OttuFault | InvalidAnswer):
        return "failed"
    if isinstance(error, CredentialsRefused):
        return "refused"
    if isinstance(error, OttuThrottled):
        return "throttled"
    return "rejected" if isinstance(error, OttuRejected) else None


def seconds_shut(until: dt.datetime | None, now: dt.datetime) -> float:
    """How long it is until a moment; 0 if it is over, or so far away that the clock must have been set back."""
    seconds = 0.0 if until is None else (until - now).total_seconds()
    return seconds if 0 < seconds <= LONGEST_SHUT_SECONDS else 0.0


def seconds_to_wait(breaker: Breaker, who: int, now: dt.datetime, *, may_probe: bool) -> float:
    """How long until this call may be tried again; 0 if it may be made now, as a probe where the breaker is open."""
    if breaker.reason is None or (may_probe and breaker.probing == who):
        return 0.0
    seconds = seconds_shut(breaker.shut_until, now)
    if breaker.probing is not None:
        seconds = min(seconds, WHILE_PROBING_SECONDS)
    return seconds if may_probe else max(seconds, FIRST_PROBE_SECONDS)


def let_through(breaker: Breaker, who: int, now: dt.datetime, *, call_seconds: float) -> Breaker:
    """The breaker after a call that was allowed; where it is open that call is the probe, for ``call_seconds``."""
    if breaker.reason is None:
        return breaker
    return replace(breaker, probing=who, shut_until=now + dt.timedelta(seconds=call_seconds))


def heard(breaker: Breaker, word: Word, who: int, now: dt.datetime, *, lists_work: bool) -> Breaker:
    """The breaker after a call has ended."""
    if word == "answered":
        return CLOSED
    if breaker.reason is not None:
        return _heard_of_a_probe(breaker, breaker.reason, word, now) if breaker.probing == who else breaker
    if word == "failed":
        return _one_more_failure(breaker, who, now)
    return _opened("credentials", now) if word == "refused" and not lists_work else CLOSED


def _heard_of_a_probe(breaker: Breaker, reason: Reason, word: Word, now: dt.datetime) -> Breaker:
    if word in ("rejected", "throttled") and reason == "down":
        return CLOSED
    if word == "refused" and reason == "down":
        return _opened("credentials", now)
    open_seconds = 0.0 if breaker.opened_at is None else (now - breaker.opened_at).total_seconds()
    wait = min(LONGEST_PROBE_SECONDS, max(FIRST_PROBE_SECONDS, open_seconds / 2))
    return replace(
        breaker,
        reason="down" if word == "failed" else reason,
        probing=None,
        shut_until=now + dt.timedelta(seconds=wait),
    )


def _one_more_failure(breaker: Breaker, who: int, now: dt.datetime) -> Breaker:
    age_seconds = FORGET_SECONDS if breaker.failed_at is None else abs((now - breaker.failed_at).total_seconds())
    before = breaker.failing if age_seconds < FORGET_SECONDS else ()
    failing = before if who in before else (*before, who)
    if len(failing) >= CUSTOMERS_IN_A_ROW:
        return _opened("down", now)
    return Breaker(failing=failing, failed_at=now)


def _opened(reason: Reason, now: dt.datetime) -> Breaker:
    return Breaker(reason, opened_at=now, shut_until=now + dt.timedelta(seconds=FIRST_PROBE_SECONDS))
