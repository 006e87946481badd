"""The feed's sequencer: numbers what other services' transactions left to be numbered after their commit.

Our own transactions take their numbers at commit, under the lock of the feed's head (migration 0001). A transaction that
called ``registry.request_deletion`` belongs to somebody else and must not hold that lock: it may send SET CONSTRAINTS ALL
IMMEDIATE and stay open, or run at SERIALIZABLE and fail for a change of any card. So it appends its changes to a table, and
they get their numbers here (migration 0014): a worker is rung at that commit, and every tick of the sweep looks too. A change
of ours to the same customer numbers the waiting ones first, so that the changes of one customer are always in commit order.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

_NUMBER = text("SELECT cardsync.number_changes()")
_HEAD = text("SELECT seq FROM cardsync.feed_head")


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
