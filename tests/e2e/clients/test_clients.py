"""The description pleases two linters and two generators; the clients that these make are typed, and work through the proxy.

One system for all of it: the real web, worker and beat, the stand-in for Ottu, and the shipped proxy's own configuration before
them. What the tests need beside Python is installed by ``make clients``; CI does that, and a skip fails there.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from cardsync.dev.servers.ports import free_port
from tests.e2e.clients import tools
from tests.e2e.marks import ONE_BROKER
from tests.e2e.nginx import Nginx
from tests.e2e.system import System
from tests.waiting import until

pytestmark = [ONE_BROKER]


@pytest.fixture(scope="module")
def description(proxy: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The description as it is served."""
    file = tmp_path_factory.mktemp("description") / "openapi.json"
    file.write_text(httpx.get(f"{proxy}/openapi.json", trust_env=False, timeout=60).text, encoding="utf-8")
    return file


def test_two_linters_find_nothing_in_the_description(description: Path) -> None:
    quiet = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}
    tools.use("redocly", "lint", description, "--config", tools.HERE / "redocly.yaml", cwd=tools.folder(), **quiet)
    tools.use(
        "spectral",
        "lint",
        "--fail-severity",
        "hint",
        "--ruleset",
        tools.HERE / "spectral.yaml",
        description,
        cwd=tools.folder(),
    )


@pytest.fixture(scope="module")
def python_program(description: Path) -> list[str | Path]:
    """The command of a typed program on a generated Python client."""
    folder = description.parent / "python"
    folder.mkdir()
    interpreter = tools.python()
    generated = folder / "cardsync_client"
    command = [
        interpreter,
        "-m",
        "openapi_python_client",
        "generate",
        "--path",
        description,
        "--output-path",
        generated,
    ]
    tools.use(*command, "--meta", "none", "--fail-on-warning", cwd=folder)
    shutil.copy(tools.HERE / "program.py", folder)
    # What the generator writes in its own words is its own business; what it says of our types is checked with the program.
    tools.use(interpreter, "-m", "mypy", "--strict", "--follow-imports", "silent", "program.py", cwd=folder)
    return [interpreter, folder / "program.py"]


@pytest.fixture(scope="module")
def typescript_program(description: Path) -> list[str | Path]:
    """The command of a typed program on a generated TypeScript client."""
    folder = description.parent / "typescript"
    folder.mkdir()
    for name in ("program.ts", "tsconfig.json"):
        shutil.copy(tools.HERE / name, folder)
    (folder / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    (folder / "node_modules").symlink_to(tools.folder() / "node_modules")
    tools.use("openapi-typescript", description, "--output", folder / "schema.ts", cwd=tools.folder())
    tools.use("tsc", "--project", folder, cwd=folder)
    return ["node", folder / "built" / "program.js"]


def follow(program: list[str | Path], system: System, proxy: str, key: str) -> tuple[dict[str, Any], str]:
    """Save a card, and let the program find and delete it; what it says, and the card."""
    customer = system.customer()
    system.save_card(customer)
    system.until_active(customer)
    card_id = str(system.cards(customer)[0]["card_id"])
    said = tools.use(*program, proxy, key, "sandbox", customer, card_id, cwd=Path(program[-1]).parent)
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    until(lambda: system.statuses(customer) == ["removed"], "the card is removed")
    return found, card_id


def test_a_python_client_lists_deletes_and_follows_changes(
    python_program: list[str | Path], system: System, proxy: str
) -> None:
    said, card_id = follow(python_program, system, proxy, system.key("cards:read", "cards:delete"))
    assert said["cards"] == [card_id]
    assert said["code"] == "card_not_found"
    assert said["seen"] == ["added", "deleting", "removed"]
    assert (said["replayed"], said["status"]) == ("true", "done")


def test_a_typescript_client_lists_deletes_and_follows_changes(
    typescript_program: list[str | Path], system: System, proxy: str
) -> None:
    said, card_id = follow(typescript_program, system, proxy, system.key("cards:read", "cards:delete"))
    assert said["cards"] == [card_id]
    assert said["fieldCode"] == "not_a_uuid"
    assert said["seen"] == ["added", "deleting", "removed"]
    assert (said["replayed"], said["status"]) == ("true", "done")


MANY: Final = """
import json, sys, uuid
from concurrent.futures import ThreadPoolExecutor
from cardsync_client.api.cards import get_card
from cardsync_client.client import AuthenticatedClient
from cardsync_client.models import ProblemDetails

client = AuthenticatedClient(base_url=sys.argv[1], token=sys.argv[2])

def ask(_: int) -> str:
    found = get_card.sync(uuid.UUID(int=1), client=client)
    return found.code if isinstance(found, ProblemDetails) else "no problem"

with ThreadPoolExecutor(8) as many:
    print(json.dumps(list(many.map(ask, range(400)))))
"""


def test_a_generated_client_reads_every_error_of_the_proxy(
    python_program: list[str | Path], system: System, tmp_path: Path
) -> None:
    interpreter, program = python_program
    key = system.key("cards:read")
    made = Nginx(tmp_path / "nginx", "nginx", port=free_port(), application=system.port)
    made.lower_the_rate()
    made.start()
    try:
        said = tools.use(interpreter, "-c", MANY, f"http://127.0.0.1:{made.port}", key, cwd=Path(program).parent)
    finally:
        made.stop()
    assert set(json.loads(said.splitlines()[-1])) == {"card_not_found", "rate_limited"}


def test_the_pages_that_an_error_names_are_served_by_the_proxy(system: System, proxy: str) -> None:
    problem = httpx.get(f"{proxy}/v1/cards", trust_env=False, timeout=60)
    assert problem.json()["code"] == "invalid_key"
    page = httpx.get(f"{proxy}{problem.json()['type']}", trust_env=False, timeout=60)
    assert (page.status_code, "invalid_key" in page.text) == (200, True)
