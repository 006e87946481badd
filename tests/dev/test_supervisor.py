"""``cardsync dev`` as a whole: real processes in a fresh directory, told to stop, killed, and started again.

Rules: a folder of its own for each run, with a space in its name; every wait is for a condition, with a deadline.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from cardsync.dev.live.welcome import GUEST
from cardsync.dev.run.child import end_leftovers
from cardsync.dev.run.directory import SECRETS_FILE
from cardsync.dev.run.reset import remove_data
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.dev.servers.valkey import EmbeddedValkey
from cardsync.setting_sources import DEV_FILE, DEV_LOCK
from tests.waiting import until

# Deadlines for a machine that is busy, no claims.
START_SECONDS = 240
STOP_SECONDS = 180
LIVE_SECONDS = 180
ANSWER_SECONDS = 60
RUNS = "cardsync runs"
LOGINS = {
    ("cardsync web", "cardsync_web_process"),
    ("cardsync webhook", "cardsync_web_process"),
    ("cardsync worker", "cardsync_worker_process"),
    ("cardsync beat", "cardsync_worker_process"),
}


class Dev:
    """One ``cardsync dev``, its output in a file."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.data = folder / ".cardsync"
        self._output = folder / f"output-{time.monotonic_ns()}"
        environment = {n: v for n, v in os.environ.items() if not n.startswith(("CARDSYNC_", "OTTU_", "PROMETHEUS_"))}
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cardsync", "dev", "--rate", "5", *options],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def output(self) -> str:
        return self._output.read_text(encoding="utf-8")

    def wait_for(self, text: str, seconds: float = START_SECONDS) -> str:
        """Wait until a line matches ``text``; return the match."""
        until(
            lambda: re.search(text, self.output) or self.process.poll() is not None, f"it says {text}", seconds=seconds
        )
        found = re.search(text, self.output)
        assert found is not None, self.output
        return found.group(found.re.groups and 1)

    def started(self) -> Dev:
        self.wait_for(RUNS)
        return self

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)


def processes_of(data: Path) -> list[str]:
    """What runs for that data directory, whatever it is called."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and str(data) in " ".join([*process.cmdline(), process.cwd()]):
                found.append(" ".join(process.cmdline()))
    return found


def tokens_in(state: Path) -> list[str]:
    """The tokens that the stand-in for Ottu has kept, which it does every second."""
    return [card["token"] for card in json.loads(state.read_text())["world"]["cards"]] if state.exists() else []


def end_everything(folder: Path) -> None:
    """End what a killed one left, embedded servers and their data included."""
    end_leftovers(folder / ".cardsync")
    servers = EmbeddedPostgres(folder / ".cardsync" / "postgres"), EmbeddedValkey(folder / ".cardsync" / "valkey")
    for server in servers:
        if server.directory.exists():
            server.remove()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "a folder"
    made.mkdir()
    yield made
    end_everything(made)


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Dev]]:
    """Start one in the folder; whatever still runs at the end is killed."""
    started: list[Dev] = []

    def begin(*options: str) -> Dev:
        started.append(Dev(folder, *options))
        return started[-1]

    yield begin
    for dev in started:
        dev.process.kill()
        dev.process.wait()


@pytest.fixture(scope="module")
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        yield owner.getsockname()[1]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, taken_port: int) -> Iterator[Dev]:
    """One that runs, for the tests that look at it; the last of them stops it."""
    folder = tmp_path_factory.mktemp("running")
    dev = Dev(folder, "--port", str(taken_port))
    yield dev
    dev.process.kill()
    dev.process.wait()
    end_everything(folder)


def test_a_first_start_a_stop_and_a_second_start_that_finds_the_data(start: Callable[..., Dev]) -> None:
    first = start().started()
    took = first.wait_for(r"saved a card → hint accepted → card active, (\d+(?:\.\d+)? m?s)", LIVE_SECONDS)
    assert took
    url, key = first.wait_for(r"(http://127\.0\.0\.1:\d+)\n"), first.wait_for(r"Bearer (cs_live_\S{43})")
    assert httpx.get(f"{url}/docs", timeout=ANSWER_SECONDS).status_code == 200
    assert _ask(first.wait_for(r"'(http://\S+/v1/cards\?\S+)'"), key)["cards"]
    example = first.wait_for(r"(curl .*/v1/deletions)\n")
    card = _ask(f"{url}/v1/cards/{json.loads(shlex.split(example)[-2])['card_id']}", key)
    assert (card["environment"], card["customer_id"]) == GUEST  # of a shopper's card an agreement may be made meanwhile
    asked = _run_curl(example)
    assert (asked.status_code, asked.json()["status"]) == (202, "pending"), asked.text
    until(lambda: _ask(f"{url}{asked.headers['Location']}", key).get("status") == "done", "the deletion is done")
    database = json.loads((first.data / DEV_FILE).read_text())["settings"]["database_url"]
    with psycopg.connect(database, autocommit=True) as connection:
        assert connection.execute(first.wait_for(r"(select .* from registry\.cards.*);")).fetchall()
        cards = _count_cards(database)
        sessions = "SELECT application_name, usename FROM pg_stat_activity WHERE application_name = ANY(%s)"
        until(
            lambda: {*connection.execute(sessions, [[*dict(LOGINS)]]).fetchall()} == LOGINS,
            "each process has a session, with its own login alone",
        )

    assert first.end(signal.SIGINT) == 0
    assert "Stopped; the data stays." in first.output
    assert processes_of(first.data) == []
    assert not (first.data / DEV_FILE).exists()
    assert "Traceback" not in first.output

    second = start("--no-shoppers").started()
    again = json.loads(shlex.split(second.wait_for(r"(curl .*/v1/deletions)\n"))[-2])["card_id"]
    assert again != card["card_id"]
    assert second.wait_for(r"Bearer (cs_live_\S{43})") == key
    assert _count_cards(json.loads((second.data / DEV_FILE).read_text())["settings"]["database_url"]) >= cards
    assert second.end(signal.SIGTERM) == 0
    assert processes_of(second.data) == []


def test_one_that_was_killed_takes_its_processes_along_and_the_next_start_recovers(start: Callable[..., Dev]) -> None:
    killed = start().started()
    url = killed.wait_for(r"(http://127\.0\.0\.1:\d+)\n")
    killed.end(signal.SIGKILL)
    # Not waited for: a next start comes at once, and finds what is left.
    again = start().started()
    assert again.wait_for(r"(http://127\.0\.0\.1:\d+)\n") == url
    again.wait_for(r"hint accepted → card active", LIVE_SECONDS)

    again.end(signal.SIGKILL)
    until(lambda: not any("cardsync.dev.run.tethered" in p for p in processes_of(again.data)), "its processes end")


def test_a_taken_port_is_left_to_its_owner(running: Dev, taken_port: int) -> None:
    assert int(running.started().wait_for(rf"Port {taken_port} is taken, so web is at (\d+)\.")) > taken_port


def test_a_second_one_in_the_same_directory_gets_one_line(running: Dev) -> None:
    second = Dev(running.started().data.parent)
    assert second.process.wait(START_SECONDS) == 1
    (line,) = second.output.splitlines()
    holder = running.process.pid
    assert line == f"cardsync: `cardsync dev` already runs in {running.data.resolve()} (process {holder})"


def test_the_link_that_it_prints_signs_in_to_the_console_and_does_so_once(running: Dev) -> None:
    link = running.started().wait_for(r"(http://127\.0\.0\.1:\d+/sign-in/\S+)\n +signs you in, once")
    base = link.partition("/sign-in/")[0]
    given = {"base_url": base, "timeout": ANSWER_SECONDS, "trust_env": False}
    with httpx.Client(**given) as person, httpx.Client(**given) as other:
        assert other.get("/").headers["location"] == "/sign-in"
        assert person.get(link).status_code == 200
        page = person.get("/")
        assert (page.status_code, "What needs a person" in page.text) == (200, True)
        assert person.get("/access").status_code == 200  # as an admin
        assert other.get(link).status_code != 200
        assert other.get("/").headers["location"] == "/sign-in"
        assert person.get("/").status_code == 200


def test_what_it_says_at_its_start_fits_eighty_columns_but_for_what_is_pasted(running: Dev) -> None:
    running.started().wait_for("makes a card active")
    lines = running.output.partition("makes a card active")[0].splitlines()
    pasted = ("PGPASSFILE=", "select ", "curl ", "/sign-in/", str(running.data.parent.resolve()))
    prose = [line for line in lines if not any(text in line for text in pasted)]
    assert len(prose) > 10
    assert [line for line in prose if len(line) > 80] == []


def test_secrets_are_kept_to_their_owner_and_never_told(running: Dev) -> None:
    running.started().wait_for("card active", LIVE_SECONDS)
    tokens = until(lambda: tokens_in(running.data / "simulator.json"), "the stand-in has kept its cards")
    for name in (SECRETS_FILE, DEV_FILE, "pgpass", "simulator.json"):
        assert stat.S_IMODE((running.data / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(running.data.stat().st_mode) == 0o700
    secrets = [v for n, v in json.loads((running.data / SECRETS_FILE).read_text()).items() if n != "api_key"]
    assert running.end(signal.SIGTERM) == 0
    assert processes_of(running.data) == []
    told = running.output + "".join(log.read_text() for log in (running.data / "logs").iterdir())
    assert not any(secret in told for secret in [*secrets, *tokens])


@pytest.mark.parametrize(
    ("name", "log", "is_it"),
    [
        ("worker", "logs/worker.log", lambda command: command[-1] == "worker"),
        ("PostgreSQL", "postgres/server.log", lambda command: command[0].endswith("/postgres")),
        ("Valkey", "valkey/server.log", lambda command: "valkey-server" in command[0]),
    ],
)
def test_a_part_that_dies_ends_all_with_its_reason(
    start: Callable[..., Dev], name: str, log: str, is_it: Callable[[list[str]], bool]
) -> None:
    dev = start("--no-shoppers").started()
    (part,) = [p for p in psutil.Process(dev.process.pid).children() if is_it(p.cmdline())]
    part.kill()
    assert dev.process.wait(LIVE_SECONDS) == 1
    (reason,) = [line for line in dev.output.splitlines() if line.startswith("cardsync: ")]
    assert reason == f"cardsync: {name} was ended by SIGKILL. Its log, {dev.data.resolve() / log}, ends:"
    assert re.search(rf"{re.escape(reason)}\n(    .*\S.*\n){{1,6}}\Z", dev.output), dev.output
    assert "Traceback" not in dev.output
    assert not (dev.data / DEV_FILE).exists()
    assert processes_of(dev.data) == []


def test_one_that_is_stopped_while_it_starts_leaves_nothing(start: Callable[..., Dev]) -> None:
    dev = start("--no-shoppers")
    dev.wait_for("PostgreSQL runs")
    assert dev.end(signal.SIGINT) == 0
    assert RUNS not in dev.output
    assert processes_of(dev.data) == []


def test_an_ottu_of_ones_own_that_is_half_set_is_refused_in_one_line(folder: Path, start: Callable[..., Dev]) -> None:
    (folder / ".env").write_text("OTTU_MERCHANT_ID=acme.ottu.net\n")
    dev = start()
    assert dev.process.wait(START_SECONDS) == 2
    (line,) = dev.output.splitlines()
    assert "OTTU_WEBHOOK_KEYS is missing" in line
    assert "OTTU_API_KEY is missing" in line
    assert not (dev.data / "postgres").exists()


def test_data_of_the_stand_in_is_refused_beside_a_real_ottu_and_reset_removes_it(
    folder: Path, start: Callable[..., Dev]
) -> None:
    first = start().started()
    first.wait_for(r"card active", LIVE_SECONDS)
    first.end(signal.SIGTERM)
    (folder / ".env").write_text(
        "OTTU_BASE_URL=http://127.0.0.1:9\nOTTU_API_KEY=fake\nOTTU_WEBHOOK_KEYS=a-key-of-the-tests\n"
    )
    refused = start()
    assert refused.process.wait(START_SECONDS) == 1
    (line,) = refused.output.splitlines()
    assert "is of the stand-in for Ottu, and now Ottu is http://127.0.0.1:9" in line
    assert "CARDSYNC_DATA_DIR" in line
    assert "--reset" in line

    (folder / ".cardsync" / "mine.txt").write_text("not of cardsync")
    anew = start("--reset").started()
    assert "The data of earlier runs" in anew.output
    database = json.loads((anew.data / DEV_FILE).read_text())["settings"]["database_url"]
    assert _count_cards(database) == 0
    assert (folder / ".cardsync" / "mine.txt").exists()
    assert anew.end(signal.SIGTERM) == 0
    (folder / ".env").unlink()
    back = start()
    assert back.process.wait(START_SECONDS) == 1
    assert "is of http://127.0.0.1:9, and now Ottu is the stand-in for Ottu" in back.output

    # Nothing of a run is left over, or the next one would take it for its own: hints that wait for a database that is gone.
    remove_data(back.data)
    assert sorted(path.name for path in back.data.iterdir()) == [DEV_LOCK, "mine.txt"]


def _run_curl(command: str) -> httpx.Response:
    """What a shown command asks for, without the program that it names."""
    words = shlex.split(command)
    headers = dict(words[n + 1].split(": ", 1) for n, word in enumerate(words) if word == "-H")
    content = words[words.index("-d") + 1]
    return httpx.post(words[-1], headers=headers, content=content, timeout=ANSWER_SECONDS, trust_env=False)


def _ask(url: str, key: str) -> dict[str, object]:
    answer = httpx.get(url, headers={"Authorization": f"Bearer {key}"}, timeout=ANSWER_SECONDS)
    content: dict[str, object] = answer.json()
    return content


def _count_cards(database_url: str) -> int:
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT count(*) FROM registry.cards").fetchone()
    assert row is not None
    return int(row[0])
