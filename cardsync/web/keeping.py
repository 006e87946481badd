"""Where a verified notification is kept: in the database if that takes it in time, else on disk; and quickly in either case.

Whoever the database does not answer in time is set down on disk. The write may still succeed: both have the same id, and
whichever comes second finds a duplicate. While the database is known to be away nobody waits for it.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from cardsync.errors import SpoolUnusable
from cardsync.receive import Authentic, Receipt, is_about_one
from cardsync.web.reach import WRITE_SECONDS, Reach
from cardsync.web.together import Together
from cardsync.web.webhook import Webhook

# What the disk has, after the database had its own: two seconds together, but for a process that stood still in them.
DISK_SECONDS: Final = 1.9 - WRITE_SECONDS
# A write that has gone on for this long is the database's fault; who waited that long behind quick ones met a rush.
STUCK_SECONDS: Final = WRITE_SECONDS / 2


class Keeping:
    """Keeps what arrives on one event loop."""

    def __init__(self, webhook: Webhook, reach: Reach) -> None:
        self._reach = reach
        self._database: Together[Authentic, Receipt] = Together(webhook.write, is_about_one=is_about_one, name="writer")
        self._spool: Together[Authentic, Receipt] = Together(webhook.set_down, is_about_one=_never, name="spooler")

    async def keep(self, authentic: Authentic) -> Receipt:
        """Return once it is durable. Raises ``SpoolUnusable`` if neither took it in time."""
        if self._reach.is_there:
            try:
                return await self._database.write(authentic, wait_seconds=WRITE_SECONDS)
            except TimeoutError as error:
                if self._database.busy_seconds >= STUCK_SECONDS:
                    self._lose(error)
            except SQLAlchemyError as error:
                if not is_about_one(error):  # one that it refuses is kept too: an operator may know why
                    self._lose(error)
        try:
            return await self._spool.write(authentic, wait_seconds=DISK_SECONDS)
        except TimeoutError:
            raise SpoolUnusable("the disk takes too long") from None

    def _lose(self, error: Exception) -> None:
        """Let nobody wait for it any longer."""
        self._reach.lost(error)
        self._database.give_up()


def _never(_: Exception) -> bool:
    return False
