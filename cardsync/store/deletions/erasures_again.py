"""Erasures as receipts outside of the database tell them: which there are, and doing one again that a restored backup forgot.

Nothing is asked of Ottu: that the person's cards were gone there was proved when the erasure was done, and a card that was saved
since is not meant. So only what the backup itself brought back is taken away: what was known of the person before the erasure was
done. A list that is asked for afterwards brings back what the person has saved since, as it would have without a restore.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Final

from sqlalchemy import Connection, text

from cardsync.core.erasure_receipt import Receipt
from cardsync.store import customers
from cardsync.store.deletions import erasures

PAGE: Final = 1_000

_EXPORT = text("""
    SELECT erasure_id, customer_id, requested_by, requested_at, finished_at FROM cardsync.erasures
    WHERE (cast(:since AS timestamptz) IS NULL OR coalesce(finished_at, requested_at) >= :since)
      AND (requested_at, erasure_id) > (cast(:after_at AS timestamptz), cast(:after_id AS uuid))
    ORDER BY requested_at, erasure_id LIMIT :limit
""")


def receipts(connection: Connection, since: dt.datetime | None) -> Iterator[Receipt]:
    """All erasures, or those that were done or asked for since then, the oldest first."""
    place = {"after_at": "-infinity", "after_id": "00000000-0000-0000-0000-000000000000"}
    while rows := connection.execute(_EXPORT, {"since": since, "limit": PAGE, **place}).all():
        for row in rows:
            yield Receipt(**row._asdict())
        place = {"after_at": rows[-1].requested_at, "after_id": rows[-1].erasure_id}


_STATUS = text("SELECT status FROM cardsync.erasures WHERE erasure_id = :erasure_id")
_LOCK_CUSTOMERS = text("""
    SELECT id FROM cardsync.customers WHERE customer_id = :customer_id ORDER BY environment COLLATE "C" FOR UPDATE
""")


def status(connection: Connection, receipt: Receipt) -> str | None:
    """How the database knows the erasure; ``None`` if it does not."""
    found: str | None = connection.execute(_STATUS, {"erasure_id": receipt.erasure_id}).scalar_one_or_none()
    return found


# A card that a list showed, or a hint named, after the erasure was asked for is a card of a person who came back.
_FROM_BEFORE: Final = """
    c.customer = ANY(:customers) AND greatest(c.first_seen_at, c.confirmed_at, c.awaited_at) < :until
"""
_REMOVE = text(f"""
    UPDATE cardsync.cards AS c
    SET status = 'removed', token = NULL, removed_at = :finished_at, removed_because = 'requested', cause = 'erasure',
        awaited_no = NULL, awaited_at = NULL
    WHERE c.status = 'active' AND {_FROM_BEFORE}
""")
_DROP = text(f"DELETE FROM cardsync.cards AS c WHERE c.status = 'unconfirmed' AND {_FROM_BEFORE}")
# A deletion that is under way ends by a list alone; what names the person goes now.
_FORGET_DELETING = text(f"""
    UPDATE cardsync.cards AS c
    SET name_on_card = NULL, number = NULL, last4 = NULL, expiry_month = NULL, expiry_year = NULL, expires_on = NULL,
        agreements = '{{}}', cause = 'erasure'
    WHERE c.status = 'deleting' AND {_FROM_BEFORE}
""")
_FORGET_AGREEMENTS = text(f"""
    DELETE FROM cardsync.agreements AS a USING cardsync.cards AS c
    WHERE a.card_id = c.card_id AND c.status = 'deleting' AND {_FROM_BEFORE}
""")
_KEEP = text("""
    INSERT INTO cardsync.erasures (erasure_id, customer_id, status, requested_by, requested_at, finished_at, due_at)
    VALUES (:erasure_id, :customer_id, 'done', :requested_by, :requested_at, :finished_at, NULL)
    ON CONFLICT (erasure_id) DO UPDATE SET status = 'done', finished_at = excluded.finished_at, due_at = NULL, error = NULL
""")


def do_again(connection: Connection, receipt: Receipt) -> list[int]:
    """Take away what a backup brought back of a person who was erased; return the customers, who are to be looked at."""
    assert receipt.finished_at is not None
    whose = list(connection.execute(_LOCK_CUSTOMERS, {"customer_id": receipt.customer_id}).scalars())
    facts = {"customers": whose, "until": receipt.finished_at, "finished_at": receipt.finished_at}
    for statement in (_REMOVE, _DROP, _FORGET_AGREEMENTS, _FORGET_DELETING):
        connection.execute(statement, facts)
    known = erasures.Open(receipt.erasure_id, receipt.customer_id, receipt.requested_by, 0, False, None)
    erasures.forget(connection, known, whose)
    connection.execute(
        _KEEP,
        {
            "erasure_id": receipt.erasure_id,
            "customer_id": receipt.customer_id,
            "requested_by": receipt.requested_by,
            "requested_at": receipt.requested_at,
            "finished_at": receipt.finished_at,
        },
    )
    _look_at(connection, whose)
    return whose


def _look_at(connection: Connection, whose: Sequence[int]) -> None:
    for customer in whose:
        customers.mark_dirty(connection, customer, evidence_no=None, lane="deletion")
