"""The command as users run it: in this process where it leaves no trace there, in one of its own elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from cardsync import db
from cardsync.cli import main
from cardsync.dev.simulator import Simulator
from tests import factories
from tests.stories.shop import Shop

COMMAND = (sys.executable, "-c", "from cardsync.cli import main; main(prog_name='cardsync')")
SECONDS = 300  # a deadline: a command takes a second or some, and many of them where a machine is busy

Runner = Callable[..., Result]
Process = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def patient(patience: None) -> None:
    """For every test of this room."""


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """No setting of this machine takes part."""
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith(("OTTU_", "CARDSYNC_", "PROMETHEUS_"))]:
        monkeypatch.delenv(name)
    # A broker that is only slow, on a machine that does much else, is not one that does not answer.
    monkeypatch.setattr("cardsync.cli.doctor.broker.BROKER_SECONDS", 60.0)


@pytest.fixture
def settings(nowhere, database_url: str, monkeypatch) -> None:
    """What a command needs of the database."""
    monkeypatch.setenv("CARDSYNC_DATABASE_URL", database_url)
    monkeypatch.setenv("CARDSYNC_SECRET_KEY", factories.SECRET.decode())


@pytest.fixture
def cardsync(settings) -> Runner:
    """Run the command in this process."""

    def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(main, arguments, input=stdin, prog_name="cardsync")

    return run


@pytest.fixture
def process(settings) -> Process:
    """Run the command in a process of its own."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=SECONDS, check=False)

    return run


@pytest.fixture
def shop(engine: Engine, database_url: str) -> Iterator[Shop]:
    """The stories, on the same database."""
    ingest = db.make_engine(database_url, autocommit=True)
    yield Shop(engine, ingest, engine, engine)
    ingest.dispose()


@pytest.fixture
def ottu(monkeypatch) -> Iterator[Simulator]:
    """A stand-in for Ottu, to which the settings point."""
    simulator = Simulator(api_key="fake-api-key").start()
    monkeypatch.setenv("OTTU_BASE_URL", simulator.base_url)
    monkeypatch.setenv("OTTU_API_KEY", simulator.api_key)
    monkeypatch.setenv("OTTU_TIMEOUT_S", "60")
    yield simulator
    simulator.stop()
