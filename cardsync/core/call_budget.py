"""The budget of calls to Ottu, shared by urgency: how many calls each lane may use, and how many routine looks are due.

Rules, each tested by name:

- There are never more calls in any 24 hours than the allowance. A call that may or may not have been made counts as made.
- Urgent lanes take the calls that they need, at once. Routine lanes (sweeps, audits) stop before a share that is reserved for the
  urgent lanes, and urgent lanes may use up the routine share. So routine looks never starve an urgent lane.
- The last calls are for deletions alone.
- Repeats (``core.repeats``) are routine and have a tenth of the allowance, so a flood of one signature cannot take more.
- Reads and reconciliations that an API key asks for have a third of the allowance: hints have calls whatever keys do.
- Routine looks are spread evenly over the day. Looks that were missed are not made up for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

Lane = Literal["deletion", "hint", "read", "retry", "sweep", "audit", "repeat"]  # by urgency
LANES: Final[tuple[Lane, ...]] = get_args(Lane)  # the most urgent first

ROUTINE: Final[frozenset[Lane]] = frozenset({"sweep", "audit", "repeat"})
SECONDS_A_DAY: Final = 86_400

# Why the window is a little longer than a day. Calls are counted by the minute, before they are made. Let a call be counted at c,
# under the minute m <= c < m + 60, and made at c + d. Take all calls made within the 24 hours that end with the call counted now.
# Each of them was counted at most 24 hours and the longest d ago, so its minute is at most 60 s older than that. A window of this
# length therefore never counts too few calls; it counts at most a quarter of a percent of the allowance too many.
#
# The longest d: OTTU_TIMEOUT_S is at most 120 s, and bounds a call up to its last byte. The count is committed before the call: a
# process that needs longer than COMMIT_SECONDS for that has to count again (``ottu.client``, ``stories.delete``). A process that
# SIGSTOP freezes between the look at its clock and the sending cannot be bounded here.
COUNTED_BY_SECONDS: Final = 60
LONGEST_CALL_SECONDS: Final = 120
COMMIT_SECONDS: Final = 10
WINDOW_SECONDS: Final = SECONDS_A_DAY + LONGEST_CALL_SECONDS + COMMIT_SECONDS + COUNTED_BY_SECONDS

# A deletion takes two calls, its own and the list that proves it. So the reserve holds at least one deletion; it is a hundredth
# of a large allowance, and never more than a fifth of a tiny one.
RESERVE_SHARE: Final = 100
LEAST_RESERVE: Final = 2
TINY_SHARE: Final = 5
# The share that no routine look takes: a tenth, rounded up, and at least one call more than the reserve, so that a hint has a
# call too. With an allowance of one call a day, that call is for urgent lanes.
URGENT_SHARE: Final = 10

REPEATS_SHARE: Final = 10  # rounded up

# What API keys cause stands in lane ``read``: a third, rounded up. Keys have quotas of their own, and this is the bound on all of
# them together. A third is twenty reads a minute for 90,000 calls a day, more than a checkout of that size needs, since only a
# read that wants a newer list than the known one costs a call; and two thirds are left for hints, deletions and routine looks.
READS_SHARE: Final = 3

# One key may cause a tenth of the allowance, unless it was made with another number: the share of all keys is not spent by one
# alone, and a shop of 9,000 uncached checkouts a day needs no number of its own.
KEY_SHARE: Final = 10

# A late tick is made up for, but at most for a minute: no storm of looks after a night without a beat.
LONGEST_TICK_SECONDS: Final = 60.0


def allowed(lane: Lane, daily_calls: int) -> int:
    """Return the number of calls, by all lanes in 24 hours, up to which this lane may still call."""
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
    """How many calls repeats may still make now, by their own share of the allowance."""
    return max(0, -(-daily_calls // REPEATS_SHARE) - spent_by_repeats)


def reads_left(daily_calls: int, spent_by_reads: int) -> int:
    """How many calls reads may still make now, by their own share of the allowance."""
    return max(0, -(-daily_calls // READS_SHARE) - spent_by_reads)


def calls_of_a_key(daily_calls: int) -> int:
    """How many calls a day one API key may cause that was made without a number of its own."""
    return -(-daily_calls // KEY_SHARE)


def sweeps_a_day(daily_calls: int, others: int) -> float:
    """How many sweeps a day are made due while the other lanes make ``others`` calls in 24 hours."""
    return left("sweep", daily_calls, others) * SECONDS_A_DAY / WINDOW_SECONDS


def sweeps_due(daily_calls: int, spent_by_lane: Mapping[Lane, int], elapsed_seconds: float) -> float:
    """How many sweeps are due ``elapsed_seconds`` after the last tick: the calls that the other lanes leave, evenly over the day.

    Never more than may be called now: a customer made due beyond that would only wait.
    """
    spent = sum(spent_by_lane.values())
    others = spent - spent_by_lane.get("sweep", 0)
    even = sweeps_a_day(daily_calls, others) / SECONDS_A_DAY
    elapsed = min(LONGEST_TICK_SECONDS, max(0.0, elapsed_seconds))
    return min(even * elapsed, float(left("sweep", daily_calls, spent)))
