"""A PgBouncer of the test's own, before the tests' PostgreSQL, as merchants and hosting services run one."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Final, Literal

import psycopg
import pytest
from sqlalchemy import URL, make_url

from cardsync.dev.servers.ports import free_port
from tests.waiting import until

Mode = Literal["transaction", "session"]

PROGRAM: Final = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
POOL_SIZE: Final = 8  # sessions of PostgreSQL for one login: fewer than a process's own pool, so that they are shared


class PgBouncer:
    """``ignored`` are the parameters that it throws away in silence, as the usual advice for it says."""

    def __init__(self, folder: Path, database_url: str, users: list[URL], mode: Mode, *, ignored: str = "") -> None:
        if PROGRAM is None:
            reason = "no pgbouncer is installed (Debian: apt-get install pgbouncer)"
            if os.environ.get("CARDSYNC_REQUIRE_SERVICES") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
        self.port = free_port()
        self._target = make_url(database_url)
        folder.mkdir(mode=0o711)
        auth = folder / "users"
        auth.write_text("".join(f'"{user.username}" "{user.password}"\n' for user in users), encoding="utf-8")
        config = folder / "pgbouncer.ini"
        config.write_text(
            f"""[databases]
{self._target.database} = host={self._target.host} port={self._target.port} dbname={self._target.database}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {auth}
pool_mode = {mode}
default_pool_size = {POOL_SIZE if mode == "transaction" else 100}
max_client_conn = 500
ignore_startup_parameters = {ignored}
""",
            encoding="utf-8",
        )
        other = _ordinary_user() if os.getuid() == 0 else None
        for path in (folder, auth, config):
            if other is not None:
                os.chown(path, other.pw_uid, other.pw_gid)
        self._process = subprocess.Popen(
            [PROGRAM, *(("-u", other.pw_name) if other else ()), str(config)],
            stdout=subprocess.DEVNULL,
            stderr=(folder / "log").open("wb"),
        )
        until(lambda: self._answers(users[0]), "PgBouncer answers")

    def url(self, database_url: str) -> str:
        """The same address, through the pooler."""
        there = make_url(database_url).set(host="127.0.0.1", port=self.port)
        return there.render_as_string(hide_password=False)

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _answers(self, user: URL) -> bool:
        assert self._process.poll() is None, "PgBouncer ended"
        address = self._target.set(
            drivername="postgresql", host="127.0.0.1", port=self.port, username=user.username, password=user.password
        )
        try:
            psycopg.connect(address.render_as_string(hide_password=False), connect_timeout=20).close()
        except psycopg.OperationalError:
            return False
        return True


def _ordinary_user() -> pwd.struct_passwd:
    """PgBouncer refuses root."""
    return pwd.getpwnam("postgres" if any(user.pw_name == "postgres" for user in pwd.getpwall()) else "nobody")


def new_folder(parent: Path) -> Path:
    """A folder that another user can reach."""
    return parent / f"pgbouncer-{secrets.token_hex(4)}"
