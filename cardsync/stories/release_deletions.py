"""``release_deletions``: let an operator's decision on held deletions take effect, in bounded transactions; and tell of them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from cardsync.settings import Settings
from cardsync.store.deletions import askers

log = structlog.get_logger(__name__)

_IN_TIME: Final = frozenset({"55P03", "57014"})  # what was not had in time: a lock, or a statement


@dataclass(frozen=True, slots=True)
class Released:
    """What a release did. ``left``: deletions that another session had locked for too long, up to ``askers.AT_ONCE``."""

    askers: tuple[str, ...]
    deletions: int
    left: int


def release_deletions(engine: Engine, *, by: str, asker: str | None = None) -> Released:
    """Take requests of one asker again, or of all, and make due what was held.

    Called again, it goes on with what a release before it left. The console releases what its dry run showed, and can be
    stopped (``stories.carry_out``).
    """
    with engine.begin() as connection:
        released = askers.release(connection, asker)
    number, batch = 0, askers.AT_ONCE
    while batch == askers.AT_ONCE:
        with engine.begin() as connection:
            batch = askers.let_go(connection, asker, by=by)
        number += batch
    for name in released:
        log.warning("deletions_held_ended", asker=name)
    waited_for, left = _wait_for_the_rest(engine, asker, by)
    return Released(tuple(released), number + waited_for, left)


def _wait_for_the_rest(engine: Engine, asker: str | None, by: str) -> tuple[int, int]:
    """Let go what another session held just then, one at a time; return how many, and how many are left if one stays locked."""
    number = 0
    while rest := _left(engine, asker):
        for deletion_id in rest:
            try:
                with engine.begin() as connection:
                    number += askers.let_one_go(connection, deletion_id, by=by)
            except OperationalError as error:
                if getattr(error.orig, "sqlstate", None) not in _IN_TIME:
                    raise
                return number, len(_left(engine, asker))
    return number, 0


def _left(engine: Engine, asker: str | None) -> list[uuid.UUID]:
    with engine.connect() as connection:
        return askers.left(connection, asker)


def watch_askers(engine: Engine, settings: Settings) -> None:
    """Keep the brake's limits as the settings are, and tell once of each asker whose requests began to be held."""
    with engine.begin() as connection:
        askers.keep_limits(connection, share=settings.deletion_brake_share, floor=settings.deletion_brake_floor)
        told = askers.to_tell(connection)
    for asker, asked in told:
        log.warning("deletions_held", asker=asker, asked=asked, advice="cardsync brake show")
