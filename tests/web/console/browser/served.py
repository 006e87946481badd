"""A console that a browser can open: served on a port of loopback, with the rights of its own login and example rows."""

from __future__ import annotations

import base64
import logging
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flask import Flask
from sqlalchemy import Engine, text
from werkzeug.serving import make_server

from cardsync import db
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.settings import Settings
from cardsync.store.console import operators
from cardsync.store.console.operators import Role
from cardsync.web.console import create_app
from cardsync.web.console.roles import ROUTES
from tests.logins import ProcessLogins
from tests.web.console.browser.example import Example, fill

_VARIES: Final = re.compile(r"<(?:\w+:)?(\w+)>")

# What the pages that are about one thing by its name are asked for.
_ASKED: Final = {"flows.replay_all": "?name=shop", "brake.release_all": "?asker=api:shop"}


@dataclass(frozen=True, slots=True)
class ServedConsole:
    """A console at ``base``."""

    base: str
    app: Flask
    owner: Engine
    example: Example

    def link(self, role: Role = "admin") -> str:
        """A link that signs in a new operator of that role, made as the command line makes it."""
        secret = operators.new_secret()
        with self.owner.begin() as connection:
            operators.invite(connection, f"Amal {uuid.uuid4().hex[:4]}", role, secret, by="cli:test")
        return f"{self.base}/sign-in/{base64.urlsafe_b64encode(secret).decode().rstrip('=')}"

    def paths(self) -> dict[str, str]:
        """The address of each page behind the sign-in, by its route's name, and of some that look otherwise in another state."""
        known = {
            "customer": self.example.customer,
            "card_id": self.example.card,
            "event_id": self.example.event,
            "erasure_id": self.example.erasure,
            **self._newest(),
        }
        found = {}
        for rule in self.app.url_map.iter_rules():
            if "GET" in (rule.methods or ()) and ROUTES[rule.endpoint].role is not None:
                path = _VARIES.sub(lambda part: str(known[part[1]]), rule.rule)
                found[rule.endpoint] = path + _ASKED.get(rule.endpoint, "")
        found["operations.show_one.failures"] = f"/operations/{self.example.operation}"
        found["deletions.show_one.held"] = f"/deletions/{self.example.held}"
        found["deletions.show.failed"] = "/deletions?state=failed"
        found["flows.show_deliveries.failed"] = "/deliveries?name=shop&status=failed"
        return found

    def _newest(self) -> dict[str, object]:
        """Ids of rows that tests made through the console, or of none: a page of nothing must be usable too."""
        return {
            "deletion_id": self._one("deletions", "deletion_id"),
            "operation_id": self._one("operations", "operation_id"),
        }

    def _one(self, table: str, column: str) -> object:
        with self.owner.connect() as connection:
            if connection.execute(text("SELECT to_regclass(:name)"), {"name": f"cardsync.{table}"}).scalar() is None:
                return uuid.UUID(int=1)
            found = connection.execute(text(f"SELECT {column} FROM cardsync.{table} LIMIT 1")).scalar()
        return found or uuid.UUID(int=1)


@contextmanager
def served_console(postgres: EmbeddedPostgres, logins: ProcessLogins, url: str, data: Path) -> Iterator[ServedConsole]:
    """Fill the database at ``url``, and serve its console until the block ends."""
    logging.getLogger("werkzeug").setLevel("ERROR")
    owner = db.make_engine(url)
    engine = db.make_engine(logins.url("console", url), pool_size=2, statement_timeout_ms=60_000, autocommit=True)
    example = fill(owner)
    server = make_server("127.0.0.1", 0, Flask("not yet"), threaded=True)
    base = f"http://127.0.0.1:{server.port}"
    app = create_app(Settings(database_url=url, data_dir=data, console_url=base), engine=engine)
    server.app = app
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="console")
    thread.start()
    try:
        yield ServedConsole(base, app, owner, example)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        engine.dispose()
        owner.dispose()
