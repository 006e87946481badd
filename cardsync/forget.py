"""``forget``: let go of what is past its time, a little at every tick, so that it never shows and always keeps up.

What goes when is in ``store.retention``. A run is bounded in time, a batch in rows; any number may run at once and take
different rows. A run that fails costs nothing: the next one begins where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from cardsync import metrics
from cardsync.settings import Settings
from cardsync.store import retention
from cardsync.store.retention import What

log = structlog.get_logger(__name__)

# A fifth of one thread, at most: a run every five seconds (workers.app). docs/performance.md has what that clears.
RUN_SECONDS: Final = 1.0
AUDIT_DAYS: Final = 400  # 200 rows a day: a year to compare with, and a month for whoever looks late


@dataclass(frozen=True, slots=True)
class ForgetPolicy:
    """How old what may become, in days."""

    days: Mapping[What, int]

    @classmethod
    def of(cls, settings: Settings) -> ForgetPolicy:
        """Take the policy from the settings.

        Observations are kept as long as notifications: each is half of what ``cardsync explain`` shows.
        """
        content, rows = settings.inbox_content_days, settings.inbox_days
        return cls(
            {
                "given_up": content,
                "content": content,
                "hint": rows,
                "observation": rows,
                "audit": AUDIT_DAYS,
                "signature": rows,  # as long as the notifications by which a repeat is known
            },
        )


def forget(engine: Engine, policy: ForgetPolicy) -> Mapping[What, int]:
    """Forget what is due, each kind in turn, until nothing is left or the time is over; how many rows of each it was."""
    until = time.monotonic() + RUN_SECONDS
    forgotten: dict[What, int] = dict.fromkeys(policy.days, 0)
    left = list(policy.days)
    while left:
        for what in tuple(left):
            if time.monotonic() >= until:
                left.clear()
                break
            rows = _batch(engine, what, policy.days[what])
            forgotten[what] += rows
            if rows < retention.ROWS_AT_ONCE:
                left.remove(what)
    if forgotten["given_up"]:
        log.warning("hints_given_up", count=forgotten["given_up"])
    return forgotten


def _batch(engine: Engine, what: What, older_days: int) -> int:
    """One batch in a transaction of its own; 0 if the database had no time for it."""
    try:
        with engine.begin() as connection:
            rows = retention.forget(connection, what, older_days=older_days)
    except SQLAlchemyError as error:
        log.warning("forgetting_put_off", what=what, error=type(error).__name__)
        return 0
    metrics.FORGOTTEN.labels(what).inc(rows)
    return rows
