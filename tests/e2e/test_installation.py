"""The page on an installation without containers is followed, chapter by chapter, and a card becomes active at its end.

What a build machine lacks is stood in for: systemd (the units that the page installs are read here, and their commands run as it
would run them), and the rights to change ``/etc``, whose place another folder takes. PostgreSQL, RabbitMQ, nginx, processes
are real. The chapters on packages and on the program are read and not run: they would load half a gigabyte.
"""

from __future__ import annotations

import configparser
import contextlib
import re
import secrets
import shlex
import shutil
import ssl
import stat
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
from tests.e2e.nginx import Nginx
from tests.e2e.processes import Process, clean_environment, command
from tests.e2e.system import START_SECONDS
from tests.project.test_settings_everywhere import OVERLAYS, SECRETS
from tests.tls import Authority
from tests.waiting import until

ROOT: Final = Path(__file__).resolve().parents[2]
SHIPPED: Final = ROOT / "deploy" / "systemd"
PAGE: Final = ROOT / "docs" / "deployment" / "systemd.md"
UNITS: Final = ("worker", "beat", "web", "console")
BLOCK: Final = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CONSOLE_NAME: Final = "cards.example.com"
ADMIN_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What each program of the page comes with. Those that are "essential" are on every Debian with systemd.
PACKAGE_OF: Final = {
    **dict.fromkeys(
        ("apt-get", "cat", "cd", "chmod", "install", "printf", "runuser", "systemctl", "umask", "useradd"), "essential"
    ),
    "psql": "postgresql",
    "createdb": "postgresql",
    "rabbitmqctl": "rabbitmq-server",
    "nginx": "nginx",
    "python3": "python3",
    "openssl": "openssl",
    "curl": "curl",
    "/opt/cardsync/bin/pip": "python3-venv",
    "/opt/cardsync/bin/cardsync": "python3-venv",
}


def blocks(number: str) -> list[str]:
    """The commands of one chapter of the page, block by block."""
    chapter = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return BLOCK.findall(next(c for c in chapter if c.startswith(number)))


def step(number: str) -> str:
    """All commands of one chapter of the page."""
    return "\n".join(blocks(number))


def unit(name: str, folder: Path = SHIPPED) -> configparser.ConfigParser:
    """A unit; options that are given several times are joined by line breaks."""
    read = configparser.ConfigParser(strict=False, interpolation=None, dict_type=dict)
    read.optionxform = str  # type: ignore[assignment, method-assign]
    given: dict[str, list[str]] = {}
    section = ""
    for line in (folder / f"cardsync-{name}.service").read_text(encoding="utf-8").splitlines():
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
        self.port, self.console_port = free_port(), free_port()
        self.public_port = free_port()
        webhook_url = f"https://127.0.0.1:{self.public_port}/webhooks/ottu"
        self.simulator = Simulator(webhook_url=webhook_url, port=free_port()).start()
        self.processes: list[Process] = []
        self.proxy: Nginx | None = None
        for place in ("etc/systemd/system", "etc/nginx", "var/lib/cardsync", "var/log/nginx", "bin"):
            (folder / place).mkdir(parents=True)
        for file in ("passwd", "group", "shadow", "gshadow"):
            (folder / "etc" / file).touch()
        self._stand_in("useradd", f'exec {shutil.which("useradd", path=ADMIN_PATH)} --prefix {folder} "$@"')
        self._stand_in("systemctl", f'echo "$@" >> {folder}/systemctl')
        self._stand_in("nginx", f'echo "$@" >> {folder}/nginx-asked')
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
            ("/etc/nginx", f"{self.folder}/etc/nginx"),
            ("/etc/systemd", f"{self.folder}/etc/systemd"),
            ("/opt/cardsync/bin/cardsync", shlex.join(command())),
            ("http://127.0.0.1:8000", f"http://127.0.0.1:{self.port}"),
            ("http://127.0.0.1:8001", f"http://127.0.0.1:{self.console_port}"),
            ("@127.0.0.1/cardsync", f"@{self.server}/cardsync"),
            ("amqp://cardsync:%s@127.0.0.1:5672/cardsync", f"amqp://{self.name}:%s@127.0.0.1:5672/{self.name}"),
            ("add_vhost cardsync", f"add_vhost {self.name}"),
            ("add_user cardsync", f"add_user {self.name}"),
            ("--vhost cardsync cardsync", f"--vhost {self.name} {self.name}"),
        ):
            text = text.replace(page, ours)
        return text

    def follow(self, commands: str) -> str:
        """Run these commands of the page as they stand there, and return what they say.

        The reader goes on in the same shell: its folder and its mask must be afterwards what they were.
        """
        done = subprocess.run(
            [
                "bash",
                "-euo",
                "pipefail",
                "-c",
                f"umask 022\n{self.here(commands)}\n[ $PWD = {ROOT} ]\n[ $(umask) = 0022 ]",
            ],
            cwd=ROOT,
            env=clean_environment({"PATH": f"{self.folder}/bin:{ADMIN_PATH}", "HOME": str(self.folder)}),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, name: str) -> None:
        """Start an installed unit's command with its environment and its credentials, as systemd does."""
        options = unit(name, self.folder / "etc/systemd/system")["unit"]
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
        for page, ours in (("8000", self.port), ("8001", self.console_port)):
            arguments = [str(ours) if one == page else one for one in arguments]
        self.processes.append(Process(self.folder, name, arguments, given).start())

    def start_proxy(self) -> None:
        """Start nginx with the installed configuration, if it finds no fault in it."""
        assert (self.folder / "nginx-asked").read_text() == "-t\n"
        tls = self.folder / "etc/cardsync/tls"
        (self.folder / "nginx").mkdir()
        self.proxy = Nginx(
            self.folder / "nginx",
            "host",
            port=self.public_port,
            application=self.port,
            console=self.console_port,
            certificate=tls / "certificate",
            key=tls / "key",
            installed=self.folder / "etc/nginx/nginx.conf",
        )
        assert "test is successful" in self.proxy.check()
        self.proxy.start()

    def close(self) -> None:
        if self.proxy is not None:
            self.proxy.stop()
        for process in self.processes:
            process.kill()
        self.simulator.stop()
        for arguments in (["delete_user", self.name], ["delete_vhost", self.name]):
            subprocess.run(["/usr/sbin/rabbitmqctl", *arguments], capture_output=True, check=False)


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
    installation.follow(step("3."))
    account = (installation.folder / "etc/passwd").read_text().split(":")
    assert (account[0], account[6]) == ("cardsync", "/usr/sbin/nologin\n")
    assert (installation.folder / "etc/group").read_text().startswith("cardsync:")  # the units name it
    closed = [installation.folder / "etc/cardsync" / name for name in ("secrets", "tls")]
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in closed] == [0o700, 0o700]
    installation.follow(step("4."))
    installation.follow(step("5."))
    secrets_folder, tls_folder = closed
    assert {stat.S_IMODE(secret.stat().st_mode) for secret in secrets_folder.iterdir()} == {0o600}
    # What the page says comes from elsewhere: from Ottu, and a certificate.
    (secrets_folder / "ottu_api_key").write_text(installation.simulator.api_key)
    (secrets_folder / "ottu_webhook_keys").write_text(installation.simulator.webhook_key)
    with Path(installation.here("/etc/cardsync/settings")).open("a") as file:
        file.write(f"OTTU_BASE_URL={installation.simulator.base_url}\n")
    certificate = Authority.make(installation.folder).certificate("127.0.0.1")
    for made, name in zip(certificate, ("certificate", "key"), strict=True):
        shutil.copyfile(made, tls_folder / name)
    installation.follow(step("6."))

    install, look = blocks("7.")[:2]
    installation.follow(install)
    reload, enable = (installation.folder / "systemctl").read_text().splitlines()
    assert reload == "daemon-reload"
    assert sorted(enable.removeprefix("enable --now ").split()) == sorted(f"cardsync-{name}" for name in UNITS)
    for name in UNITS:
        installation.start(name)

    def ready() -> bool:
        with contextlib.suppress(AssertionError):
            return installation.follow(look) != ""
        return False

    until(ready, "web and console are ready", seconds=START_SECONDS)
    installation.follow(step("8."))
    assert (installation.folder / "systemctl").read_text().splitlines()[-1] == "restart nginx"
    installation.start_proxy()
    installation.simulator.checkout().save_card("sandbox", "first-customer")
    with psycopg.connect(installation.postgres.url_for("cardsync")) as owner:
        until(
            lambda: owner.execute("SELECT count(*) FROM registry.active_cards").fetchone() == (1,),
            "the card is active",
        )

    link = installation.follow(step("9.")).split()[0]
    assert link.startswith(f"https://{CONSOLE_NAME}/sign-in/")
    authority = ssl.create_default_context(cafile=installation.folder / "ca.pem")
    with httpx.Client(verify=authority, trust_env=False, timeout=60) as client:
        public = f"https://127.0.0.1:{installation.public_port}"
        assert client.get(f"{public}/sign-in").status_code == 404  # under the other name there is no console
        signed_in = client.get(
            f"{public}{link.removeprefix(f'https://{CONSOLE_NAME}')}", headers={"Host": CONSOLE_NAME}
        )
    assert (signed_in.status_code, signed_in.headers["Set-Cookie"].split("=")[0]) == (200, "__Host-cardsync")


COMMANDS: Final = re.compile(r"^ *(?:[A-Z_]+=\S+ +)*([\w/.-]+)", re.MULTILINE)


def test_each_program_of_the_page_comes_with_a_package_that_it_installs() -> None:
    told = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    commands = re.sub(r"\$\(|\| |^[()]$| -- ", "\n", "\n".join(told).replace("\\\n", " "), flags=re.MULTILINE)
    programs = COMMANDS.findall(commands)
    assert programs.count("psql") > 1
    used = {PACKAGE_OF[program] for program in programs}
    (packages,) = [line.split()[3:] for line in blocks("1.")[0].splitlines()]
    assert used - {"essential"} == set(packages)


def test_the_program_is_installed_as_the_image_installs_it() -> None:
    image = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("${REQUIREMENTS}", "run")
    venv, requirements, ours, version = step("2.").splitlines()
    assert venv == "python3 -m venv /opt/cardsync"
    assert requirements in image
    assert (ours, version) == ("/opt/cardsync/bin/pip install --no-deps .", "/opt/cardsync/bin/cardsync --version")


def test_the_shell_reads_every_block_of_the_page() -> None:
    for block in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), block


COLUMNS: Final = ("web", "worker", "beat", "console")  # of the page's tables


def rows_of_the_page(cells: int) -> list[list[str]]:
    """The rows of its tables that have so many cells."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in rows if len(row) == cells]


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_hands_its_process_the_secrets_of_the_page_and_no_others(name: str) -> None:
    rows = rows_of_the_page(len(COLUMNS) + 1)
    wanted = {row[0].strip("`") for row in rows if row[1 + COLUMNS.index(name)] == "yes"}
    given = {line.rpartition("/")[2] for line in unit(name)["unit"]["Service.LoadCredential"].splitlines()}
    assert given == wanted
    assert wanted
    used = {
        line.rpartition("/")[2] for line in unit(name)["unit"]["Service.Environment"].splitlines() if "=%d/" in line
    }
    assert used == {line.partition(":")[0] for line in unit(name)["unit"]["Service.LoadCredential"].splitlines()}


def test_every_secret_that_compose_knows_is_told_for_the_same_processes() -> None:
    rest = {re.findall(r"`([A-Z_]+)`", row[1])[0]: row[2:] for row in rows_of_the_page(len(COLUMNS) + 2)}
    told = {
        secret: {name for name, cell in zip(COLUMNS, cells, strict=True) if cell == "yes"}
        for secret, cells in rest.items()
    }
    wanted: dict[str, set[str]] = {}
    for services, settings in OVERLAYS.values():
        for secret in settings & SECRETS:
            wanted[secret] = services & set(COLUMNS)
    assert told == wanted


@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_no_fault_in_a_unit(name: str) -> None:
    if (program := shutil.which("systemd-analyze")) is None:
        pytest.skip("systemd is not installed here")
    file = ROOT / "deploy" / "systemd" / f"cardsync-{name}.service"
    done = subprocess.run([program, "verify", str(file)], capture_output=True, text=True, check=False)
    said = [line for line in (done.stdout + done.stderr).splitlines() if "is not executable" not in line]
    assert said == []
