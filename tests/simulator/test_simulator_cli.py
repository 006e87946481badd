"""The command ``cardsync simulator``, as a process of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading

import httpx
import pytest
from click.testing import CliRunner

from cardsync.cli.simulator import simulator
from cardsync.dev.simulator import Knobs

SECONDS = 120  # a deadline: only a bug takes so long
RUN = "from cardsync.cli.simulator import simulator; simulator()"


@pytest.fixture(autouse=True)
def _nowhere(tmp_path, monkeypatch):
    """No setting of this machine takes part."""
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith(("OTTU_", "CARDSYNC_"))]:
        monkeypatch.delenv(name)


def run(*arguments, **environment):
    return CliRunner().invoke(simulator, ["--port", "0", *arguments], env=environment)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_what_it_is_serves_and_stops_on_a_signal(number):
    command = [sys.executable, "-u", "-c", RUN, "--port", "0", "--rate", "50"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    killer = threading.Timer(SECONDS, process.kill)
    killer.start()
    try:
        first, _, url, key, *_ = (process.stdout.readline() for _ in range(7))
        assert "stand-in" in first
        base_url, api_key = url.strip().partition("=")[2], key.strip().partition("=")[2]
        answer = httpx.post(
            f"{base_url}/b/pbl/v2/card/",
            json={"type": "sandbox", "customer_id": "nobody"},
            headers={"Authorization": f"Api-Key {api_key}"},
            timeout=SECONDS,
        )
        assert (answer.status_code, answer.json()) == (200, [])
        event = process.stdout.readline()
        process.send_signal(number)
        rest = process.stdout.read()
        assert process.wait() == 0
    finally:
        killer.cancel()
        process.kill()
        process.wait()
    assert "saved a card" in event
    assert "1 list, 0 delete" in rest
    assert not re.search(r"9999\d{12}", event + rest)


def test_the_settings_keys_are_never_taken():
    result = run("--duration", "0.1", OTTU_API_KEY="fake-real-secret", OTTU_WEBHOOK_KEYS="fake-hook-one,fake-hook-two")
    assert re.search(r"OTTU_API_KEY=[0-9a-f]{32}\n", result.output)
    assert "fake-" not in result.output


def test_secrets_that_were_given_in_a_file_are_named_and_not_printed(tmp_path):
    file = tmp_path / "key"
    file.write_text("fake-api-secret\n")
    given = ("--api-key-file", str(file), "--webhook-key", "fake-hook")
    result = run("--duration", "0.1", *given)
    assert result.exit_code == 0
    assert "OTTU_API_KEY  as it was given" in result.output
    assert "OTTU_WEBHOOK_KEYS  as it was given" in result.output
    assert "fake-" not in result.output
    assert run("--duration", "0.1", *given, "--api-key", "fake-other").exit_code == 2
    file.write_text("")
    assert run("--duration", "0.1", "--api-key-file", str(file)).exit_code == 2


def test_secrets_that_are_made_up_are_printed():
    output = run("--duration", "0.1").output
    assert re.search(r"OTTU_API_KEY=[0-9a-f]{32}\n", output)
    assert re.search(r"OTTU_WEBHOOK_KEYS=[0-9a-f]{32}\n", output)


def test_there_is_an_option_for_each_knob():
    help_text = run("--help").output
    assert [n for n in Knobs.model_fields if f"--{n.replace('_', '-')}" not in help_text] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--page-size", "0"),
        ("--locked-status", "418"),
        ("--error-rate", "0.9", "--hang-rate", "0.9"),
        ("--webhook-url", "ftp://x"),
        ("--rate", "-1"),
    ],
)
def test_a_wrong_option_is_wrong_usage_in_one_line(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.output.splitlines()[-1].startswith("Error: ")


def test_a_taken_port_is_a_failure():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("--port", str(taken.getsockname()[1]))
    assert result.exit_code == 1
    assert "cannot listen" in result.output


def test_it_needs_neither_the_database_nor_the_broker():
    check = (
        "import sys, cardsync.dev.simulator\n"
        "taboo = ('sqlalchemy', 'celery', 'cardsync.store', 'cardsync.web')\n"
        "sys.exit(', '.join(m for m in sys.modules if m.startswith(taboo)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
