"""What ``cardsync dev`` says once everything runs: where things are, and what to paste to see them work.

A command that is shown holds no password of the database: it would stand in ``ps`` and in a shell's history. The key of the
API is shown, because it was made for this and opens nothing but this directory's registry.
"""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlalchemy.exc import SQLAlchemyError

from cardsync import db
from cardsync.dev.postgres import DATABASE, USER, EmbeddedPostgres
from cardsync.dev.screen import Fact
from cardsync.dev.service import write_private
from cardsync.dev.simulator import Simulator
from cardsync.settings import NAMES, Settings

QUERY: Final = (
    "select environment, customer_id, status, brand, number, expires_on, confirmed_at from registry.cards"
    " order by first_seen_at desc limit 10;"
)
SOMEBODY: Final = ("sandbox", "shopper-0001")


@dataclass(frozen=True, slots=True, repr=False)
class Running:
    """What runs. ``postgres`` and ``simulator`` are None where the user has his own."""

    data_dir: Path
    settings: Settings
    postgres: EmbeddedPostgres | None
    simulator: Simulator | None
    web_port: int
    api_key: str


def facts(running: Running) -> list[Fact]:
    """What to know of it, in the order in which it is asked for."""
    web = f"http://127.0.0.1:{running.web_port}"
    return [
        Fact("Web", (web,)),
        Fact("API docs", (f"{web}/docs",)),
        Fact("Database", (_psql(running),)),
        Fact("SQL to paste", (QUERY,)),
        Fact("curl to paste", (_curl(web, running),)),
        Fact("Ottu", _ottu(web, running), "yellow" if running.simulator else ""),
        Fact("Data, logs", (f"{running.data_dir}, {running.data_dir / 'logs'}",)),
    ]


def _psql(running: Running) -> str:
    """A command line that opens the database; the password is in a file that psql reads."""
    if running.postgres is None:
        return (
            'psql "$CARDSYNC_DATABASE_URL"' if NAMES["database_url"] in os.environ else "as CARDSYNC_DATABASE_URL says"
        )
    server = running.postgres
    file = running.data_dir / "pgpass"
    write_private(file, f"127.0.0.1:{server.port}:*:{USER}:{server.password}\n")
    beside = server.bin_dir / "psql"
    program = "psql" if shutil.which("psql") or not beside.exists() else shlex.quote(str(beside))
    return f"PGPASSFILE={shlex.quote(str(file))} {program} -h 127.0.0.1 -p {server.port} -U {USER} {DATABASE}"


def _curl(web: str, running: Running) -> str:
    environment, customer_id = _somebody(running)
    url = f"{web}/v1/cards?environment={environment}&customer_id={quote(customer_id, safe='')}"
    return f"curl -H {shlex.quote(f'Authorization: Bearer {running.api_key}')} {shlex.quote(url)}"


def _somebody(running: Running) -> tuple[str, str]:
    """A customer who has a card, with a name that is easy to read, if there is one."""
    world = running.simulator.world if running.simulator is not None else None
    for environment, customer_id in world.owners() if world is not None else ():
        if customer_id.isascii() and "-" in customer_id and world is not None and world.truth(environment, customer_id):
            return environment, customer_id
    return _known(running) or SOMEBODY


def _known(running: Running) -> tuple[str, str] | None:
    from sqlalchemy import text

    assert running.settings.database_url is not None
    engine = db.make_engine(running.settings.database_url.get_secret_value(), name="cardsync dev", pool_size=1)
    try:
        with engine.connect() as connection:
            row = connection.execute(text("SELECT environment, customer_id FROM registry.active_cards LIMIT 1")).first()
    except SQLAlchemyError:
        return None
    finally:
        engine.dispose()
    return None if row is None else (row.environment, row.customer_id)


def _ottu(web: str, running: Running) -> tuple[str, ...]:
    if running.simulator is None:
        known = running.settings.ottu_base_url is not None or running.settings.ottu_merchant_id is not None
        where = running.settings.ottu_url if known else "yours"  # without a list to ask for, its address may be unset
        return (f"{where}; have it send its notifications to {web}/webhooks/ottu",)
    return (
        f"a stand-in at {running.simulator.base_url}, not Ottu: it follows Ottu's documentation, its shoppers and cards",
        "are invented. For a real sandbox instance set OTTU_MERCHANT_ID, OTTU_API_KEY and OTTU_WEBHOOK_KEYS.",
    )
