"""Who is measured: cardsync, PostgreSQL alone, and the webhook view of ``ottu.contrib.django`` under gunicorn.

Each writes into a database of its own on the same server. A contender's processes run during its own rounds only: on few
cores an idle neighbour is not idle. ``stored`` counts what is there, to be held against what was acknowledged.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import psycopg

from benchmarks import bodies, stack, stand_in
from benchmarks.bodies import KEY
from benchmarks.checkouts import HERE, ROOT, Checkout
from benchmarks.load import Measured, NotAcknowledgedError, drive
from benchmarks.offered import offer
from benchmarks.processor import metered
from benchmarks.stack import Ground, Running
from cardsync.dev.servers.ports import free_port

WARM_UP_SECONDS: Final = 0.5
_numbers = itertools.count(1)  # of databases


@dataclass(frozen=True, slots=True)
class Round:
    """What a round is to be."""

    connections: int
    workers: int
    seconds: float
    bodies: Sequence[bytes]
    warm_up: int  # at most that number of the bodies are sent beforehand
    per_second: float | None = None  # offered at this rate; None: each connection sends when it has its answer


class Contender(Protocol):
    """One row of the table. ``name`` is what it is called there."""

    name: str

    def measure(self, asked: Round) -> Measured:
        """Run one round; what the warm-up had acknowledged is added to ``acknowledged_in_all`` too."""
        ...

    @property
    def acknowledged_in_all(self) -> int:
        """How many hints it said were durable."""
        ...

    def stored(self) -> int:
        """How many are."""
        ...


class Cardsync:
    """``cardsync web`` of a checkout with the broker up; with ``beside``, a worker and the stand-in for Ottu run too.

    With ``relaying`` an endpoint gets notifications, so that their bodies are kept; nothing listens there.
    """

    def __init__(self, ground: Ground, of: Checkout = HERE, *, beside: bool = False, relaying: bool = False) -> None:
        self.name = f"{of.name}, worker busy too" if beside else of.name
        self.name += ", one endpoint" if relaying else ""
        self._ground, self._of, self._beside = ground, of, beside
        database = f"cardsync_{of.label}_{next(_numbers)}"
        self._database_url = ground.database(database, schema_of=of)
        self._acknowledged = 0
        if relaying:
            add = (
                "endpoints",
                "add",
                "--name",
                "orders",
                "--url",
                "https://orders.example.test",
                "--kind",
                "notifications",
            )
            with stack.cardsync(ground, "endpoints", *add, environment=ground.settings(self._database_url)) as running:
                running.wait_for_line("whsec_")

    @property
    def acknowledged_in_all(self) -> int:
        """How many hints it said were durable."""
        return self._acknowledged

    def measure(self, asked: Round) -> Measured:
        """Start, warm up, measure, stop."""
        ground = self._ground
        with contextlib.ExitStack() as running:
            more: dict[str, str] = {}
            if self._beside:
                more["OTTU_BASE_URL"] = running.enter_context(stand_in.running(ground))
            environment = ground.settings(self._database_url, **more)
            web, port = running.enter_context(stack.web(ground, environment, workers=asked.workers, of=self._of))
            if self._beside:
                running.enter_context(stack.worker(ground, environment, of=self._of))
            requests = bodies.posts("/webhooks/ottu", list(asked.bodies))
            measured, warm = _measure(port, requests, asked, {"web": web.pid, **_postgres(ground)})
        ground.valkey.flush()  # bells that no worker heard
        self._acknowledged += measured.acknowledged + warm
        return measured

    def stored(self) -> int:
        """The rows of the inbox."""
        return _count(self._database_url, "cardsync.events")

    def one_row(self) -> dict[str, str]:
        """A hint's row as SQL literals, for a contender that writes the same; sent through the real endpoint."""
        environment = self._ground.settings(self._database_url)
        with stack.web(self._ground, environment, workers=1, of=self._of) as (_, port):
            request = bodies.posts("/webhooks/ottu", bodies.notifications(1, seed="row"))
            self._acknowledged += drive(("127.0.0.1", port), request, connections=1, seconds=1).acknowledged
        with psycopg.connect(self._database_url) as connection:
            rows = connection.execute(
                "SELECT key, quote_nullable(value) FROM cardsync.events AS e, jsonb_each_text(to_jsonb(e)) LIMIT 100"
            ).fetchall()
        return dict(rows)

    @property
    def database_url(self) -> str:
        """Where it writes."""
        return self._database_url


class Pgbench:
    """PostgreSQL alone: its own load generator inserts the same row into the same table, one a transaction."""

    name = "pgbench, the same row"

    def __init__(self, ground: Ground, like: Cardsync) -> None:
        self._ground = ground
        self._program = ground.postgres.bin_dir / "pgbench"
        self._database_url = ground.database("pgbench_rows", schema_of=HERE)
        self._acknowledged = 0
        self._script = ground.folder / "insert.sql"
        row = like.one_row()
        # Columns that the product leaves to their defaults are left to them here too.
        own = ("event_id", "evidence_no", "received_at", "due_at", "attempts", "body_hash")
        given = {name: literal for name, literal in row.items() if name not in own and literal != "NULL"}
        self._script.write_text(
            "\\set n random(1, 9000000000000000000)\n"
            f"INSERT INTO cardsync.events (body_hash, {', '.join(given)})"
            f" VALUES (sha256(int8send(:n)), {', '.join(given.values())})"
            " ON CONFLICT (body_hash) DO NOTHING RETURNING event_id;\n",
            encoding="utf-8",
        )

    @property
    def acknowledged_in_all(self) -> int:
        """How many transactions it committed."""
        return self._acknowledged

    def measure(self, asked: Round) -> Measured:
        """Run pgbench, every transaction's time in a log."""
        with tempfile.TemporaryDirectory(dir=self._ground.folder) as folder:
            with metered(_postgres(self._ground)) as processor:
                output = self._run(folder, asked)
            logs = sorted(Path(folder).glob("pgbench_log.*"))
            latencies = [int(line.split()[2]) / 1e6 for log in logs for line in log.read_text().splitlines()]
        rate = re.search(r"tps = ([0-9.]+)", output)
        if rate is None or not latencies:
            raise NotAcknowledgedError(f"pgbench said: {output[-400:]}")
        self._acknowledged += len(latencies)
        return Measured(len(latencies), len(latencies) / float(rate.group(1)), latencies, processor=processor)

    def stored(self) -> int:
        """The rows of the table."""
        return _count(self._database_url, "cardsync.events")

    def _run(self, folder: str, asked: Round) -> str:
        parts = urlsplit(self._database_url)
        command = [str(self._program), "-n", "-M", "prepared", "-c", str(asked.connections), "-j", "1", "--log"]
        command += ["-T", str(max(2, round(asked.seconds))), "-f", str(self._script)]
        command += ["-h", str(parts.hostname), "-p", str(parts.port), "-U", str(parts.username), parts.path[1:]]
        environment = {"PATH": os.environ.get("PATH", os.defpath), "PGPASSWORD": str(parts.password)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NotAcknowledgedError(f"pgbench failed: {done.stderr[-400:]}")
        return done.stdout


class DjangoPeer:
    """The webhook view of ``ottu.contrib.django`` under gunicorn; ``kind`` is gunicorn's kind of worker."""

    def __init__(self, ground: Ground, kind: str, *, threads: int) -> None:
        self.name = f"ottu.contrib.django, {kind}"
        self._ground, self._kind, self._threads = ground, kind, threads
        self._database_url = ground.database(f"django_{kind}")
        self._acknowledged = 0
        migrate = [sys.executable, "-m", "django", "migrate", "-v", "0"]
        subprocess.run(migrate, cwd=ROOT, env={**os.environ, **self._environment()}, check=True)

    @property
    def acknowledged_in_all(self) -> int:
        """How many webhooks it said were stored."""
        return self._acknowledged

    def measure(self, asked: Round) -> Measured:
        """Start, warm up, measure, stop."""
        port = free_port()
        command = [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{port}", "-w", str(asked.workers)]
        command += ["-k", self._kind, "--log-level", "warning", "--backlog", "2048"]
        command += ["--threads", str(self._threads)] if self._kind == "gthread" else []
        command += ["--keep-alive", "30", "benchmarks.django_peer.wsgi:application"]
        with Running(self._ground.folder, "django", tuple(command), self._environment()) as running:
            running.wait_for_port(port)
            parts = {"web": running.pid, **_postgres(self._ground)}
            measured, warm = _measure(port, bodies.posts("/webhook/", list(asked.bodies)), asked, parts)
        self._acknowledged += measured.acknowledged + warm
        return measured

    def stored(self) -> int:
        """The rows of its table."""
        return _count(self._database_url, "ottu_webhook")

    def _environment(self) -> dict[str, str]:
        parts = urlsplit(self._database_url)
        return {
            "DJANGO_SETTINGS_MODULE": "benchmarks.django_peer.settings",
            "PEER_HOST": str(parts.hostname),
            "PEER_PORT": str(parts.port),
            "PEER_DATABASE": parts.path[1:],
            "PEER_USER": str(parts.username),
            "PEER_PASSWORD": str(parts.password),
            "PEER_WEBHOOK_KEY": KEY,
        }


def _measure(port: int, requests: list[bytes], asked: Round, parts: Mapping[str, int]) -> tuple[Measured, int]:
    """A short warm-up, then the round, with the processor time of ``parts``; what the warm-up had acknowledged comes with it."""
    address = ("127.0.0.1", port)
    some = asked.warm_up
    warm = drive(address, requests[:some], connections=asked.connections, seconds=WARM_UP_SECONDS)
    with metered(parts) as processor:
        if asked.per_second is None:
            measured = drive(address, requests[some:], connections=asked.connections, seconds=asked.seconds)
        else:
            wanted = requests[some : some + round(asked.per_second * asked.seconds)]
            measured = offer(address, wanted, connections=asked.connections, per_second=asked.per_second)
    measured.processor = processor
    return measured, warm.acknowledged


def _postgres(ground: Ground) -> dict[str, int]:
    assert ground.postgres.pid is not None
    return {"postgresql": ground.postgres.pid}


def _count(database_url: str, table: str) -> int:
    found = stack.value(database_url, f"SELECT count(*) FROM {table}")
    assert isinstance(found, int)
    return found
