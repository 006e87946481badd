"""The brake on requests for deletions: who asked for more in a day than one asker may, and what is held for that.

The function that takes a request counts it, in a row for each asker, and decides (``cardsync.count_deletion``, migration 0018).
So HTTP, SQL and the command line have one brake. One asker may ask for a share of all active cards in a day of UTC, or for the
floor if that is more. From the first request beyond on, every request of that asker is held until an operator releases it, on
later days too: a stolen login that takes its share day after day stops at the first day that is too much. The card of a held
deletion is ``deleting``, as its asker wants it; only the call waits.

Rejected: refusing such requests. An honest asker's wish (a shop that moves away) is then lost, and a person's cards stay active.
Rejected too: counting the rows of ``deletions`` for each request, which grows with the day's requests.
"""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from cardsync.core.deletion import HELD_SINCE_RESTORE

AT_ONCE: Final = 500  # deletions that one transaction releases
COUNTED_MAX: Final = 100_000  # held deletions of an asker; a count ends there
SHOWN_MAX: Final = 50  # askers that `brake show` lists


@dataclass(frozen=True, slots=True)
class HeldAsker:
    """An asker whose requests are held: since when, how many it asked for on that day, and how many deletions wait, up to the
    most that were counted."""

    asker: str
    held_since: dt.datetime
    day: dt.date
    asked: int
    deletions_held: int


_KEEP_LIMITS = text("""
    UPDATE cardsync.deletion_brake SET share = :share, floor = :floor
    WHERE (share, floor) IS DISTINCT FROM (cast(:share AS float8), cast(:floor AS integer))
""")


def keep_limits(connection: Connection, *, share: float, floor: int) -> None:
    """Let the function that takes requests go by these settings."""
    connection.execute(_KEEP_LIMITS, {"share": share, "floor": floor})


# What is held since a restore is no asker's trouble, and is decided one by one.
WAITS: Final = f"due_at = 'infinity' AND error IS DISTINCT FROM '{HELD_SINCE_RESTORE}'"

# In the order of the index of what is held, and from one asker to the same one: or PostgreSQL, which expects to come upon enough
# of them soon, reads the table from its beginning, and what is held is at its end. What came together lies together on the disk.
_HELD = text(f"""
    SELECT a.asker, a.held_since, a.day, a.asked, (
        SELECT count(*) FROM (
            SELECT FROM cardsync.deletions AS d WHERE d.asker BETWEEN a.asker AND a.asker AND {WAITS}
            ORDER BY d.asker, d.requested_at, d.deletion_id LIMIT :counted_max
        ) AS counted
    ) AS deletions_held
    FROM cardsync.deletion_askers AS a WHERE a.held_since IS NOT NULL ORDER BY a.held_since, a.asker LIMIT :limit
""")


def held(connection: Connection, *, counted_max: int = COUNTED_MAX) -> list[HeldAsker]:
    """The askers whose requests are held, the longest first. Counts of what waits end at ``counted_max``."""
    parameters = {"limit": SHOWN_MAX, "counted_max": counted_max}
    return [HeldAsker(*row) for row in connection.execute(_HELD, parameters)]


# An asker's open transaction holds its row: no sweep waits for that.
_TELL = text("""
    UPDATE cardsync.deletion_askers SET told_at = clock_timestamp()
    WHERE asker = ANY(ARRAY(
        SELECT asker FROM cardsync.deletion_askers WHERE held_since IS NOT NULL AND told_at IS NULL
        ORDER BY asker LIMIT 50 FOR UPDATE SKIP LOCKED
    ))
    RETURNING asker, asked
""")


def to_tell(connection: Connection) -> list[tuple[str, int]]:
    """Askers whose requests began to be held without a log line so far, with what they asked for; told from now on."""
    return [(row.asker, row.asked) for row in connection.execute(_TELL)]


_RELEASE = text("""
    UPDATE cardsync.deletion_askers SET held_since = NULL, told_at = NULL, asked = 0
    WHERE held_since IS NOT NULL AND (cast(:asker AS text) IS NULL OR asker = :asker)
    RETURNING asker
""")


def release(connection: Connection, asker: str | None = None) -> list[str]:
    """Take requests of one asker again, or of all, counted from zero; return those that were held. What waits is let go by
    ``let_go``."""
    return list(connection.execute(_RELEASE, {"asker": asker}).scalars())


# For an operator who lets some of them go, up to a moment: requests that came later are held still, and so is their asker.
# The row is locked by a statement of its own, so that what the next one reads holds all that was asked for until then.
_LOCK = text("SELECT FROM cardsync.deletion_askers WHERE asker = :asker FOR UPDATE")
_LIFT = text(f"""
    UPDATE cardsync.deletion_askers AS a SET held_since = NULL, told_at = NULL, asked = 0
    WHERE a.asker = :asker AND a.held_since IS NOT NULL AND NOT EXISTS (
        SELECT FROM cardsync.deletions AS d WHERE d.asker = :asker AND {WAITS}
    )
""")
_IS_HELD = text("SELECT FROM cardsync.deletion_askers WHERE asker = :asker AND held_since IS NOT NULL")


def lift(connection: Connection, asker: str) -> bool:
    """Take an asker's requests again, counted from zero, if none of them waits; whether they were held until now."""
    connection.execute(_LOCK, {"asker": asker})
    return connection.execute(_LIFT, {"asker": asker}).rowcount == 1


def is_held(connection: Connection, asker: str) -> bool:
    """Whether new requests of this asker are held."""
    return connection.execute(_IS_HELD, {"asker": asker}).one_or_none() is not None


# A receipt is written with it.
_LET_GO_OF: Final = """
    WITH picked AS MATERIALIZED (
        SELECT deletion_id FROM cardsync.deletions WHERE {waits} AND {which}
    ), released AS (
        UPDATE cardsync.deletions SET due_at = clock_timestamp(), tried_since = clock_timestamp(), rung_at = NULL, error = NULL
        WHERE deletion_id = ANY(ARRAY(SELECT deletion_id FROM picked)) RETURNING deletion_id
    )
    INSERT INTO cardsync.deletion_steps (deletion_id, step, detail)
    SELECT deletion_id, 'replayed', jsonb_build_object('released_by', cast(:by AS text)) FROM released ORDER BY deletion_id
"""
# What waits although its asker's requests are taken: a release has not come to it yet, or was cut short before it did.
_LEFT: Final = f"""
    {WAITS} AND (cast(:asker AS text) IS NULL OR asker = :asker) AND NOT EXISTS (
        SELECT FROM cardsync.deletion_askers AS a WHERE a.asker = deletions.asker AND a.held_since IS NOT NULL
    )
    ORDER BY asker, deletion_id LIMIT :limit
"""
_SHOW_LEFT = text(f"SELECT deletion_id FROM cardsync.deletions WHERE {_LEFT}")
# Rows that another session holds are passed over: to wait for one while others are locked could be to wait in a circle.
_LET_GO = text(_LET_GO_OF.format(waits="true", which=f"{_LEFT} FOR UPDATE SKIP LOCKED"))
_LET_ONE_GO = text(_LET_GO_OF.format(waits=WAITS, which="deletion_id = :deletion_id FOR UPDATE"))


def let_go(connection: Connection, asker: str | None = None, *, by: str, limit: int = AT_ONCE) -> int:
    """Make due what is held of one asker, or of all, whose requests are taken again; return the number of deletions.

    A running worker takes them up within seconds. Rows that are locked are left (``left``).
    """
    return connection.execute(_LET_GO, {"asker": asker, "by": by, "limit": limit}).rowcount


def left(connection: Connection, asker: str | None = None, *, limit: int = AT_ONCE) -> list[uuid.UUID]:
    """What is held still of one asker, or of all, whose requests are taken again."""
    return list(connection.execute(_SHOW_LEFT, {"asker": asker, "limit": limit}).scalars())


def let_one_go(connection: Connection, deletion_id: uuid.UUID, *, by: str) -> bool:
    """Make one held deletion due; false if it is not held."""
    return connection.execute(_LET_ONE_GO, {"deletion_id": deletion_id, "by": by}).rowcount == 1
