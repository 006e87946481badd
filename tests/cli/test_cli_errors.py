"""How the command fails: one line, a status, never a traceback, never a secret; and how little --help costs."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from cardsync.cli import COMMANDS, main
from tests.cli.conftest import SECONDS


def test_help_names_every_command_and_imports_none():
    asked = (
        "import sys\n"
        "from cardsync.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "sys.exit(','.join(m for m in ('sqlalchemy', 'celery', 'pydantic', 'httpx', 'rich') if m in sys.modules) or None)"
    )
    result = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert result.stderr == ""
    assert result.returncode == 0
    for name, entry in COMMANDS.items():
        assert name in result.stdout
        assert entry.summary in " ".join(result.stdout.split())


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_can_be_loaded_and_says_what_it_does(name):
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.help


def test_the_version_is_the_package_s():
    result = CliRunner().invoke(main, ["--version"])
    assert result.stdout.startswith("cardsync 0.")


def test_an_unknown_command_is_wrong_usage():
    assert CliRunner().invoke(main, ["nonsense"]).exit_code == 2


def test_a_missing_setting_is_one_line_and_status_2():
    result = CliRunner().invoke(main, ["keys", "list"])
    assert result.exit_code == 2
    assert result.stderr.startswith("cardsync: CARDSYNC_DATABASE_URL is missing")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("url", "status", "says"),
    [
        ("postgresql://u:fake-password@127.0.0.1:1/x", 1, "does not answer"),
        ("postgresql://u:fake-password@127.0.0.1:nope/x", 2, "CARDSYNC_DATABASE_URL"),
        ("mysql://u:fake-password@127.0.0.1/x", 2, "CARDSYNC_DATABASE_URL"),
    ],
)
@pytest.mark.parametrize("command", [["keys", "list"], ["db", "upgrade"], ["brake", "show"]])
def test_a_database_out_of_reach_is_one_line_without_its_password(url, status, says, command, monkeypatch):
    monkeypatch.setenv("CARDSYNC_DATABASE_URL", url)
    result = CliRunner().invoke(main, command)
    assert result.exit_code == status
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert "fake-password" not in result.output


def test_a_real_process_ends_with_the_same_line_and_status(process, monkeypatch):
    monkeypatch.setenv("CARDSYNC_DATABASE_URL", "postgresql://u@127.0.0.1:1/x")
    result = process("events", "list")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("cardsync: the database does not answer")
    assert result.stderr.count("\n") == 1


def test_a_worker_without_settings_names_all_that_is_missing(nowhere):
    result = CliRunner().invoke(main, ["worker"])
    assert result.exit_code == 2
    for name in ("CARDSYNC_DATABASE_URL", "CARDSYNC_BROKER_URL", "CARDSYNC_SECRET_KEY", "OTTU_API_KEY"):
        assert name in result.stderr
