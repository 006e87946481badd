"""Ottu's allowance of calls, shared out by urgency: how far each lane may go, and how many routine looks are due.

Rules, each tested by name:

- Never more calls in any 24 hours than the allowance: whatever is not certain is counted against us.
- Urgent lanes take what they need, as fast as it comes. Routine ones (sweeps, audits) stop before a share that is the urgent
  lanes' alone, and urgent ones may use up the routine ones' share: so routine looks never starve anybody.
- Deletions alone may use the last of it.
- Repeats (``core.repeats``) are routine, and have a tenth: whoever sends one signature again and again takes no more.
- Routine looks are spread evenly over the day, and what was missed is not made up for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

Lane = Literal["deletion", "hint", "read", "retry", "sweep", "audit", "repeat"]  # by urgency
LANES: Final[tuple[Lane, ...]] = get_args(Lane)  # the most urgent first

ROUTINE: Final[frozenset[Lane]] = frozenset({"sweep", "audit", "repeat"})
SECONDS_A_DAY: Final = 86_400

# Calls are counted by the minute, before they are made. Let one be counted at c, under the minute m <= c < m + 60, and made at
# c + d. Of all calls made within the 24 hours that end with the one that is counted now, none was counted longer ago than
# 24 hours and the longest d, and none stands under a minute that is 60 s older than that. Counting all from there on is never
# too little; what it counts too much is a quarter of a percent of the allowance.
#
# The longest d: OTTU_TIMEOUT_S is 120 s at the most, and bounds a call up to its last byte. Committing what was counted comes
# before it: whoever needs longer than COMMIT_SECONDS for that has to count again (``ottu.client``, ``delete``). A process that
# is stopped by SIGSTOP between the look at its clock and the sending is beyond anybody's reach.
COUNTED_BY_SECONDS: Final = 60
LONGEST_CALL_SECONDS: Final = 120
COMMIT_SECONDS: Final = 10
WINDOW_SECONDS: Final = SECONDS_A_DAY + LONGEST_CALL_SECONDS + COMMIT_SECONDS + COUNTED_BY_SECONDS

# A deletion is two calls, its own and its proof's: the reserve holds one deletion at the least, a hundredth of a large
# allowance, and never more than a fifth of a tiny one.
RESERVE_SHARE: Final = 100
LEAST_RESERVE: Final = 2
TINY_SHARE: Final = 5
# A tenth that no routine look takes, rounded up, and one call more than the reserve at the least, so that a hint has one too:
# whoever may call once a day keeps that for what is urgent.
URGENT_SHARE: Final = 10

REPEATS_SHARE: Final = 10  # rounded up

# A tick that comes late is made up for, but for a minute at the most: no storm after a night.
LONGEST_TICK_SECONDS: Final = 60.0


def allowed(lane: Lane, daily_calls: int) -> int:
    """Up to how many calls of the last 24 hours this lane may go on."""
    if lane == "deletion":
        return daily_calls
    reserve = min(daily_calls // TINY_SHARE, max(LEAST_RESERVE, daily_calls // RESERVE_SHARE))
    if lane not in ROUTINE:
        return daily_calls - reserve
    return daily_calls - max(reserve + 1, -(-daily_calls // URGENT_SHARE))


def left(lane: Lane, daily_calls: int, spent: int) -> int:
    """How many calls this lane may still make now."""
    return max(0, allowed(lane, daily_calls) - spent)


def repeats_left(daily_calls: int, spent_by_repeats: int) -> int:
    """How many calls repeats may still make now, of what all lanes may."""
    return max(0, -(-daily_calls // REPEATS_SHARE) - spent_by_repeats)


def sweeps_a_day(daily_calls: int, others: int) -> float:
    """How many sweeps a day are made due while the other lanes make ``others`` calls in 24 hours."""
    return left("sweep", daily_calls, others) * SECONDS_A_DAY / WINDOW_SECONDS


def sweeps_due(daily_calls: int, spent_by_lane: Mapping[Lane, int], elapsed_seconds: float) -> float:
    """How many sweeps are due ``elapsed_seconds`` after the last tick: what the other lanes left over, evenly over the day.

    Never more than may be called now: what is made due beyond that would only wait.
    """
    spent = sum(spent_by_lane.values())
    others = spent - spent_by_lane.get("sweep", 0)
    even = sweeps_a_day(daily_calls, others) / SECONDS_A_DAY
    elapsed = min(LONGEST_TICK_SECONDS, max(0.0, elapsed_seconds))
    return min(even * elapsed, float(left("sweep", daily_calls, spent)))
