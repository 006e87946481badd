"""The key with which a developer tries the API: kept in the data directory, let in by the database."""

from __future__ import annotations

import dataclasses
from typing import Final

from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from cardsync.dev.directory import Directory
from cardsync.store import keys

NAME: Final = "cardsync dev"


def let_in(engine: Engine, directory: Directory) -> str:
    """Make sure that the database knows the directory's key, with all scopes, and return it; a revoked one is replaced."""
    kept = directory.secrets()
    with engine.connect() as connection:
        known = keys.find(connection, keys.key_hash(kept.api_key))
    if known is None:
        try:
            _create(engine, kept.api_key)
        except IntegrityError:  # there, and revoked
            kept = dataclasses.replace(kept, api_key=keys.new_key())
            directory.keep(kept)
            _create(engine, kept.api_key)
    return kept.api_key


def _create(engine: Engine, key: str) -> None:
    with engine.begin() as connection:
        keys.create(connection, NAME, keys.key_hash(key), keys.SCOPES)
