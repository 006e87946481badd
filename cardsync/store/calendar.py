"""The merchant's calendar: what day it is in the merchant's time zone, and telling the feed of cards that expire.

A card is good until the last day of its month is over in that zone. The zone stands in a row, because the views of ``registry``
must go by the same one as the programs: ``cardsync db upgrade`` writes the setting there, and ``doctor`` compares the two.

The calendar tells of an active card four times: 60, 30 and 7 days before its last day, and when that is over. What was told is
in the card's row, with the expiry date that it was about (``told_for``), so a card whose expiry changes begins again. The next
day with something to tell is an index (``cards_calendar``), whose head is all that is read. A card that becomes known late is
told of once, for the nearest of the days that are behind it.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

from sqlalchemy import Connection, text

from cardsync.errors import Misconfigured
from cardsync.store.schema.registry import NEXT_DAY

_TIME_ZONE = text("SELECT time_zone FROM cardsync.calendar")
_IS_KNOWN = text("SELECT EXISTS (SELECT FROM pg_timezone_names WHERE name = :zone)")
_KEEP = text("UPDATE cardsync.calendar SET time_zone = :zone WHERE time_zone <> :zone")

# ``statement_timestamp()``, because no index answers a volatile function.
TODAY: Final = "(SELECT (statement_timestamp() AT TIME ZONE z.time_zone)::date FROM cardsync.calendar AS z)"

_TODAY = text(f"SELECT {TODAY}")

# Customers are locked before their cards, as everywhere; those that somebody holds just now come at the next tick. A card that
# was changed meanwhile is judged again by its new row.
_TELL = text(f"""
    WITH due AS MATERIALIZED (
        SELECT card_id, customer FROM cardsync.cards
        WHERE status = 'active' AND expires_on IS NOT NULL AND {NEXT_DAY} <= {TODAY}
        ORDER BY {NEXT_DAY} LIMIT :limit
    ), held AS MATERIALIZED (
        SELECT id FROM cardsync.customers WHERE id = ANY(ARRAY(SELECT customer FROM due))
        ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE cardsync.cards
    SET told_for = expires_on, cause = 'calendar',
        told_days = CASE WHEN expires_on < {TODAY} THEN 0 WHEN expires_on <= {TODAY} + 7 THEN 7
                         WHEN expires_on <= {TODAY} + 30 THEN 30 ELSE 60 END
    WHERE card_id = ANY(ARRAY(SELECT due.card_id FROM due JOIN held ON held.id = due.customer))
      AND status = 'active' AND expires_on IS NOT NULL AND {NEXT_DAY} <= {TODAY}
    RETURNING told_days
""")


def time_zone(connection: Connection) -> str:
    """The zone that the views go by."""
    zone: str = connection.execute(_TIME_ZONE).scalar_one()
    return zone


def keep_time_zone(connection: Connection, zone: str) -> bool:
    """Let the views go by this zone; true if that is a change. Raises ``Misconfigured`` for one that PostgreSQL does not know."""
    if not connection.execute(_IS_KNOWN, {"zone": zone}).scalar_one():
        raise Misconfigured("CARDSYNC_TIME_ZONE is wrong: PostgreSQL does not know that zone")
    return connection.execute(_KEEP, {"zone": zone}).rowcount == 1


def today(connection: Connection) -> dt.date:
    """What day it is for the merchant."""
    day: dt.date = connection.execute(_TODAY).scalar_one()
    return day


def tell(connection: Connection, *, limit: int) -> list[int]:
    """Note the cards that the calendar has something to say of, the longest due first; a trigger writes the feed at commit.

    Returns for each how many days before its last day was told: 60, 30 or 7, and 0 for expired.
    """
    return list(connection.execute(_TELL, {"limit": limit}).scalars())
