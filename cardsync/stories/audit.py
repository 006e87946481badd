"""``audit``: now and then draw a random customer, so that its next list says whether the registry was right.

An audit is an ordinary reconciliation in a lane of its own, so it also repairs what it finds. The verdict is written in the same
transaction as the changes (``store.audits``). Draws are spread evenly over the day; a missed tick is not made up for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from cardsync import db
from cardsync.episodes import Episode
from cardsync.settings import Settings
from cardsync.store import audits

SECONDS_A_DAY: Final = 86_400
# 200 a day are 6,000 in the 30 days that the figure covers. With 99 % right the bounds are then 0.25 points away, at worst (half
# of all wrong) 1.3. More calls would tell little more, since the width falls with their square root.
MOST_A_DAY: Final = 200
# Of a small allowance audits take no more than this share: the call of an audit is missing where it may be needed more.
SHARE: Final = 0.01


@dataclass(frozen=True, slots=True)
class AuditPolicy:
    """The settings that this story goes by. ``lists`` is false where Ottu offers no list (KSA): nothing to compare with."""

    daily_calls: int
    lists: bool

    @classmethod
    def of(cls, settings: Settings) -> AuditPolicy:
        """Take the policy from the settings."""
        return cls(daily_calls=settings.ottu_daily_calls, lists=settings.ottu_cards_api == "enabled")

    @property
    def every_seconds(self) -> float:
        """The time between two draws."""
        return SECONDS_A_DAY / min(MOST_A_DAY, self.daily_calls * SHARE)


_put_off = Episode("audit_put_off")


def audit(engine: Engine, policy: AuditPolicy) -> tuple[int, ...]:
    """Draw a customer if it is time; return the customer if the caller must ring for it."""
    if not policy.lists:
        return ()
    try:
        with engine.begin() as connection:
            since = audits.seconds_since_draw(connection)
            if since is None or since < policy.every_seconds:
                return ()
            customer = audits.draw(connection)
            is_due_now = customer is not None and audits.begin(connection, customer)
    except SQLAlchemyError as error:  # a figure must never stop the sweep's bells: the next tick draws
        _put_off.goes_on(error=type(error).__name__, why=db.why(error))
        return ()
    _put_off.is_over()
    return (customer,) if customer is not None and is_due_now else ()
