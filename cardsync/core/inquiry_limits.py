"""When Ottu may be asked about one payment (the inquiry endpoint), and how much of that hints may cause.

Ottu's throttling, as documented: nothing within 10 minutes of a payment's creation, then once in 30 minutes and three times a
day for each payment, 30 times a minute over all. We keep to it from our side, since a 429 answers nothing and costs a call.

What hints may cause is bounded too. Under the standard scheme a session's id is not signed: one genuine body can
name any payment. So a signature causes inquiries about few payments, and all hints together take half of the day's calls at
most: the rest is for operators (``cardsync recover``).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Final

AFTER_CREATION: Final = dt.timedelta(minutes=10)
APART: Final = dt.timedelta(minutes=30)
DAY: Final = dt.timedelta(days=1)
A_DAY: Final = 3
A_MINUTE: Final = 30
MINUTE_SECONDS: Final = 60.0
# Ottu's minute is not ours: the last of thirty calls may be counted there a moment later than here.
MARGIN: Final = dt.timedelta(seconds=2)

PAYMENTS_A_SIGNATURE: Final = (
    3  # an honest signature is of one payment; Ottu may send events of a retried one with equal fields
)
HINTS_SHARE: Final = 2  # half of the day's calls, rounded up

# Between two attempts while Ottu does not answer: such a payment costs four calls a day at the most.
LONGEST_WAIT_SECONDS: Final = 6 * 3_600.0


def may_be_asked_at(asked_at: Sequence[dt.datetime], heard_at: dt.datetime | None) -> dt.datetime | None:
    """The earliest moment at which a payment may be asked about; ``None`` if there is no bound.

    ``asked_at`` are the last three inquiries, oldest first; ``heard_at`` is when a hint first named the payment, which was made
    before that. Without it nothing is known of its creation.
    """
    bounds = [] if heard_at is None else [heard_at + AFTER_CREATION + MARGIN]
    if asked_at:
        bounds.append(asked_at[-1] + APART + MARGIN)
    if len(asked_at) >= A_DAY:
        bounds.append(asked_at[-A_DAY] + DAY + MARGIN)
    return max(bounds, default=None)


def hints_left(daily_calls: int, spent: int) -> int:
    """How many inquiries hints may still cause, ``spent`` being all calls of their lane in the last 24 hours."""
    return max(0, -(-daily_calls // HINTS_SHARE) - spent)
