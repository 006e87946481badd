"""The throttle: how fast all processes together may call after a 429, until the limit has grown back to nothing.

Rules, each tested by name:

- A 429 halves the rate of calls. More 429s that arrive before ``Retry-After`` is over answer calls that were already under way:
  they count as the same 429.
- The rate doubles every half minute, until it is no limit any more.
- While the rate is limited, routine lanes wait and the urgent lanes share it. A deletion may take the next call's turn in
  advance. So a deletion goes first, and the rate stays the same.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import Final

from cardsync.core.call_budget import ROUTINE, Lane
from cardsync.core.circuit_breaker import LONGEST_SHUT_SECONDS

# Ottu's 90,000 a day is one a second. Half of that is slow enough for any limit that Ottu may have, and a payer's card still
# shows within seconds.
SLOWEST_PER_SECOND: Final = 0.5
# No deployment calls faster than this, so a higher rate is no limit. It takes two and a half minutes to grow from the slowest.
FREE_PER_SECOND: Final = 20.0
DOUBLES_EVERY_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Pace:
    """A limited rate: ``per_second`` at ``since``, growing from then on. ``next_at`` is the time of the next call's turn."""

    per_second: float
    since: dt.datetime
    next_at: dt.datetime


def now_per_second(pace: Pace | None, now: dt.datetime) -> float | None:
    """The rate that holds now; ``None`` once nothing is limited."""
    if pace is None:
        return None
    seconds = (now - pace.since).total_seconds()
    if seconds < -LONGEST_SHUT_SECONDS:  # written before the clock was set back
        return None
    doublings = max(0.0, seconds) / DOUBLES_EVERY_SECONDS
    if doublings > 64:  # past any bound; a larger power would overflow
        return None
    rate = pace.per_second * 2.0**doublings
    return None if rate >= FREE_PER_SECOND else rate


def throttled(pace: Pace | None, now: dt.datetime, *, made_per_second: float, until: dt.datetime, again: bool) -> Pace:
    """The pace after a 429: half of the calls made so far, from ``until`` on, when the time that Ottu asked for is over.

    ``again`` says that an earlier 429's time is not over yet: then only the end of that time changes.
    """
    if again and pace is not None:
        return replace(pace, since=until, next_at=until)
    limit = now_per_second(pace, now)
    before = made_per_second if limit is None else min(made_per_second, limit)
    rate = min(FREE_PER_SECOND / 2, max(SLOWEST_PER_SECOND, before / 2))
    return Pace(rate, since=until, next_at=until)


def seconds_to_wait(pace: Pace | None, lane: Lane, now: dt.datetime) -> float:
    """How long until this lane may try again; 0 if it may call now."""
    rate = now_per_second(pace, now)
    if pace is None or rate is None:
        return 0.0
    if lane in ROUTINE:
        return _seconds_until_free(pace, now)
    ahead = 1.0 / rate if lane == "deletion" else 0.0
    # A turn is never further away than two calls: where it is, the clock was set back.
    return min(2.0 / rate, max(0.0, (pace.next_at - now).total_seconds() - ahead))


def taken(pace: Pace | None, now: dt.datetime) -> Pace | None:
    """The pace after a call that was allowed; ``None`` once nothing is limited."""
    rate = now_per_second(pace, now)
    if pace is None or rate is None:
        return None
    interval = dt.timedelta(seconds=1.0 / rate)
    latest = now + interval  # the furthest that the next turn may be ahead
    return replace(pace, next_at=min(max(pace.next_at, now), latest) + interval)


def _seconds_until_free(pace: Pace, now: dt.datetime) -> float:
    rate, seconds = pace.per_second, (pace.since - now).total_seconds()
    while rate < FREE_PER_SECOND:
        rate, seconds = rate * 2.0, seconds + DOUBLES_EVERY_SECONDS
    return max(1.0, seconds)
