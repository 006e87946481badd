"""What many tests stand on: a real PostgreSQL, a real broker, a database of their own with committed rows.

Rules: every server is ours, started for this run out of a temporary folder and removed at its end; what a
killed run left behind is removed at the start of the next. RabbitMQ alone is not embedded: without one, its
tests are skipped and say why.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import psutil
import psycopg
import pytest
import structlog
from kombu.connection import Connection
from kombu.exceptions import OperationalError
from psycopg import sql
from sqlalchemy import Engine

from cardsync.dev.servers.errors import DirectoryInUse
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.dev.servers.valkey import EmbeddedValkey
from tests.logins import ProcessLogins

TESTS: Final = Path(__file__).resolve().parent
RABBITMQ_URL = "amqp://guest:guest@127.0.0.1:5672//"
RABBITMQ_SECONDS = 60  # a deadline: where there is none, its port refuses at once
MEMORY_BYTES = 4 * 2**30


@pytest.fixture(autouse=True)
def logs_as_they_were(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test sets up of the log ends with it, commands that are run in this process included.

    A process keeps each logger as its first line found it. In the tests that hid every later line of that logger from
    ``capture_logs``, depending on which file ran before on the same worker.
    """
    configure = structlog.configure

    def configure_without_keeping(**setup: Any) -> None:
        configure(**{**setup, "cache_logger_on_first_use": False})

    monkeypatch.setattr(structlog, "configure", configure_without_keeping)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def services() -> Iterator[Path]:
    """The folder of this run's servers."""
    prefix, parent = f"cardsync-tests-{os.getuid()}-", _fastest_parent()
    for old in parent.glob(f"{prefix}*-*"):
        run = old.name.removeprefix(prefix).partition("-")[0]
        with contextlib.suppress(FileNotFoundError):  # another run ends, and removes its own, at this moment
            if old.lstat().st_uid == os.getuid() and run.isdecimal() and not psutil.pid_exists(int(run)):
                _remove_leftovers(old)
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=parent))
    folder.chmod(0o711)  # run by root, PostgreSQL is another user, and must get through to its own folder
    yield folder
    _remove_leftovers(folder)


@pytest.fixture(scope="session")
def postgres(services: Path) -> Iterator[EmbeddedPostgres]:
    """One PostgreSQL for the whole run; a test that pauses or kills it must leave it running."""
    server = EmbeddedPostgres(services / "postgres", durable=False)
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def template_database(postgres: EmbeddedPostgres) -> str:
    """The name of a database with the schema and no rows, to which nobody is connected."""
    from cardsync import db

    postgres.create_database("template_cardsync")
    db.upgrade(postgres.url_for("template_cardsync"))
    return "template_cardsync"


@pytest.fixture(scope="session")
def logins(postgres: EmbeddedPostgres, template_database: str) -> ProcessLogins:
    """The processes' logins, which have their rights in every database made from the template."""
    return ProcessLogins(postgres)


@pytest.fixture
def web_engine(database_url: str, logins: ProcessLogins) -> Iterator[Engine]:
    """An engine with the rights of the web."""
    from cardsync import db

    made = db.make_engine(logins.url("web", database_url))
    yield made
    made.dispose()


@pytest.fixture
def ingest_engine(database_url: str, logins: ProcessLogins) -> Iterator[Engine]:
    """The web's engine for webhooks, which commits each statement by itself."""
    from cardsync import db

    made = db.make_engine(logins.url("web", database_url), autocommit=True)
    yield made
    made.dispose()


@pytest.fixture
def worker_engine(database_url: str, logins: ProcessLogins) -> Iterator[Engine]:
    """An engine with the rights of worker and beat."""
    from cardsync import db

    made = db.make_engine(logins.url("worker", database_url))
    yield made
    made.dispose()


@pytest.fixture
def database_defaults() -> Mapping[str, str]:
    """What ``ALTER DATABASE ... SET`` gives the test's own database; tests/unusual has all of it otherwise."""
    return {}


@pytest.fixture
def database_url(
    postgres: EmbeddedPostgres, template_database: str, database_defaults: Mapping[str, str]
) -> Iterator[str]:
    """A database of the test's own: its rows are truly committed, and seen by every process."""
    name = f"test_{secrets.token_hex(6)}"
    postgres.create_database(name, template=template_database)
    set_database_defaults(postgres, name, database_defaults)
    yield postgres.url_for(name)
    postgres.drop_database(name)


def set_database_defaults(postgres: EmbeddedPostgres, name: str, defaults: Mapping[str, str]) -> None:
    """Give every later session of that database these defaults."""
    if not defaults:
        return
    with psycopg.connect(postgres.url, autocommit=True) as owner:
        for setting, value in defaults.items():
            owner.execute(
                sql.SQL("ALTER DATABASE {} SET {} = {}").format(
                    sql.Identifier(name), sql.Identifier(setting), sql.Literal(value)
                )
            )


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on the test's own database, made as the product makes it."""
    from cardsync import db

    made = db.make_engine(database_url)
    yield made
    made.dispose()


@pytest.fixture
def bound_factories(engine: Engine) -> Iterator[None]:
    """The factories make their rows in the test's own database."""
    from tests import factories

    factories.bind(engine)
    yield
    factories.unbind()


@pytest.fixture(scope="session")
def valkey(services: Path) -> Iterator[EmbeddedValkey]:
    """One Valkey for the whole run; who needs it empty calls ``flush``."""
    server = EmbeddedValkey(services / "valkey")
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def rabbitmq_url() -> str:
    """The address of a RabbitMQ that answers; without one a skip, or a failure where it is required."""
    url = os.environ.get("CARDSYNC_TEST_RABBITMQ_URL", RABBITMQ_URL)
    try:
        with Connection(url, connect_timeout=RABBITMQ_SECONDS) as connection:  # type: ignore[no-untyped-call]
            connection.ensure_connection(max_retries=1, timeout=RABBITMQ_SECONDS)
    except (OSError, OperationalError) as error:
        reason = f"no RabbitMQ answers ({type(error).__name__}); CARDSYNC_TEST_RABBITMQ_URL may name one"
        if os.environ.get("CARDSYNC_REQUIRE_SERVICES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return url


def _fastest_parent() -> Path:
    """Memory if there is enough of it, else the disk: a database of its own for each test is three hundred new files."""
    memory = Path("/dev/shm")  # noqa: S108  (the folder made in it is private)
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > MEMORY_BYTES:
        return memory
    return Path(tempfile.gettempdir())


def _remove_leftovers(folder: Path) -> None:
    """Remove a run's folder and whatever servers it left; their data may lie elsewhere."""
    with contextlib.suppress(DirectoryInUse):
        for server in (EmbeddedPostgres(folder / "postgres"), EmbeddedValkey(folder / "valkey")):
            if server.directory.exists():
                server.remove()
        shutil.rmtree(folder, ignore_errors=True)


def pytest_configure(config: pytest.Config) -> None:
    """With ``CARDSYNC_REQUIRE_SERVICES=1`` (in CI) no test may stand aside: a skip fails, with its reason."""
    if os.environ.get("CARDSYNC_REQUIRE_SERVICES") == "1":
        config.pluginmanager.register(SkipsAreFailures())


# Files of a few long tests begin first, so that the last minutes of a run are not one such file on one core. A file stays on one
# worker, and xdist's own order by the number of tests would put these last.
LONG_FIRST: Final = ("project/test_benchmarks.py", "e2e", "machine", "dev", "fuzz", "soak", "hostile", "project", "web")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of long tests first; the order within a room stays."""
    items.sort(key=lambda item: _place(item.path.relative_to(TESTS).as_posix()))


def _place(path: str) -> int:
    return next((at for at, name in enumerate(LONG_FIRST) if path.startswith(name)), len(LONG_FIRST))


class SkipsAreFailures:
    """Turns every skip, of a test or of a whole file, into a failure; expected failures stay what they are."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        return _refuse_skip((yield))

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        return _refuse_skip((yield))


Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def _refuse_skip(report: Report) -> Report:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"skipped where every test must run: {reason}"
    return report
