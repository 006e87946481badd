"""The whole of cardsync on this machine: real processes on a real PostgreSQL and a real broker, with a stand-in for Ottu.

A test talks to it as the world does: over HTTP, in SQL, as a shopper at Ottu's checkout. After each test everything that was
written or answered is searched for every token, key and password there was, for what webhooks say of people, and for customers'
names (``assert_nothing_leaked``).
"""

from __future__ import annotations

import contextlib
import secrets
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
from prometheus_client.parser import text_string_to_metric_families
from psycopg.rows import dict_row

from cardsync import db
from cardsync.dev.servers.ports import free_port
from cardsync.dev.simulator import Simulator
from cardsync.dev.simulator.calls import Call
from cardsync.dev.simulator.checkout import Visit
from cardsync.dev.simulator.payloads import FAKE_PERSONAL_DATA, body, sign
from cardsync.store.access import keys
from cardsync.store.ops.deployment import deployment_name
from tests.e2e.brokers import Broker
from tests.e2e.leaks import assert_hidden, command_lines, files, spool_files
from tests.e2e.processes import Process
from tests.logins import ProcessLogins
from tests.waiting import until

Row = dict[str, Any]

ENVIRONMENT: Final = "sandbox"
# A hint's way to an active card, with a bell that was lost on it, or a row's lock that a stopped process kept for a while.
START_SECONDS: Final = 180.0  # three processes import all that they need; a busy machine takes half a minute
ACTIVE_SECONDS: Final = 120.0
ANSWER_SECONDS: Final = 60.0  # a deadline: no answer takes so long, however busy the machine is


class System:
    """The parts and their processes; settings are those of all of them. Nothing of cardsync runs before ``start``.

    ``binding`` stands before the webhook's key: ``sandbox:`` binds it to that environment.
    """

    def __init__(
        self,
        folder: Path,
        database_url: str,
        broker: Broker,
        logins: ProcessLogins,
        *,
        web_workers: int = 1,
        binding: str = "",
        **settings: str,
    ) -> None:
        self.folder = folder
        self.broker = broker
        broker.deployment = _deployment(database_url)
        self._web_workers = web_workers
        self.port, self.second_port, self.console_port = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        # Not a port of the kernel's choice: while the stand-in is away, a client that tries again could get it as its own.
        self.simulator = Simulator(webhook_url=f"{self.url}/webhooks/ottu", port=free_port()).start()
        self.settings = {
            "CARDSYNC_DATABASE_URL": database_url,
            "CARDSYNC_BROKER_URL": broker.url,
            "CARDSYNC_SECRET_KEY": secrets.token_hex(24),
            "CARDSYNC_DATA_DIR": str(folder / "data"),
            "CARDSYNC_LOG_FORMAT": "json",
            "OTTU_BASE_URL": self.simulator.base_url,
            "OTTU_API_KEY": self.simulator.api_key,
            "OTTU_WEBHOOK_KEYS": f"{secrets.token_hex(16)},{binding}{self.simulator.webhook_key}",
            "OTTU_TIMEOUT_S": "2",
            **settings,
        }
        # Each process has a login of its own, as in a deployment; the owner's address is the test's and the commands'.
        self._addresses = {
            kind: logins.url("worker" if kind == "beat" else kind, database_url)
            for kind in ("web", "worker", "beat", "console")
        }
        self.processes: dict[str, Process] = {}  # those that should run
        self._started: list[Process] = []
        self._database_url = database_url
        self._database: psycopg.Connection[Row] | None = None
        self._http = httpx.Client(base_url=self.url, trust_env=False, timeout=ANSWER_SECONDS)
        self._answers: list[str] = []
        self._charging_keys: set[str] = set()
        self._customers: set[str] = set()
        self._secrets: set[str] = {
            *(self.settings[n] for n in ("CARDSYNC_SECRET_KEY", "OTTU_API_KEY")),
            *self.settings["OTTU_WEBHOOK_KEYS"].split(","),
            self.simulator.webhook_key,
            *broker.secrets,
            str(psycopg.conninfo.conninfo_to_dict(database_url)["password"]),
            *(logins.password(process) for process in ("web", "worker", "console")),
        } - {""}

    # Processes.

    def start(
        self, kind: str, name: str | None = None, *, port: int | None = None, drain_seconds: int = 0, **settings: str
    ) -> Process:
        """Start one process; what serves is waited for until it answers. ``port`` is a further web server's."""
        name, port = name or kind, port or (self.console_port if kind == "console" else self.port)
        web = ("--port", str(port), "--workers", str(self._web_workers), "--drain-seconds", str(drain_seconds))
        options = {"web": web, "console": ("--port", str(port))}
        arguments = [kind, *options.get(kind, ())]
        given = {**self.settings, "CARDSYNC_DATABASE_URL": self._addresses[kind], **settings}
        process = Process(self.folder, name, arguments, self._with_secrets_in_files(name, given)).start()
        self.processes[name] = process
        self._started.append(process)
        if kind in options:
            until(lambda: self._lives(process, port), f"the {kind} answers", seconds=START_SECONDS)
        return process

    def _with_secrets_in_files(self, name: str, settings: dict[str, str]) -> dict[str, str]:
        """As containers get them: an environment is read by more than a process's own code."""
        held = {}
        secret = {
            setting for setting in SECRET_SETTINGS if settings.get(setting)
        }  # an empty one is one that is not set
        for setting in secret:
            file = self.folder / f"{name}.{setting}"
            file.touch(mode=0o600)
            file.write_text(settings[setting], encoding="utf-8")
            held[f"{setting}_FILE"] = str(file)
        return {**{n: v for n, v in settings.items() if n not in secret}, **held}

    def address(self, kind: str) -> str:
        """The database's address that a kind of process is given."""
        return self._addresses[kind]

    def end(self, name: str) -> None:
        """Stop a process for good, in good order."""
        assert self.processes.pop(name).stop() == 0

    def close(self) -> None:
        """End everything."""
        for process in self._started:
            process.kill()
        self.simulator.stop()
        self._http.close()
        if self._database is not None:
            self._database.close()

    def _lives(self, process: Process, port: int) -> bool:
        assert process.is_running, f"{process.name} ended: {process.output()[-2_000:]}"
        with contextlib.suppress(httpx.HTTPError):
            return self._http.get(f"http://127.0.0.1:{port}/livez").status_code == 200
        return False

    # What a shopper does.

    def customer(self, name: str = "shopper") -> str:
        """A customer that is not known yet."""
        made = f"{name}-{uuid.uuid4().hex[:12]}"
        self._customers.add(made)
        return made

    def save_card(self, customer: str, *, notify: bool = True, **facts: Any) -> Visit:
        """A card is saved at Ottu; if that is notified, the notification is answered with success."""
        visit = self.simulator.checkout().save_card(ENVIRONMENT, customer, notify=notify, **facts)
        self._secrets.add(token_of(visit))
        if notify:
            self.delivered(visit)
        return visit

    def delivered(self, visit: Visit) -> float:
        """Wait for a visit's notification to be answered with success; the seconds that took."""
        assert visit.delivery is not None
        delivery = visit.delivery.result(ANSWER_SECONDS)
        assert (delivery.outcome, delivery.attempts) == ("delivered", 1), delivery
        return delivery.seconds

    def notification(self, customer: str) -> tuple[bytes, str]:
        """The body of a genuine notification that the test itself will send, and the token of its new card."""
        visit = self.save_card(customer, notify=False)
        assert visit.event is not None
        return body(sign(visit.event, self.simulator.webhook_key)), token_of(visit)

    def keep_secret(self, text: str) -> str:
        """Search for this text too."""
        self._secrets.add(text)
        return text

    # HTTP.

    def post_hint(self, content: bytes, **headers: str) -> httpx.Response:
        """Send a notification."""
        return self._seen(
            self._http.post("/webhooks/ottu", content=content, headers={"Content-Type": "application/json", **headers})
        )

    def get(self, path: str, key: str | None = None, **params: Any) -> httpx.Response:
        """Read as a service does."""
        answer = self._http.get(path, params=params, headers=_bearer(key))
        # A key that may see tokens gets them; no other does.
        return answer if key is not None and key in self._charging_keys else self._seen(answer)

    def post(
        self, path: str, key: str | None = None, *, idempotency_key: str | None = None, **content: Any
    ) -> httpx.Response:
        """Ask for something as a service does."""
        once = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        return self._seen(self._http.post(path, json=content, headers={**_bearer(key), **once}))

    def key(self, *scopes: keys.Scope) -> str:
        """A new key of the API."""
        key = self.keep_secret(keys.new_key())
        self.sql(
            "INSERT INTO cardsync.api_keys (name, key_hash, scopes) VALUES ('test', %s, %s)",
            keys.key_hash(key),
            list(scopes),
        )
        return self.keep_charging_key(key) if "tokens:read" in scopes else key

    def keep_charging_key(self, key: str) -> str:
        """Note a key that may see tokens."""
        self._charging_keys.add(key)
        return self.keep_secret(key)

    def metrics(self) -> dict[tuple[str, tuple[str, ...]], float]:
        """The figures: by name and label values."""
        text = self.get("/metrics").text
        return {
            (sample.name, tuple(str(sample.labels[n]) for n in sorted(sample.labels))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def seen(self, text: str) -> None:
        """Search this answer too."""
        self._answers.append(text)

    def _seen(self, answer: httpx.Response) -> httpx.Response:
        self.seen(f"{answer.headers}\n{answer.text}")
        return answer

    # SQL.

    def sql(self, statement: str, *parameters: Any) -> list[Row]:
        """Run a statement; a second time, on a new connection, if the server has been away since the last."""
        try:
            return self._execute(statement, parameters)
        except psycopg.OperationalError:
            self._database = None
            return self._execute(statement, parameters)

    def _execute(self, statement: str, parameters: tuple[Any, ...]) -> list[Row]:
        if self._database is None:
            self._database = psycopg.connect(
                self._database_url, autocommit=True, connect_timeout=30, row_factory=dict_row
            )
        cursor = self._database.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []

    def cards(self, customer: str) -> list[Row]:
        """A customer's cards, as services that query the database see them."""
        return self.sql("SELECT * FROM registry.cards WHERE customer_id = %s ORDER BY first_seen_at", customer)

    def statuses(self, customer: str) -> list[str]:
        """The states of a customer's cards, the oldest first."""
        return [card["status"] for card in self.cards(customer)]

    def changes(self, customer: str) -> list[str]:
        """What the feed says of a customer, in order."""
        rows = self.sql("SELECT change FROM registry.card_changes WHERE customer_id = %s ORDER BY seq", customer)
        return [row["change"] for row in rows]

    def freshness(self, customer: str) -> Row:
        """How fresh a customer is; empty for one that nothing named yet."""
        rows = self.sql("SELECT * FROM registry.customers WHERE customer_id = %s", customer)
        return rows[0] if rows else {}

    # Conditions.

    def until_active(self, *customers: str, cards: int = 1, seconds: float = ACTIVE_SECONDS) -> None:
        """Wait until each of these customers has that number of active cards and no others."""

        def all_active() -> bool:
            rows = self.sql(
                "SELECT customer_id, status, count(*) AS cards FROM registry.cards WHERE customer_id = ANY(%s)"
                " GROUP BY customer_id, status",
                list(customers),
            )
            found = {row["customer_id"]: row["cards"] for row in rows if row["status"] == "active"}
            return len(rows) == len(customers) and found == dict.fromkeys(customers, cards)

        until(all_active, f"{len(customers)} customers have {cards} active card(s)", seconds=seconds)

    def until_settled(self, customer: str, *, seconds: float = ACTIVE_SECONDS) -> None:
        """Wait until nothing is left to do for a customer: no hint waits, no look is due, none is under way."""
        until(
            lambda: self.sql(
                "SELECT 1 FROM cardsync.customers AS c WHERE customer_id = %s AND due_at IS NULL AND ticket_no IS NULL"
                " AND NOT EXISTS (SELECT 1 FROM cardsync.events AS e"
                "                 WHERE e.customer_id = c.customer_id AND e.status = 'pending')",
                customer,
            ),
            "nothing is left to do for the customer",
            seconds=seconds,
        )

    def pending_hints(self, customer: str) -> int:
        """How many of a customer's hints wait to be processed."""
        rows = self.sql(
            "SELECT count(*) AS hints FROM cardsync.events WHERE customer_id = %s AND status = 'pending'", customer
        )
        return int(rows[0]["hints"])

    def calls(self, customer: str) -> list[Call]:
        """What was asked of Ottu about a customer."""
        return self.simulator.calls("list", customer_id=customer)

    # Leaks.

    def all_secrets(self) -> set[str]:
        """Every token, key and password that there was."""
        world = self.simulator.world
        for owner in world.owners():
            self._secrets |= {*world.truth(*owner), *world.past_tokens(*owner)}
        return set(self._secrets)

    def assert_nothing_leaked(self) -> None:
        """Search all that was written, answered or shown for what nobody may read there."""
        self.all_secrets()
        written = {process.name: process.output() for process in self._started}
        data_dir = Path(self.settings["CARDSYNC_DATA_DIR"])
        spooled = spool_files(data_dir)
        written |= command_lines() | files(data_dir) | spooled
        with contextlib.suppress(httpx.HTTPError):
            written["/metrics"] = self._http.get("/metrics").text
        written["answers over HTTP"] = "\n".join(self._answers)
        assert_hidden("a secret", self._secrets, written)
        assert_hidden("personal data", FAKE_PERSONAL_DATA, written)
        for place in ("answers over HTTP", *spooled):  # they name the customer
            del written[place]
        assert_hidden("a customer's name", self._customers, written)


@contextlib.contextmanager
def running(system: System) -> Iterator[System]:
    """The system with a worker, a beat and a web, until the end of the block."""
    try:
        for kind in ("worker", "beat", "web"):  # the web last: the others start while it is waited for
            system.start(kind)
        yield system
    finally:
        system.close()


@contextlib.contextmanager
def searched(system: System) -> Iterator[System]:
    """The system, searched after the block; whatever the block ended, it has started again."""
    yield system
    system.assert_nothing_leaked()
    dead = {p.name: p.output()[-1_000:] for p in system.processes.values() if not p.is_running}
    assert not dead, f"ended, and should run: {dead}"


SECRET_SETTINGS: Final = {
    *("CARDSYNC_DATABASE_URL", "CARDSYNC_DATABASE_DIRECT_URL", "CARDSYNC_BROKER_URL", "CARDSYNC_SECRET_KEY"),
    *("OTTU_API_KEY", "OTTU_WEBHOOK_KEYS"),
}


def _deployment(database_url: str) -> str:
    engine = db.make_engine(database_url)
    try:
        with engine.connect() as connection:
            return deployment_name(connection)
    finally:
        engine.dispose()


def token_of(visit: Visit) -> str:
    """The token of the card that a visit was about."""
    assert visit.card is not None
    return visit.card.token


def _bearer(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}
