"""The feed's sequencer: numbers what other services' transactions left to be numbered after their commit.

Our own transactions take their numbers at commit, under the lock of the feed's head (migration 0001). A transaction that
called ``registry.request_deletion`` belongs to somebody else and must not hold that lock: it may send SET CONSTRAINTS ALL
IMMEDIATE and stay open, or run at SERIALIZABLE and fail for a change of any card. So it appends its changes to a table, and
they get their numbers here (migration 0014): a worker is rung at that commit, and every tick of the sweep looks too. A change
of ours to the same customer numbers the waiting ones first, so that the changes of one customer are always in commit order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

_NUMBER = text("SELECT cardsync.number_changes()")
_HEAD = text("SELECT seq FROM cardsync.feed_head")


_PLACE = text("""
    SELECT h.seq, e.epoch, e.after_seq, EXISTS (
        SELECT FROM cardsync.feed_epochs AS g WHERE g.before_seq < :after AND g.after_seq > :after
    ) AS is_lost
    FROM cardsync.feed_head AS h CROSS JOIN (SELECT epoch, after_seq FROM cardsync.feed_epochs ORDER BY epoch DESC LIMIT 1) AS e
""")

# How many changes there are after the number ``e.cursor_seq``, without the numbers that a restored backup leapt over.
BEHIND: Final = """
    greatest(0, (SELECT seq FROM cardsync.feed_head) - e.cursor_seq - (
        SELECT coalesce(sum(g.after_seq - greatest(g.before_seq, e.cursor_seq)), 0)
        FROM cardsync.feed_epochs AS g WHERE g.after_seq > e.cursor_seq
    ))::bigint
"""

# When the first change after the number ``e.cursor_seq`` was made.
NEXT_AT: Final = "(SELECT c.at FROM registry.card_changes AS c WHERE c.seq > e.cursor_seq ORDER BY c.seq LIMIT 1)"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the feed is: its newest number, the epoch that counts, and the number after which that one begins.

    ``is_lost`` says of the number that was asked about that no change ever had it here: it is of changes that a restore took
    back.
    """

    head: int
    epoch: int
    after_seq: int
    is_lost: bool


def place(connection: Connection, after: int = 0) -> Place:
    """Say where the feed is, and what the number ``after`` is to it."""
    return Place(*connection.execute(_PLACE, {"after": after}).one())


def number_waiting(connection: Connection) -> int:
    """Give the changes that wait their numbers, chain the receipts that wait, ring the feed; return how many changes.

    Changes of a customer that somebody has locked just now are left to the next time.
    """
    numbered: int = connection.execute(_NUMBER).scalar_one()
    return numbered


def head(connection: Connection) -> int:
    """Return the number of the newest change, 0 before the first one."""
    seq: int = connection.execute(_HEAD).scalar_one()
    return seq
