"""Two things that stood in words or nowhere: the wait that an endpoint asks for, and what the feed's own words mean.

The wait (``Retry-After``) stands in a column, and no longer in the words of the delivery's error alone. The comments on the feed's
``change`` and ``cause`` say what each of their words means, ``erasure`` among them, in the words of docs/consumers.md.

Revision: 0037, after 0036. Old code runs beside it: it leaves the column empty, and such a delivery is at worst tried early, once.
"""

from __future__ import annotations

from alembic import op

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None

WORDS = {
    "change": (
        "What happened. added: a card is here that was not. updated: facts of it are others. deleting: its deletion was asked for; "
        "it is no longer served as active. restored: the deletion ended without success; the card is active again. removed: a list "
        "proved that it is gone. returned: a removed card is listed again. expiring: its last good day is near: once each at 60, 30 "
        "and 7 days. expired: its last good day is over: once. A release may add some: skip one that you do not know."
    ),
    "fields": (
        "Which columns of registry.cards are others. Empty with added (all of it is new) and expired. With expiring: 60, 30 or 7, "
        "in days."
    ),
    "cause": (
        "Why we know. hint: a notification of Ottu's, or the list that it led to. deletion: a deletion: its request, its end, or the "
        "list that followed it. read: a list that a reader or an operator wanted. retry: a list that was tried again after a "
        "failure. sweep: a routine list. audit: a list of a customer who was drawn at random. repeat: a list that a replayed "
        "notification led to. calendar: a day has come, in the merchant's time zone (CARDSYNC_TIME_ZONE). erasure: a person was "
        "erased: names, masked numbers and agreements of removed cards are gone. A release may add some."
    ),
}
# As migration 0026 has them.
WORDS_BEFORE = {
    "change": "added, updated, deleting, restored, removed, returned, expiring or expired; a release may add some.",
    "fields": "Which columns of registry.cards are others; empty with added. With expiring: 60, 30 or 7, in days.",
    "cause": "Why we know: deletion, hint, read, retry, sweep, audit, repeat or calendar; a release may add some.",
}


def _say(words: dict[str, str]) -> None:
    for column, said in words.items():
        quoted = said.replace("'", "''")
        op.execute(f"COMMENT ON COLUMN registry.card_changes.{column} IS '{quoted}'")


def upgrade() -> None:
    op.execute("ALTER TABLE cardsync.deliveries ADD COLUMN IF NOT EXISTS asked_until timestamptz")
    _say(WORDS)


def downgrade() -> None:
    _say(WORDS_BEFORE)
    op.execute("ALTER TABLE cardsync.deliveries DROP COLUMN asked_until")
