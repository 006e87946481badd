"""How long to wait after a failure, and when to look again for what should show soon. Clock and jitter are arguments."""

from __future__ import annotations

from typing import Final

FIRST_SECONDS: Final = 2.0
LONGEST_SECONDS: Final = 900.0  # for what a person waits for: a deletion, a hint that could not be settled
# A customer whose lists alone go on failing costs four to eight calls a day, so that a thousand of them are not the whole budget:
# backed off, never forgotten. A new hint shortens the wait (``store.customers``), and an Ottu that is down is the breaker's.
LONGEST_OF_A_CUSTOMER_SECONDS: Final = 21_600.0
# A wait that the other side asked for grows by up to this share: what was sent away together does not come back together.
SPREAD_SHARE: Final = 0.1
# Until a hint is tried again that this process has no key for: another worker, or this one after its restart, has it soon.
# Those that stay unreadable must leave the others their turn, however many they are.
LONGEST_UNREADABLE_SECONDS: Final = 60.0
LARGEST_EXPONENT: Final = 14  # 2 s x 2**14 is past every longest wait; keeps the power small whatever is counted

# When to ask again for a card that a hint named and no list has shown yet, in seconds after the hint. Ottu does not document
# how soon a new card shows; doubling finds a short lag soon and costs six calls for a hint that was never true.
LOOKS_AFTER_HINT_SECONDS: Final = (3.0, 8.0, 20.0, 45.0, 80.0, 120.0)
SOONEST_LOOK_SECONDS: Final = 0.5


def after_failure(
    failures: int,
    *,
    jitter: float,
    retry_after_seconds: float | None = None,
    longest_seconds: float = LONGEST_SECONDS,
) -> float:
    """Return the seconds to wait after the ``failures``-th failure in a row (1, 2, ...).

    ``jitter`` in [0, 1) spreads the wait over its upper half, so that what failed together does not return together.
    A wait that the other side asked for is kept at the least, and spread over a tenth more.
    """
    assert 0 <= jitter < 1
    wait = doubled(failures, first_seconds=FIRST_SECONDS, longest_seconds=longest_seconds)
    return max(spread(retry_after_seconds or 0.0, jitter=jitter), wait * (0.5 + jitter / 2))


def doubled(failures: int, *, first_seconds: float, longest_seconds: float) -> float:
    """Return the wait after the ``failures``-th failure (1, 2, ...), without jitter: the first, doubled up to the longest."""
    assert failures >= 1
    return min(longest_seconds, first_seconds * 2.0 ** min(failures - 1, LARGEST_EXPONENT))


def while_unreadable(age_seconds: float, *, jitter: float) -> float:
    """Return the seconds until a hint of that age, which could not be read, is tried again: as long as it has waited, bounded."""
    return min(LONGEST_UNREADABLE_SECONDS, max(FIRST_SECONDS, age_seconds)) * (0.5 + jitter / 2)


def spread(asked_seconds: float, *, jitter: float) -> float:
    """Return a wait that the other side asked for, grown by up to a tenth."""
    return asked_seconds * (1 + jitter * SPREAD_SHARE)


def next_look(hint_age_seconds: float, confirm_seconds: float) -> float:
    """Return the seconds until a hinted card that is not listed yet is asked for again.

    ``confirm_seconds`` is when waiting ends; the last look falls on it, never before. The schedule shrinks with it.
    """
    scale = confirm_seconds / LOOKS_AFTER_HINT_SECONDS[-1]
    for look in LOOKS_AFTER_HINT_SECONDS:
        wait = look * scale - hint_age_seconds
        if wait > 0:
            return max(SOONEST_LOOK_SECONDS, wait)
    return SOONEST_LOOK_SECONDS
