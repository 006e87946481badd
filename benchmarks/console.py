"""How long does each page of the console take on a large database?

The console is served as in production, with its own login; a person signs in by a link and opens every page several times. What
counts is the answer's last byte. The first look at a page, which may read from the disk, is told apart from the later ones.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import statistics
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import httpx
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from sqlalchemy import make_url

from benchmarks import big_registry, stack
from benchmarks.checkouts import HERE
from benchmarks.stack import Ground
from cardsync import db
from cardsync.core.cards import ENVIRONMENTS
from cardsync.dev.servers.ports import free_port
from cardsync.store.access import logins, privileges
from cardsync.store.console import lists

TARGET_MS: Final = 300.0


class PageFailedError(Exception):
    """A page was not shown."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The registry's number of customers, and how often each page is looked at."""

    customers: int = 100_000
    looks: int = 6


def paths(customers: int) -> list[str]:
    """Every page, with rows that the seeder makes, and of each list every combination of filters that it offers."""
    card, event, deletion = (_id(name) for name in ("card-203", f"event-{3 * customers}", "deletion-101"))
    return [
        *("/", "/find", "/customers/102", f"/cards/{card}", f"/notifications/{event}", f"/deletions/{deletion}"),
        *lists_of_pages(),
        *("/erasures/102/new", "/calls", "/calls?budget=1000", "/brake", f"/feed?before={customers}", "/endpoints"),
        *("/spool", "/imports", "/access", "/preferences"),
    ]


def lists_of_pages() -> list[str]:
    """The lists and dry runs, each with every combination of filters: of some of them there is no row."""
    errors = (None, "UnusableCard: too long", "NoSuchError")
    environments = (None, *ENVIRONMENTS)
    return [
        *(
            _path("/notifications", status=status, environment=environment, error=error)
            for status in (None, *lists.EVENT_STATES)
            for environment in environments
            for error in (errors if status == "failed" else (None,))
        ),
        *(
            _path("/notifications/replay-all", environment=environment, error=error)
            for environment in environments
            for error in errors
        ),
        *(_path("/deletions", state=state) for state in lists.DELETION_STATES),
        *(_path("/deletions/replay-all", phase=phase) for phase in ("blocked", "failed")),
        *(_path("/erasures", state=state) for state in lists.ERASURE_STATES),
        *(
            _path("/deliveries", name=name, status=status)
            for name in ("shop", "stock", "unknown")
            for status in lists.DELIVERY_STATES
        ),
        *(_path("/deliveries/replay-all", name=name) for name in ("shop", "stock")),
        *(_path("/brake/requests/release-all", asker=asker) for asker in ("key:shop", "unknown")),
        *("/feed", "/customers/odd", "/operations", "/audit"),
    ]


def _path(page: str, **chosen: str | None) -> str:
    given = urlencode({name: value for name, value in chosen.items() if value is not None}, quote_via=quote)
    return f"{page}?{given}" if given else page


def _id(name: str) -> str:
    return str(uuid.UUID(hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()))


def run(ground: Ground, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure. Raises ``PageFailedError``."""
    url = ground.database("console", schema_of=HERE)
    say(f"making a registry of {plan.customers:,} customers")
    big_registry.fill(url, plan.customers)
    login = make_url(url).set(username=f"console_{secrets.token_hex(3)}", password=secrets.token_hex(8))
    engine = db.make_engine(url)
    with engine.begin() as connection:
        logins.ensure(connection, login, privileges.CONSOLE)
    engine.dispose()
    settings = ground.settings(login.render_as_string(hide_password=False))
    port = free_port()
    with stack.cardsync(ground, "console", "console", "--port", str(port), environment=settings) as running:
        running.wait_for_answer(f"http://127.0.0.1:{port}/readyz")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            _sign_in(ground, url, client)
            return {"plan": {"customers": plan.customers, "looks": plan.looks}, "pages": _look(client, plan)}


def _sign_in(ground: Ground, url: str, client: httpx.Client) -> None:
    command = HERE.command("operators", "invite", "--name", "bench", "--role", "admin", "--json")
    environment = stack.environment_of(ground.settings(url), HERE)
    done = subprocess.run(command, cwd=ground.folder, env=environment, capture_output=True, text=True, check=True)
    link = urlsplit(json.loads(done.stdout)["url"]).path
    answer = client.get(link, headers={"Sec-Fetch-Mode": "navigate"})
    if answer.status_code != 200:
        raise PageFailedError(f"the link was answered with {answer.status_code}")


def _look(client: httpx.Client, plan: Plan) -> list[dict[str, Any]]:
    pages = []
    for path in paths(plan.customers):
        times, left_out, counted = [], 0, 0
        for _ in range(plan.looks):
            began = time.perf_counter()
            answer = client.get(path)
            times.append((time.perf_counter() - began) * 1_000)
            left_out += answer.text.count("took longer than a second")
            counted += answer.text.count("data-soon")
            if answer.status_code != 200:
                raise PageFailedError(f"{path}: {answer.status_code}")
        later = statistics.median(times[1:] or times)
        found = {"path": path, "first_ms": times[0], "p50_ms": later, "max_ms": max(times)}
        pages.append({**found, "left_out": left_out, "counted": counted})
    return pages


def show(console: Console, found: dict[str, Any]) -> None:
    """Print the figures as a table, the slowest page first."""
    n = found["plan"]["customers"]
    console.print(f"\nThe console on {n:,} customers, {2 * n:,} cards, {4 * n:,} notifications.")
    table = Table("page", box=SIMPLE)
    for name in ("first look ms", "p50 ms", "slowest ms", "regions left out", "being counted"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in sorted(found["pages"], key=lambda page: -page["p50_ms"]):
        table.add_row(
            one["path"], *(f"{one[name]:.0f}" for name in ("first_ms", "p50_ms", "max_ms", "left_out", "counted"))
        )
    console.print(table)
