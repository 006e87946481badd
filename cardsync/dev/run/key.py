"""The API key with which a developer tries the API: the data directory keeps it, and the database knows its hash."""

from __future__ import annotations

import dataclasses
from typing import Final

from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from cardsync.dev.run.directory import Directory
from cardsync.store.access import keys

NAME: Final = "cardsync dev"


def ensure(engine: Engine, directory: Directory) -> str:
    """Return the directory's key, and make sure that the database knows it with all scopes. A revoked key is replaced."""
    kept = directory.secrets()
    with engine.connect() as connection:
        known = keys.find(connection, keys.key_hash(kept.api_key))
    if known is None:
        try:
            _create(engine, kept.api_key)
        except IntegrityError:  # it is there, and revoked
            kept = dataclasses.replace(kept, api_key=keys.new_key())
            directory.keep(kept)
            _create(engine, kept.api_key)
    return kept.api_key


def _create(engine: Engine, key: str) -> None:
    with engine.begin() as connection:
        keys.create(connection, NAME, keys.key_hash(key), keys.SCOPES, prefix=keys.shown_prefix(key))
