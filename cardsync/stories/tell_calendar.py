"""``tell_calendar``: let the feed say which cards expire soon, and which have expired, once each.

A tick makes a few short transactions while there is something to tell. All cards of a month expire on one day, so that the first
day of it may have hundreds of thousands: they are told within the hour, and the feed's head is held for some tens of milliseconds
at a time. Any number of ticks may run at once: each takes the customers that no other holds.
"""

from __future__ import annotations

from typing import Final

import structlog
from sqlalchemy import Engine

from cardsync import metrics
from cardsync.store import calendar

log = structlog.get_logger(__name__)

CARDS_AT_ONCE: Final = 200  # in one transaction, which holds the feed's head while it commits
TRANSACTIONS_A_TICK: Final = 5


def tell_calendar(engine: Engine) -> int:
    """Tell of the cards that are due, a bounded number; return how many."""
    told = 0
    for _ in range(TRANSACTIONS_A_TICK):
        with engine.begin() as connection:
            days = calendar.tell(connection, limit=CARDS_AT_ONCE)
        told += len(days)
        for kind, count in (("expired", days.count(0)), ("expiring", len(days) - days.count(0))):
            if count:
                metrics.CARD_CHANGES.labels(kind).inc(count)
        if len(days) < CARDS_AT_ONCE:
            break
    if told:
        log.info("calendar_told", cards=told)
    return told
