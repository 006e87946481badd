"""Logins for tests: those of the processes, with the rights that the code has in a deployment, and those of services."""

from __future__ import annotations

import secrets
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import URL, make_url

from cardsync import db
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.store.access import logins, privileges

PROCESSES = {"web": privileges.WEB, "worker": privileges.WORKER, "console": privileges.CONSOLE}


class ProcessLogins:
    """A login for the web, one for worker and beat, and one for the console, on one server, for all its databases."""

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


class ServiceLogins:
    """Logins of strangers, made on a server and dropped again, with their open sessions."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self._owner = psycopg.connect(url, autocommit=True)
        self._sessions: list[psycopg.Connection[Any]] = []
        self._names: list[str] = []

    def login(self, role: str | None = None) -> str:
        """Make a login, by hand a member of ``role`` if one is named."""
        name = f"{role or 'login'}_{secrets.token_hex(4)}"
        member = sql.SQL(" IN ROLE {}").format(sql.Identifier(f"cardsync_{role}")) if role else sql.SQL("")
        self._owner.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'fake'{}").format(sql.Identifier(name), member))
        self._names.append(name)
        return name

    def address(self, name: str) -> URL:
        """Where that login comes in."""
        return self._url.set(username=name, password="fake")

    def connect(self, name: str, *, autocommit: bool = True) -> psycopg.Connection[Any]:
        """Open a session of it."""
        plain = self.address(name).render_as_string(hide_password=False)
        made: psycopg.Connection[Any] = psycopg.connect(plain, autocommit=autocommit)
        self._sessions.append(made)
        return made

    def close(self) -> None:
        """End the sessions, and drop the logins."""
        for session in self._sessions:
            session.close()
        for name in self._names:
            self._owner.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
            self._owner.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
        self._owner.close()
