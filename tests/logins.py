"""The logins of the processes, for tests that run the code with the rights it has in a deployment."""

from __future__ import annotations

import secrets

from sqlalchemy import URL, make_url

from cardsync import db
from cardsync.dev.postgres import EmbeddedPostgres
from cardsync.store import logins, privileges

PROCESSES = {"web": privileges.WEB, "worker": privileges.WORKER}


class ProcessLogins:
    """A login for the web and one for worker and beat, on one server, for all its databases."""

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self._urls: dict[str, URL] = {}
        engine = db.make_engine(postgres.url)
        with engine.begin() as connection:
            for process, role in PROCESSES.items():
                url = make_url(postgres.url).set(
                    username=f"{process}_login_{secrets.token_hex(3)}", password=secrets.token_hex(16)
                )
                logins.ensure(connection, url, role)
                self._urls[process] = url
        engine.dispose()

    def url(self, process: str, database_url: str) -> str:
        """The address of that database for a process."""
        login = self._urls[process]
        mine = make_url(database_url).set(username=login.username, password=login.password)
        return mine.render_as_string(hide_password=False)

    def password(self, process: str) -> str:
        """The password, which nothing may show."""
        return str(self._urls[process].password)
