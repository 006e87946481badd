"""The page on an installation without containers is followed, block by block, and a card becomes active at its end.

What a build machine lacks is stood in for: systemd (its units are read here, and their commands run as it would run them), the
package manager, and the rights to change ``/etc``, whose place another folder takes. PostgreSQL, RabbitMQ and the processes are
real.
"""

from __future__ import annotations

import configparser
import contextlib
import re
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import psycopg
import pytest

from cardsync.dev.servers.ports import free_port
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.dev.simulator import Simulator
from tests.e2e.processes import Process
from tests.e2e.system import START_SECONDS
from tests.waiting import until

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "deployment" / "systemd.md"
UNITS: Final = ("worker", "beat", "web")
BLOCK: Final = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STEPS: Final = ("4.", "5.", "6.")  # what may be run on a machine that is not ours alone


def step(number: str) -> str:
    """The commands of one chapter of the page."""
    chapter = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return "\n".join(BLOCK.findall(next(c for c in chapter if c.startswith(number))))


def unit(name: str) -> configparser.ConfigParser:
    """A unit; options that are given several times are joined by line breaks."""
    read = configparser.ConfigParser(strict=False, interpolation=None, dict_type=dict)
    read.optionxform = str  # type: ignore[assignment, method-assign]
    given: dict[str, list[str]] = {}
    section = ""
    for line in (ROOT / "deploy" / "systemd" / f"cardsync-{name}.service").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif "=" in line and not line.startswith("#"):
            option, _, value = line.partition("=")
            given.setdefault(f"{section}.{option}", []).append(value)
    read.read_dict({"unit": {option: "\n".join(values) for option, values in given.items()}})
    return read


class Installation:
    """Where the page's paths lead to in this test."""

    def __init__(self, folder: Path, postgres: EmbeddedPostgres) -> None:
        self.folder, self.postgres = folder, postgres
        self.name = (
            f"cardsync_{secrets.token_hex(4)}"  # of the virtual host and the user in a broker that others may use
        )
        self.port = free_port()
        self.simulator = Simulator(webhook_url=f"http://127.0.0.1:{self.port}/webhooks/ottu", port=free_port()).start()
        self.processes: list[Process] = []
        (folder / "etc/cardsync/secrets").mkdir(parents=True)
        (folder / "var/lib/cardsync").mkdir(parents=True)
        (folder / "bin").mkdir()
        database = psycopg.conninfo.conninfo_to_dict(postgres.url_for("postgres"))
        self.server = f"{database['host']}:{database['port']}"
        self._stand_in("runuser", f'shift 3; PGUSER={database["user"]} PGPASSWORD={database["password"]} exec "$@"')
        programs = postgres.bin_dir
        for program in ("psql", "createdb"):
            found = shutil.which(program) or str(programs / program)
            options = f"--host {database['host']} --port {database['port']}"
            rest = "--dbname postgres" if program == "psql" else "--maintenance-db postgres"
            self._stand_in(program, f'exec {found} {options} {rest} "$@"')

    def _stand_in(self, name: str, script: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    def here(self, text: str) -> str:
        """The page's text, with the places of this test."""
        for page, ours in (
            ("/etc/cardsync", f"{self.folder}/etc/cardsync"),
            ("/var/lib/cardsync", f"{self.folder}/var/lib/cardsync"),
            ("/opt/cardsync/bin/", f"{ROOT}/.venv/bin/"),
            ("@127.0.0.1/cardsync", f"@{self.server}/cardsync"),
            ("amqp://cardsync:%s@127.0.0.1:5672/cardsync", f"amqp://{self.name}:%s@127.0.0.1:5672/{self.name}"),
            ("add_vhost cardsync", f"add_vhost {self.name}"),
            ("add_user cardsync", f"add_user {self.name}"),
            ("--vhost cardsync cardsync", f"--vhost {self.name} {self.name}"),
        ):
            text = text.replace(page, ours)
        return text

    def follow(self, number: str) -> None:
        """Run a chapter's commands as they stand there."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.here(step(number))],
            cwd=ROOT,
            env={"PATH": f"{self.folder}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.folder)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"chapter {number}\n{done.stdout}{done.stderr}"

    def start(self, name: str) -> None:
        """Start a unit's command with its environment and its credentials, as systemd does."""
        options = unit(name)["unit"]
        credentials = self.folder / "credentials" / name
        credentials.mkdir(parents=True)
        for line in options["Service.LoadCredential"].splitlines():
            credential, _, path = line.partition(":")
            shutil.copyfile(self.here(path), credentials / credential)
        given = dict(
            line.split("=", 1) for line in Path(self.here("/etc/cardsync/settings")).read_text().splitlines() if line
        )
        for line in options["Service.Environment"].splitlines():
            setting, _, value = line.partition("=")
            given[setting] = self.here(value.replace("%d", str(credentials)))
        arguments = shlex.split(options["Service.ExecStart"])[1:]
        if name == "web":
            arguments[arguments.index("--port") + 1] = str(self.port)
        self.processes.append(Process(self.folder, name, arguments, given).start())

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        self.simulator.stop()
        for command in (["delete_user", self.name], ["delete_vhost", self.name]):
            subprocess.run(["/usr/sbin/rabbitmqctl", *command], capture_output=True, check=False)


@pytest.fixture
def installation(tmp_path: Path, services: Path, rabbitmq_url: str) -> Iterator[Installation]:
    assert rabbitmq_url  # without one this test stands aside
    server = EmbeddedPostgres(services / f"installation-{secrets.token_hex(4)}", durable=False)
    server.start()
    server.drop_database("cardsync")  # ours makes one of that name; a new PostgreSQL has none
    made = Installation(tmp_path, server)
    yield made
    made.close()
    server.remove()


def test_who_follows_the_page_has_an_active_card_at_its_end(installation: Installation) -> None:
    for number in STEPS:
        if number == "6.":  # what the page says Ottu gives
            secrets_folder = installation.folder / "etc/cardsync/secrets"
            (secrets_folder / "ottu_api_key").write_text(installation.simulator.api_key)
            (secrets_folder / "ottu_webhook_keys").write_text(installation.simulator.webhook_key)
            with Path(installation.here("/etc/cardsync/settings")).open("a") as file:
                file.write(f"OTTU_BASE_URL={installation.simulator.base_url}\n")
        installation.follow(number)
    for name in UNITS:
        installation.start(name)
    url = f"http://127.0.0.1:{installation.port}"

    def ready() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{url}/readyz", trust_env=False, timeout=30).status_code == 200
        return False

    until(ready, "the web is ready", seconds=START_SECONDS)
    installation.simulator.checkout().save_card("sandbox", "first-customer")
    with psycopg.connect(installation.postgres.url_for("cardsync")) as owner:
        until(
            lambda: owner.execute("SELECT count(*) FROM registry.active_cards").fetchone() == (1,),
            "the card is active",
        )


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_hands_its_process_the_secrets_of_the_page_and_no_others(name: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|([^|]*)\|([^|]*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    column = {"web": 1, "worker": 2, "beat": 3}[name]
    wanted = {row[0] for row in rows if row[column].strip() == "yes"}
    given = {line.rpartition("/")[2] for line in unit(name)["unit"]["Service.LoadCredential"].splitlines()}
    assert given == wanted
    assert len(wanted) > 1


@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_no_fault_in_a_unit(name: str) -> None:
    if (program := shutil.which("systemd-analyze")) is None:
        pytest.skip("systemd is not installed here")
    file = ROOT / "deploy" / "systemd" / f"cardsync-{name}.service"
    done = subprocess.run([program, "verify", str(file)], capture_output=True, text=True, check=False)
    said = [line for line in (done.stdout + done.stderr).splitlines() if "is not executable" not in line]
    assert said == []
