"""``release_deletions``: let an operator's decision on held deletions take effect, in bounded transactions; and tell of them."""

from __future__ import annotations

import structlog
from sqlalchemy import Engine

from cardsync.settings import Settings
from cardsync.store.deletions import askers

log = structlog.get_logger(__name__)


def release_deletions(engine: Engine, *, by: str, asker: str | None = None) -> tuple[list[str], int]:
    """Take requests of one asker again, or of all, and make due what was held; return the askers and the deletions' number.

    The console releases what its dry run showed, and can be stopped (``stories.carry_out``).
    """
    with engine.begin() as connection:
        released = askers.release(connection, asker)
    number = 0
    while released:
        with engine.begin() as connection:
            batch = askers.let_go(connection, released, by=by)
        number += batch
        if batch < askers.AT_ONCE:
            break
    for name in released:
        log.warning("deletions_held_ended", asker=name)
    return released, number


def watch_askers(engine: Engine, settings: Settings) -> None:
    """Keep the brake's limits as the settings are, and tell once of each asker whose requests began to be held."""
    with engine.begin() as connection:
        askers.keep_limits(connection, share=settings.deletion_brake_share, floor=settings.deletion_brake_floor)
        told = askers.to_tell(connection)
    for asker, asked in told:
        log.warning("deletions_held", asker=asker, asked=asked, advice="cardsync brake show")
