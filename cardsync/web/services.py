"""What the views stand on: one frozen object for each application, in place of globals."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

from flask import current_app
from sqlalchemy import Engine

from cardsync.bells import Bells
from cardsync.settings import Settings
from cardsync.spool import FOLDER, Spool
from cardsync.web.guessing import Guesses
from cardsync.web.reach import Reach

_NAME: Final = "cardsync"


@dataclass(frozen=True, slots=True)
class Services:
    """``ingest_engine`` commits each statement by itself and is the webhook's alone; ``engine`` is for all the rest.

    ``reach`` tells whether the first is worth asking at the moment; if not, hints go to ``spool``. ``waiting_readers`` bounds
    how many of this process's threads may wait for a fresh list at once, so that there are always some left for webhooks.
    ``guesses`` bounds what unknown keys cost.
    """

    settings: Settings
    ingest_engine: Engine
    engine: Engine
    bells: Bells
    waiting_readers: threading.BoundedSemaphore
    spool: Spool
    reach: Reach
    guesses: Guesses

    @classmethod
    def of(cls, settings: Settings, *, ingest_engine: Engine, engine: Engine, bells: Bells) -> Services:
        """Bound the readers by half of the threads, one at the least."""
        readers = threading.BoundedSemaphore(max(1, settings.web_threads // 2))
        spool = Spool(
            settings.data_dir / FOLDER, max_files=settings.spool_max_files, max_bytes=settings.spool_max_bytes
        )
        reach = Reach(ingest_engine, readers=engine)
        return cls(settings, ingest_engine, engine, bells, readers, spool, reach, Guesses())

    def store_in(self, extensions: dict[str, object]) -> None:
        """Make these the services of a Flask application."""
        extensions[_NAME] = self


def services() -> Services:
    """The services of the application that answers now."""
    found = current_app.extensions[_NAME]
    assert isinstance(found, Services)
    return found
