"""The operators' console in ``cardsync dev``: where it listens, and a link that signs the developer in."""

from __future__ import annotations

import base64
from typing import Final

from sqlalchemy import Engine

from cardsync.dev.run.provision import free_port_from
from cardsync.settings import CONSOLE_PORT
from cardsync.store.console import operators

NAME: Final = "dev"


def free_port(web_port: int) -> int:
    """A port for the console that is free and not the one that web will take. Raises ``ServiceError``."""
    free = free_port_from(CONSOLE_PORT)
    return free if free != web_port else free_port_from(web_port + 1)


def link(engine: Engine, base: str) -> str:
    """A link that signs in once, as an admin; links and sessions of the start before end."""
    secret = operators.new_secret()
    with engine.begin() as connection:
        operators.invite(connection, NAME, "admin", secret, by="cli:dev")
    return f"{base}/sign-in/{base64.urlsafe_b64encode(secret).decode().rstrip('=')}"
