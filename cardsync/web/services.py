"""The services that views use: one frozen object for each application, instead of globals."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

from flask import Flask, current_app
from sqlalchemy import Engine

from cardsync.bells import Bells
from cardsync.ciphers import KeyRing
from cardsync.db.clock import DatabaseClock
from cardsync.settings import Settings
from cardsync.spool import FOLDER, Spool
from cardsync.spool import ring as ring_of_hints
from cardsync.spool.ring import Ring
from cardsync.web.database_breaker import DatabaseBreaker
from cardsync.web.ingest.relay_switch import RelaySwitch
from cardsync.web.key_quotas import KeyQuotas
from cardsync.web.rate_limits import KeyGuessLimiter

_NAME: Final = "cardsync"


@dataclass(frozen=True, slots=True)
class Services:
    """``ingest_engine`` commits each statement by itself and is the webhook's alone; ``engine`` is for all the rest.

    ``database_breaker`` tells whether ``ingest_engine`` is worth trying now; if not, hints go to ``spool``. ``waiting_readers``
    bounds the threads of this process that may wait for a fresh list at once, so that some are always free. ``key_guesses``
    bounds the cost of unknown keys, and ``key_quotas`` of known ones. ``ring`` encrypts hints and opens tokens. ``relay`` tells
    whether bodies are kept to be passed on. ``kept`` holds what was acknowledged lately, on this disk.
    ``clock`` is the database's.
    """

    settings: Settings
    ingest_engine: Engine
    engine: Engine
    bells: Bells
    waiting_readers: threading.BoundedSemaphore
    spool: Spool
    database_breaker: DatabaseBreaker
    key_guesses: KeyGuessLimiter
    key_quotas: KeyQuotas
    ring: KeyRing
    relay: RelaySwitch
    kept: Ring
    clock: DatabaseClock

    @classmethod
    def of(cls, settings: Settings, *, ingest_engine: Engine, engine: Engine, bells: Bells) -> Services:
        """Let half of the threads wait for fresh lists, at least one."""
        readers = threading.BoundedSemaphore(max(1, settings.web_threads // 2))
        spool = Spool(
            settings.data_dir / FOLDER, max_files=settings.spool_max_files, max_bytes=settings.spool_max_bytes
        )
        database_breaker = DatabaseBreaker(ingest_engine, readers=engine)
        guesses, quotas = KeyGuessLimiter(), KeyQuotas(engine, settings.ottu_daily_calls)
        ring, relay, breaker = settings.key_ring(), RelaySwitch(), database_breaker
        kept = Ring(
            settings.data_dir / ring_of_hints.FOLDER,
            keep_minutes=settings.keep_minutes,
            max_bytes=settings.spool_max_bytes,
        )
        clock = DatabaseClock()
        return cls(
            settings, ingest_engine, engine, bells, readers, spool, breaker, guesses, quotas, ring, relay, kept, clock
        )

    @classmethod
    def of_app(cls, app: Flask) -> Services:
        """The services of a Flask application."""
        found = app.extensions[_NAME]
        assert isinstance(found, cls)
        return found

    def store_in(self, extensions: dict[str, object]) -> None:
        """Make these the services of a Flask application."""
        extensions[_NAME] = self


def services() -> Services:
    """The services of the application that answers now."""
    return Services.of_app(current_app)
