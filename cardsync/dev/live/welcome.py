"""What ``cardsync dev`` shows when all parts run: where things are, and commands to paste.

A command that is shown contains no password of the database: it would be visible in ``ps`` and in a shell's history. The API key
is shown: it was made for this, and opens only this directory's registry.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from cardsync import db
from cardsync.dev.live.screen import Fact
from cardsync.dev.servers.postgres import DATABASE, USER, EmbeddedPostgres
from cardsync.dev.simulator import Simulator
from cardsync.files import write_private
from cardsync.settings import NAMES, Settings

QUERY: Final = (
    "select environment, customer_id, status, brand, number, expires_on, confirmed_at from registry.cards"
    " order by first_seen_at desc limit 10;"
)
DEFAULT_CUSTOMER: Final = ("sandbox", "shopper-0001")
GUEST: Final = ("sandbox", "guest-0001")  # whose card the example deletes; no shopper has that name
GUEST_SECONDS: Final = 5.0  # for the guest's card to be known, which takes a tenth of a second
POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True, repr=False)
class Running:
    """What runs. ``postgres`` and ``simulator`` are None if the user has set his own."""

    data_dir: Path
    settings: Settings
    postgres: EmbeddedPostgres | None
    simulator: Simulator | None
    web_port: int
    api_key: str
    sign_in_link: str


def facts(running: Running) -> list[Fact]:
    """Where everything is, in the order in which a developer needs it."""
    web = f"http://127.0.0.1:{running.web_port}"
    return [
        Fact("Web", (web,)),
        Fact("API docs", (f"{web}/docs",)),
        Fact(
            "Console",
            (
                running.sign_in_link,
                "signs you in, once. Again:",
                "cardsync operators invite --name dev --role admin",
            ),
        ),
        Fact("Database", (_psql(running),)),
        Fact("SQL to paste", (QUERY,)),
        Fact("Read cards", (_curl(web, running),)),
        *_deletion(web, running),
        Fact("Commands", _commands()),
        Fact("Ottu", _ottu(web, running), "yellow" if running.simulator else ""),
        Fact("Data, logs", (str(running.data_dir), str(running.data_dir / "logs"))),
    ]


def _psql(running: Running) -> str:
    """A command line that opens the database; psql reads the password from a file."""
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
    environment, customer_id = _customer_with_card(running)
    url = f"{web}/v1/cards?environment={environment}&customer_id={quote(customer_id, safe='')}"
    return f"curl -H {shlex.quote(f'Authorization: Bearer {running.api_key}')} {shlex.quote(url)}"


def _deletion(web: str, running: Running) -> list[Fact]:
    """A command that deletes one card, if there is one: the guest's, or the card that was saved last.

    A shopper's card may serve an agreement by the time that the command is pasted; then Ottu refuses to delete it.
    """
    card_id = _guests_card(running) or _newest_card(running)
    if card_id is None:
        return []
    headers = (
        f"Authorization: Bearer {running.api_key}",
        "Content-Type: application/json",
        f"Idempotency-Key: try-{card_id}",
    )
    options = " ".join(f"-H {shlex.quote(header)}" for header in headers)
    body = shlex.quote(json.dumps({"card_id": card_id}))
    return [Fact("Delete a card", (f"curl {options} -d {body} {web}/v1/deletions",))]


def _commands() -> tuple[str, ...]:
    """How the command is called from another terminal."""
    here = Path(sys.executable).parent
    if shutil.which("cardsync"):
        return ("cardsync --help",)
    return (f". {shlex.quote(str(here / 'activate'))}", "cardsync --help")


def _customer_with_card(running: Running) -> tuple[str, str]:
    """A customer who has a card, with an identifier that is easy to read if there is one."""
    world = running.simulator.world if running.simulator is not None else None
    for environment, customer_id in world.owners() if world is not None else ():
        if customer_id.isascii() and "-" in customer_id and world is not None and world.truth(environment, customer_id):
            return environment, customer_id
    return _any_with_card(running) or DEFAULT_CUSTOMER


def _any_with_card(running: Running) -> tuple[str, str] | None:
    """A customer who has a card in the registry; None if there is none, or the database does not answer."""
    row = _first(running, "SELECT environment, customer_id FROM registry.active_cards LIMIT 1")
    return None if row is None else (row.environment, row.customer_id)


def _guests_card(running: Running) -> str | None:
    """The guest's card, saved now unless there is one.

    None with a real Ottu, with a stand-in without cards (``--no-shoppers``), or if it is not known in time.
    """
    if running.simulator is None or not running.simulator.world.owners():
        return None
    if (card_id := _card_of_guest(running)) is not None:
        return card_id
    running.simulator.checkout().save_card(*GUEST)
    until = time.monotonic() + GUEST_SECONDS
    while (card_id := _card_of_guest(running)) is None and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
    return card_id


def _card_of_guest(running: Running) -> str | None:
    row = _first(
        running,
        "SELECT card_id FROM registry.active_cards WHERE environment = :environment AND customer_id = :customer_id LIMIT 1",
        environment=GUEST[0],
        customer_id=GUEST[1],
    )
    return None if row is None else str(row.card_id)


def _newest_card(running: Running) -> str | None:
    row = _first(running, "SELECT card_id FROM registry.active_cards ORDER BY first_seen_at DESC LIMIT 1")
    return None if row is None else str(row.card_id)


def _first(running: Running, query: str, **parameters: str) -> Any:
    """The first row of a query; None if there is none, or the database does not answer."""
    engine = db.make_engine(running.settings.database(), name="cardsync dev", pool_size=1)
    try:
        with engine.connect() as connection:
            return connection.execute(text(query), parameters).first()
    except SQLAlchemyError:
        return None
    finally:
        engine.dispose()


def _ottu(web: str, running: Running) -> tuple[str, ...]:
    if running.simulator is None:
        known = running.settings.ottu_base_url is not None or running.settings.ottu_merchant_id is not None
        where = running.settings.ottu_url if known else "yours"  # its address may be unset if no list is asked for
        return (f"{where}; let it send its notifications to", f"{web}/webhooks/ottu")
    return (
        f"a stand-in at {running.simulator.base_url}, not Ottu. It follows",
        "Ottu's documentation; its shoppers and cards are invented.",
        "For a real sandbox instance set OTTU_MERCHANT_ID,",
        "OTTU_API_KEY and OTTU_WEBHOOK_KEYS in .env.",
    )
