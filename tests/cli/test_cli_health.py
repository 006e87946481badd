"""``cardsync health``: unhealthy is what the database knows to stand still, and nothing else."""

from __future__ import annotations

import datetime as dt
import json
import os

import click
import httpx
import pytest
from click.testing import CliRunner
from sqlalchemy import text

from cardsync import settings
from cardsync.cli import health_port as port_options
from cardsync.dev.servers.ports import free_port
from cardsync.store import heartbeats
from workers.heart import this_process


@pytest.fixture
def worker(engine):
    """This process, as a worker that was at work just now."""
    process = this_process("worker")
    with engine.begin() as connection:
        heartbeats.beat(connection, process, here=dt.datetime.now(dt.UTC))
    return process


def test_a_worker_at_work_is_healthy(cardsync, worker):
    assert cardsync("health", "worker").exit_code == 0
    assert cardsync("health", "worker", "--pid", str(os.getpid())).exit_code == 0
    assert json.loads(cardsync("health", "worker", "--json").stdout)["healthy"] is True


def test_a_worker_that_stands_still_or_is_on_another_host_is_not(cardsync, worker, engine):
    assert cardsync("health", "beat").exit_code == 1
    assert cardsync("health", "worker", "--pid", str(os.getpid() + 1)).exit_code == 1
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.heartbeats SET at = at - interval '31 s'"))
    result = cardsync("health", "worker")
    assert (result.exit_code, "31 s old" in result.stderr) == (1, True)
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.heartbeats SET at = clock_timestamp(), host = 'another.example'"))
    assert cardsync("health", "worker").exit_code == 1


def test_a_wrong_clock_is_told_and_makes_no_process_be_started_again(cardsync, worker, engine):
    assert "clock" not in cardsync("health", "worker").stdout
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.heartbeats SET clock_ahead_seconds = -60"))
    result = cardsync("health", "worker")
    assert (result.exit_code, "this host's clock differs by -60 s" in result.stdout) == (0, True)


def test_a_database_that_is_away_makes_nothing_unhealthy(cardsync, monkeypatch):
    monkeypatch.setenv("CARDSYNC_DATABASE_URL", "postgresql://nobody:fake@127.0.0.1:1/none")
    result = cardsync("health", "worker")
    assert (result.exit_code, result.stdout[:8]) == (0, "unknown:")


def test_the_health_port_listens_at_the_address_that_it_is_given_and_at_no_other(cardsync, tmp_path):
    asked = []

    @click.command()
    @port_options.options
    def served(health_host, health_port):
        with port_options.served(settings.load("database"), "console", host=health_host, port=health_port):
            for host in ("127.0.0.1", "127.0.0.2"):
                try:
                    asked.append(
                        httpx.get(f"http://{host}:{health_port}/livez", trust_env=False, timeout=60).status_code
                    )
                except httpx.ConnectError:
                    asked.append(None)

    port = str(free_port())
    for options in ((), ("--health-host", "127.0.0.2")):
        done = CliRunner().invoke(served, ["--health-port", port, *options], env={"CARDSYNC_DATA_DIR": str(tmp_path)})
        assert done.exit_code == 0, done.output
    assert asked == [200, None, None, 200]


@pytest.mark.parametrize("kind", ["worker", "beat", "console"])
def test_each_process_with_a_health_port_takes_its_address(cardsync, monkeypatch, tmp_path, kind):
    for name, value in {
        "CARDSYNC_BROKER_URL": "redis://127.0.0.1:1/0",
        "CARDSYNC_DATA_DIR": str(tmp_path),
        "OTTU_BASE_URL": "http://127.0.0.1:1",
        "OTTU_API_KEY": "fake",
    }.items():
        monkeypatch.setenv(name, value)
    given = []

    def served(_, kind, *, host, port):
        given.append((kind, host, port))
        raise click.exceptions.Exit(0)

    monkeypatch.setattr(port_options, "served", served)
    assert cardsync(kind, "--health-host", "127.0.0.2", "--health-port", "4711").exit_code == 0
    assert cardsync(kind, "--health-port", "4711").exit_code == 0
    assert given == [(kind, "127.0.0.2", 4711), (kind, "127.0.0.1", 4711)]
