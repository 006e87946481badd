"""``seal``: sign the head of a chain of hashes with a key that the database does not have (``store.seals``).

A worker does it at every tick of the sweep for the receipts of deletions and for the journal of operators' actions, which costs
two short reads while nothing moves. It never signs what it can see was changed: the newest seal must be ours and fit the chain,
and a seal that this process made must still be there. Then it stops, and says so once, until an operator has looked
(``cardsync deletions verify``, ``cardsync operators verify``).
"""

from __future__ import annotations

import datetime as dt
from typing import Final

import structlog
from sqlalchemy import Engine

from cardsync.episodes import Episode
from cardsync.errors import Conflict
from cardsync.store import seals
from cardsync.store.seals import Chain, Seal

log = structlog.get_logger(__name__)

LOG_EVERY: Final = dt.timedelta(days=1)  # the log is where the owner of the database does not write


class Sealer:
    """Seals one chain for one worker. ``older_secrets`` made seals that still count."""

    def __init__(self, chain: Chain, secret: bytes, *, older_secrets: tuple[bytes, ...] = ()) -> None:
        self._chain = chain
        self._key = chain.key(secret)
        self._keys = (self._key, *(chain.key(older) for older in older_secrets))
        self._newest: Seal | None = None
        self._logged_at: dt.datetime | None = None
        self._stopped = Episode(f"{chain.name}_not_sealed", level="error")

    def seal(self, engine: Engine) -> bool:
        """Seal the chain's head if it has moved; tell whether it was. Seals nothing, and logs that, if seals do not fit."""
        try:
            with engine.begin() as connection:
                last = seals.last(connection, self._chain, self._keys)
                if self._newest is not None and (last is None or last.number < self._newest.number):
                    raise Conflict(f"the seal of {self._chain.link} {self._newest.number} is gone")
                made = seals.seal_head(connection, self._chain, self._key, after=last)
        except Conflict as error:
            self._stopped.goes_on(why=str(error))
            return False
        self._stopped.is_over()
        self._newest = made or last
        if made is None:
            return False
        if self._logged_at is None or made.sealed_at - self._logged_at >= LOG_EVERY:
            said = {self._chain.number: made.number, "head": made.hash.hex(), "first": last is None}
            log.info(f"{self._chain.name}_sealed", **said)
            self._logged_at = made.sealed_at
        return True
