"""The consumers of docs/consumers.md, as they stand on the page: each follows a card's life, and goes on after it was ended."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import make_url

from cardsync.dev.servers.ports import free_port
from tests.e2e.clients.tools import python
from tests.e2e.marks import ONE_BROKER
from tests.e2e.processes import clean_environment, run
from tests.e2e.system import System
from tests.waiting import until

pytestmark = [ONE_BROKER]

PAGE: Final = Path(__file__).resolve().parents[3] / "docs" / "consumers.md"
DELIVERY_SECONDS: Final = (
    180.0  # what was tried in vain while the consumer was away is tried again after a minute at most
)


class Consumer:
    """One program of the page; its lines are what it handled."""

    def __init__(self, folder: Path, name: str, interpreter: Path, settings: Mapping[str, str]) -> None:
        self._file = folder / name
        self._file.write_text(_program(name), encoding="utf-8")
        self._output = folder / f"{name}.out"
        self._command = [str(interpreter), str(self._file)]
        self._settings = {"LAST_SEQ_FILE": str(folder / "last_seq"), **settings}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, env=clean_environment(self._settings), stdout=output, stderr=subprocess.STDOUT
            )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def changes(self, card_id: str) -> list[str]:
        """What it handled of a card, in order; the last one before it was ended may have come again."""
        assert self._process is not None
        text = self._output.read_text(encoding="utf-8")
        assert self._process.poll() is None, text[-2_000:]
        assert "Traceback" not in text, text[-2_000:]
        whole, _, _ = text.rpartition("\n")  # ended within a line, its next start would go on in it
        handled = [one for one in map(json.loads, whole.splitlines()) if one["card_id"] == card_id]
        return list({one["seq"]: one["change"] for one in handled}.values())

    def follows_a_life(self, system: System) -> None:
        """It tells of a new card; ended and started again, it goes on with the card's deletion."""
        self.start()
        customer = system.customer()
        system.save_card(customer)
        system.until_active(customer)
        card_id = str(system.cards(customer)[0]["card_id"])
        until(lambda: self.changes(card_id) == ["added"], "it tells of the card", seconds=DELIVERY_SECONDS)
        self.kill()
        key = system.key("cards:delete")
        assert system.post("/v1/deletions", key, idempotency_key=card_id, card_id=card_id).status_code == 202
        until(lambda: system.statuses(customer) == ["removed"], "the card is removed")
        self.start()
        whole = ["added", "deleting", "removed"]
        until(lambda: self.changes(card_id) == whole, "it tells of the deletion", seconds=DELIVERY_SECONDS)


def _program(name: str) -> str:
    found = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (program,) = [one for one in found if one.startswith(f"# {name}:")]
    return str(program)


@pytest.fixture
def make_consumer(tmp_path: Path) -> Iterator[Callable[..., Consumer]]:
    """A consumer of the page, ended with the test."""
    made: list[Consumer] = []

    def make(name: str, **settings: str) -> Consumer:
        made.append(Consumer(tmp_path, name, python(), settings))
        return made[-1]

    yield make
    for consumer in made:
        consumer.kill()


@pytest.fixture
def reader_url(system: System) -> Iterator[str]:
    """The address for a login of a service that may read."""
    name, password = f"reader_{secrets.token_hex(6)}", system.keep_secret(secrets.token_hex(16))
    system.sql(f"CREATE ROLE {name} LOGIN PASSWORD '{password}' IN ROLE cardsync_reader")
    url = make_url(system.settings["CARDSYNC_DATABASE_URL"]).set(username=name, password=password)
    system.sql(f'GRANT CONNECT ON DATABASE "{url.database}" TO {name}')
    yield url.render_as_string(hide_password=False)
    system.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", name)
    system.sql(f'REVOKE ALL ON DATABASE "{url.database}" FROM {name}')
    system.sql(f"DROP ROLE {name}")


def test_the_consumer_in_sql(system: System, make_consumer: Callable[..., Consumer], reader_url: str) -> None:
    make_consumer("consumer_sql.py", DATABASE_URL=reader_url).follows_a_life(system)


def test_the_consumer_over_http(system: System, make_consumer: Callable[..., Consumer], proxy: str) -> None:
    key = system.key("cards:read")
    make_consumer("consumer_http.py", CARDSYNC_URL=proxy, CARDSYNC_KEY=key).follows_a_life(system)


def test_the_consumer_by_webhook(system: System, make_consumer: Callable[..., Consumer], tmp_path: Path) -> None:
    port = free_port()
    given = ("--name", "page", "--url", f"http://127.0.0.1:{port}/changes", "--kind", "changes", "--json")
    added = run(tmp_path, system.settings, "endpoints", "add", *given)
    assert added.returncode == 0, added.stderr
    endpoint: dict[str, Any] = json.loads(added.stdout)
    secret = system.keep_secret(endpoint["secret"])
    make_consumer("consumer_webhook.py", PORT=str(port), ENDPOINT_SECRET=secret).follows_a_life(system)
