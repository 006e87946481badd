"""The house's rules as tests: who may import whom, what a migration leaves, what is packed, what is locked.

Rules: these look at the project as a whole and need no network; the style of single lines is ruff's.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from alembic import command
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sqlalchemy import Engine, text

from cardsync import db
from cardsync.dev.servers.postgres import EmbeddedPostgres

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# Deadlines for what hangs: on a slow disk, with other tests beside, each takes many times what it takes alone.
BUILD_SECONDS = 900
COMMAND_SECONDS = 600
# Calls that are a clock or a die, whatever module they come from.
IMPURE_CALLS = {"now", "utcnow", "today", "uuid1", "uuid4", "open", "print", "input"}
# Services that run our own image, and what they may never lack.
OURS = ("migrate", "web", "worker", "beat", "console")
# Secrets that are addresses of the database, each with a login of its own.
ADDRESSES = ("database_url", "web_database_url", "worker_database_url", "console_database_url")


# Imports.


def test_imports_point_down() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    answer = _run([str(lint), "--no-logo", "--no-cache"], cwd=ROOT)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_every_room_has_its_place_in_the_import_contracts() -> None:
    rooms = next(c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["id"] == "rooms")
    placed = {name.strip() for layer in rooms["layers"] for name in re.split(r"[|:]", layer)}
    here = {
        f"cardsync.{path.stem}"
        for path in (ROOT / "cardsync").iterdir()
        if path.name != "__init__.py" and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    assert placed == here | {"workers"}


@pytest.mark.parametrize("path", sorted((ROOT / "cardsync" / "core").glob("*.py")), ids=lambda p: p.name)
def test_the_core_reads_no_clock_draws_no_lot_and_opens_nothing(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]
    assert IMPURE_CALLS.isdisjoint(names)


# Tests follow the rooms.


def test_every_module_of_store_has_a_test_module_under_its_name() -> None:
    store, tests = ROOT / "cardsync" / "store", ROOT / "tests" / "store"
    modules = [path.relative_to(store) for path in store.rglob("*.py") if path.name != "__init__.py"]
    wanted = [path.with_name(f"test_{path.name}") for path in modules if path.parts[0] != "schema"]
    assert len(wanted) > 25
    assert [str(path) for path in wanted if not (tests / path).exists()] == []


@pytest.mark.parametrize("room", ["core", "outgoing"])
def test_every_module_of_a_pure_or_outer_room_that_does_something_has_a_test_module_under_its_name(room: str) -> None:
    modules = sorted((ROOT / "cardsync" / room).glob("*.py"))
    doing = [path for path in modules if re.search(r"^(async )?def |^class ", path.read_text("utf-8"), re.MULTILINE)]
    assert doing
    assert [path.name for path in doing if not (ROOT / "tests" / room / f"test_{path.name}").exists()] == []


def test_all_tests_wait_for_a_condition_by_one_helper() -> None:
    helper = re.compile(r"^ *(?:async )?def (until|wait_until|eventually)\b", re.MULTILINE)
    found = {
        str(path.relative_to(ROOT)): helper.findall(path.read_text(encoding="utf-8"))
        for top in ("tests", "benchmarks")
        for path in (ROOT / top).rglob("*.py")
    }
    assert {path: names for path, names in found.items() if names} == {"tests/waiting.py": ["until"]}


def test_one_fixture_binds_the_factories() -> None:
    found = [
        path.name
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and any("fixture" in ast.unparse(one) for one in node.decorator_list)
        if re.search(r"\bbind\(engine\)", ast.unparse(node))
    ]
    assert found == ["conftest.py"]


# Migrations.


@pytest.fixture
def empty_database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database that was never migrated."""
    postgres.create_database("house")
    yield postgres.url_for("house")
    postgres.drop_database("house")


def test_migrations_go_up_down_and_up_again_and_end_where_the_models_are(empty_database_url: str) -> None:
    before = _objects(empty_database_url)
    db.upgrade(empty_database_url)
    first = _objects(empty_database_url)
    db.downgrade(empty_database_url, "base")
    # Alembic's own table of versions, and the schema that it stands in, outlive everything.
    assert {name for name in _objects(empty_database_url) if "alembic_version" not in name} == before
    db.upgrade(empty_database_url)
    assert _objects(empty_database_url) == first
    command.check(db.alembic_config(empty_database_url))  # raises where models and database differ


def _objects(database_url: str) -> set[str]:
    """What a database holds of ours: relations, functions and triggers."""
    statement = text(
        "SELECT relnamespace::regnamespace || '.' || relname FROM pg_class"
        " WHERE relnamespace::regnamespace::text !~ '^pg_|^information_schema$'"
        " UNION SELECT pronamespace::regnamespace || '.' || proname || '()' FROM pg_proc"
        " WHERE pronamespace::regnamespace::text !~ '^pg_|^information_schema$'"
        " UNION SELECT tgrelid::regclass || '/' || tgname FROM pg_trigger WHERE NOT tgisinternal"
    )
    engine: Engine = db.make_engine(database_url)
    with engine.connect() as connection:
        found = set(connection.execute(statement).scalars())
    engine.dispose()
    return found


# Packages.


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as users get it: from the source distribution, so that this too is seen to be whole."""
    folder = tmp_path_factory.mktemp("dist")
    hatch = [sys.executable, "-m", "hatchling", "build"]
    _must([*hatch, "-t", "sdist", "-d", str(folder)], cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    _must(["tar", "-xzf", str(sdist), "-C", str(folder)], cwd=folder)
    unpacked = folder / sdist.name.removesuffix(".tar.gz")
    _must([*hatch, "-t", "wheel", "-d", str(folder)], cwd=unpacked)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_code_and_the_migrations_and_nothing_else(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    code = {
        str(path.relative_to(ROOT))
        for top in ("cardsync", "workers")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    migrations = {
        f"cardsync/{path.relative_to(ROOT)}"
        for path in (ROOT / "migrations").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed - {"cardsync/commit"} == code | migrations
    assert "cardsync/migrations/env.py" in packed


def test_the_installed_package_migrates_from_any_directory(
    wheel: Path, tmp_path: Path, empty_database_url: str
) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(tmp_path),  # stands before the checkout
        "CARDSYNC_DATABASE_URL": empty_database_url,
        "CARDSYNC_DATA_DIR": str(tmp_path / "data"),
    }
    where = [sys.executable, "-c", "import cardsync.db as db; print(db.migrations_path())"]
    assert _must(where, cwd=Path("/"), env=environment).strip() == str(tmp_path / "cardsync" / "migrations")
    _must(
        [sys.executable, "-c", "from cardsync.cli import main; main()", "db", "upgrade"],
        cwd=Path("/"),
        env=environment,
    )
    engine = db.make_engine(empty_database_url)
    assert db.current_revision(engine) == db.newest_revision()
    engine.dispose()


# Lock files.

LOCKS = {
    "run": (),
    "dev": ("dev",),
    "test": ("dev", "test"),
    "fuzz": ("dev", "test", "fuzz"),
    "bench": ("dev", "test", "bench"),
}


@pytest.mark.parametrize("lock", [*LOCKS, "build", "installer"])
def test_a_lock_file_pins_by_hash_and_names_no_place(lock: str) -> None:
    content = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
    assert re.search(r"://|file:|^-| @ ", content, re.MULTILINE) is None
    for block in re.split(r"\n(?=\S)", content.strip()):
        assert re.match(r"[a-z0-9.-]+==\S+", block), block
        assert "--hash=sha256:" in block, block


@pytest.mark.parametrize(("lock", "extras"), LOCKS.items(), ids=LOCKS)
def test_a_lock_file_satisfies_the_project(lock: str, extras: tuple[str, ...]) -> None:
    wanted = [*PROJECT["project"]["dependencies"]]
    for extra in extras:
        wanted += PROJECT["project"]["optional-dependencies"][extra]
    pinned = _pins(lock)
    for requirement in map(Requirement, wanted):
        if requirement.name != "cardsync":
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_all_lock_files_name_the_same_versions() -> None:
    everything = {"atheris": _pins("fuzz")["atheris"], **_pins("bench")}
    for lock in (*LOCKS, "build"):
        assert _pins(lock).items() <= everything.items(), f"requirements/{lock}.txt: make lock"


def _pins(lock: str) -> dict[str, str]:
    content = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", content, re.MULTILINE))


# Documents.


def test_every_test_that_a_guarantee_names_exists() -> None:
    guaranteed = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", guaranteed))
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 50
    assert named - there == set()


def test_the_readme_names_every_setting() -> None:
    from cardsync.settings import NAMES

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in NAMES.values() if f"`{name}`" not in readme] == []


def test_the_readme_names_every_command() -> None:
    from cardsync.cli import COMMANDS

    commands = (ROOT / "README.md").read_text(encoding="utf-8").split("## Commands")[1].split("## Settings")[0]
    assert [name for name in COMMANDS if re.search(rf"[` ]{name}\b", commands) is None] == []


# Containers.

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_a_container_can_do_no_more_than_it_must(service: str) -> None:
    given = COMPOSE["services"][service]
    assert given["read_only"] is True
    assert given["cap_drop"] == ["ALL"]
    assert given["security_opt"] == ["no-new-privileges:true"]
    assert not str(given["user"]).startswith(("0", "root"))
    assert "limits" in given["deploy"]["resources"]
    assert "privileged" not in given
    if service != "migrate":  # one command, whose exit status is awaited
        assert "healthcheck" in given
        assert given["restart"] == "unless-stopped"


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_a_container_gets_its_secrets_as_files(service: str) -> None:
    environment: dict[str, object] = COMPOSE["services"][service].get("environment", {})
    named = [n for n in environment if re.search(r"KEY|PASS|SECRET|_URL|TOKEN", n) and not n.endswith("_FILE")]
    # A day, a form, and where browsers find the console.
    plain = ("OTTU_API_KEY_EXPIRES_ON", "CARDSYNC_TOKENS_AT_REST", "CARDSYNC_CONSOLE_URL")
    secret = [n for n in named if n not in plain]
    assert secret in ([], ["OTTU_BASE_URL"])


def test_only_migrations_and_operators_log_in_as_the_databases_owner() -> None:
    knows = {name: set(given.get("secrets", [])) for name, given in _ours().items()}
    assert {name for name, secrets in knows.items() if "database_url" in secrets} == {"migrate"}
    for name, given in _ours().items():
        own = {
            "migrate": "database_url",
            "web": "web_database_url",
            "web-spare": "web_database_url",
            "console": "console_database_url",
        }
        address = own.get(name, "worker_database_url")
        assert given["environment"]["CARDSYNC_DATABASE_URL_FILE"] == f"/run/secrets/{address}"
        addresses = {secret for secret in knows[name] if secret.endswith("database_url")}
        assert addresses == ({address} if name != "migrate" else set(ADDRESSES)), name


def test_each_container_gets_only_the_secrets_that_its_process_needs() -> None:
    web = {"web_database_url", "broker_url", "secret_key", "ottu_webhook_keys"}
    needed = {
        "web": web,
        "web-spare": web,
        "worker": {"worker_database_url", "broker_url", "secret_key", "ottu_api_key"},
        "beat": {"worker_database_url", "broker_url"},
        "console": {"console_database_url"},
        "migrate": {*ADDRESSES, "broker_url", "secret_key"},
    }
    assert {name: set(given["secrets"]) for name, given in _ours().items()} == needed
    for name, given in _ours().items():
        files = {
            str(value).removeprefix("/run/secrets/")
            for key, value in given["environment"].items()
            if key.endswith("_FILE")
        }
        assert files <= needed[name], name
        asked = given["healthcheck"]["test"] if name in ("worker", "beat") else []
        assert asked[-2:] in ([], ["health", name])


def test_the_logins_that_migrating_makes_are_those_that_the_processes_use() -> None:
    command: list[str] = COMPOSE["services"]["migrate"]["command"]
    assert command[:2] == ["db", "upgrade"]
    assert command[-1] == "--close"  # no other application has tables in this database
    given = dict(zip(command[2:-1:2], command[3:-1:2], strict=True))
    assert given == {
        "--web-login": "/run/secrets/web_database_url",
        "--worker-login": "/run/secrets/worker_database_url",
        "--console-login": "/run/secrets/console_database_url",
    }


def test_every_secret_that_a_container_names_is_a_file_that_the_script_makes(tmp_path: Path) -> None:
    script = tmp_path / "deploy" / "secrets.sh"
    script.parent.mkdir()
    shutil.copy(ROOT / "deploy" / "secrets.sh", script)
    environment = {"PATH": os.environ["PATH"], "OTTU_API_KEY": "fake", "OTTU_WEBHOOK_KEYS": "fake"}
    said = _must(["sh", str(script)], cwd=tmp_path, env=environment)
    made = {path.name: path.read_text(encoding="utf-8") for path in (script.parent / "secrets").iterdir()}
    named = {Path(given["file"]).name for given in COMPOSE["secrets"].values()}
    used = {
        secret["source"] if isinstance(secret, dict) else secret
        for given in COMPOSE["services"].values()
        for secret in given.get("secrets", [])
    }
    assert set(made) == named == used
    logins = {urlsplit(made[name]).username: urlsplit(made[name]).password for name in ADDRESSES}
    assert len(logins) == len(set(logins.values())) == len(ADDRESSES)
    assert not any(str(password) in said for password in logins.values())
    assert _must(["sh", str(script)], cwd=tmp_path, env=environment) == ""  # a second time it keeps them all
    assert {name: (script.parent / "secrets" / name).read_text(encoding="utf-8") for name in made} == made


def _ours() -> dict[str, Any]:
    """The services that run our own image."""
    ours = COMPOSE["services"]["migrate"]["image"]
    return {name: given for name, given in COMPOSE["services"].items() if given["image"] == ours}


def test_all_containers_of_ours_run_one_image() -> None:
    images = {COMPOSE["services"][service]["image"] for service in OURS}
    assert len(images) == 1


def test_the_proxy_and_the_application_draw_the_same_line_for_a_body() -> None:
    from cardsync.settings import Settings

    proxy = (ROOT / "deploy" / "nginx" / "cardsync" / "http.conf").read_text(encoding="utf-8")
    limit = re.search(r"client_max_body_size\s+(\d+);", proxy)
    assert limit is not None
    assert int(limit.group(1)) == Settings.model_fields["max_body_bytes"].default


def _run(
    arguments: list[str], *, cwd: Path, env: dict[str, str] | None = None, seconds: int = COMMAND_SECONDS
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=seconds)


def _must(arguments: list[str], *, cwd: Path, env: dict[str, str] | None = None) -> str:
    answer = _run(arguments, cwd=cwd, env=env, seconds=BUILD_SECONDS)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout
