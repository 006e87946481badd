"""Database logins for web, worker, beat and console, as in a deployment: code that lacks a right fails here first.

They are made only in the embedded PostgreSQL: in a database of the user's own we make no roles without being asked. The passwords
are new at every start, and reach the processes in files that only their user can read.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sqlalchemy import make_url

from cardsync import db
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.files import write_private
from cardsync.store.access import logins, privileges

ROLES: Final = {"web": privileges.WEB, "worker": privileges.WORKER, "console": privileges.CONSOLE}
USED_BY: Final = {"web": "web", "worker": "worker", "beat": "worker", "console": "console"}


def make(postgres: EmbeddedPostgres, directory: Path) -> Mapping[str, Mapping[str, str]]:
    """Make or renew the logins in a migrated database; return the environment variables that each process needs."""
    engine = db.make_engine(postgres.url, name="cardsync dev", pool_size=1)
    try:
        with engine.begin() as connection:
            for process, role in ROLES.items():
                address = make_url(postgres.url).set(
                    username=f"cardsync_{process}_process", password=secrets.token_hex(16)
                )
                logins.ensure(connection, address, role)
                write_private(_file(directory, process), address.render_as_string(hide_password=False))
            privileges.grant_all(connection)
    finally:
        engine.dispose()
    return {name: {"CARDSYNC_DATABASE_URL_FILE": str(_file(directory, one))} for name, one in USED_BY.items()}


def _file(directory: Path, process: str) -> Path:
    return directory / f"{process}-database-url"
