"""Hosts whose clocks are ten minutes apart: work goes on, nothing is dropped for its age, and it is told whose clock is wrong.

The clock of each process is another one, as its Python reads it. libfaketime was tried: it breaks the sleep of Python's own.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator
from typing import Final

import httpx
import pytest

from tests.e2e.brokers import Broker
from tests.e2e.system import ENVIRONMENT, START_SECONDS, System, searched, token_of
from tests.e2e.test_console import Console
from tests.e2e.test_endpoints import endpoint
from tests.logins import ProcessLogins
from tests.waiting import until
from workers.own_ticks import UNHEARD_SECONDS

pytestmark = pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True, scope="module")

AHEAD_SECONDS: Final = {"web": -600, "worker": 600, "beat": 0, "console": -600}
HINTS: Final = 5


# Python imports this first, from a folder on its path. What counts seconds is left as it is.
_SITECUSTOMIZE = """
import datetime, os, time
ahead, real = float(os.environ["CLOCK_AHEAD"]), datetime.datetime
of_seconds, of_nanoseconds = time.time, time.time_ns
time.time = lambda: of_seconds() + ahead
time.time_ns = lambda: of_nanoseconds() + int(ahead * 1e9)

class OfAnInstance(type):
    def __instancecheck__(cls, one):
        return isinstance(one, real)

class Ahead(real, metaclass=OfAnInstance):
    @classmethod
    def now(cls, tz=None):
        return real.now(tz) + datetime.timedelta(seconds=ahead)

    @classmethod
    def utcnow(cls):
        return real.utcnow() + datetime.timedelta(seconds=ahead)

datetime.datetime = Ahead
"""


@pytest.fixture(scope="module")
def apart(
    tmp_path_factory: pytest.TempPathFactory, module_database_url: str, broker: Broker, logins: ProcessLogins
) -> Iterator[System]:
    folder, clock = tmp_path_factory.mktemp("system"), tmp_path_factory.mktemp("clock")
    (clock / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    path = os.pathsep.join([str(clock), *filter(None, [os.environ.get("PYTHONPATH")])])
    made = System(folder, module_database_url, broker, logins)
    try:
        base = f"http://127.0.0.1:{made.console_port}"
        for kind, ahead in AHEAD_SECONDS.items():
            made.start(kind, PYTHONPATH=path, CLOCK_AHEAD=str(ahead), CARDSYNC_CONSOLE_URL=base)
        yield made
    finally:
        made.close()


@pytest.fixture
def system(apart: System) -> Iterator[System]:
    with searched(apart):
        yield apart


def test_hosts_ten_minutes_apart_do_all_the_work_and_are_told(system: System) -> None:
    worker = system.processes["worker"]
    customers = [system.customer() for _ in range(HINTS)]
    for customer in customers:
        system.save_card(customer)
    system.until_active(*customers)
    reader, deleter = system.key("cards:read"), system.key("cards:delete")
    (card,) = system.cards(customers[0])
    asked = system.post("/v1/deletions", deleter, idempotency_key="a-clock", card_id=str(card["card_id"]))
    until(lambda: system.get(asked.headers["Location"], reader).json()["status"] == "done", "the deletion is proved")
    unknown = system.customer()
    system.save_card(unknown, notify=False)
    read = {"environment": ENVIRONMENT, "customer_id": unknown, "max_age": 60}
    until(lambda: system.get("/v1/cards", reader, **read).json()["stale"] is False, "a reader gets a fresh list")

    # Ticks and bells arrive: a worker that heard none for so long would say so, and run the schedule itself.
    swept = "SELECT extract(epoch FROM swept_at)::float AS at FROM cardsync.gate WHERE swept_at IS NOT NULL"
    until(lambda: system.sql(swept), "a sweep ran", seconds=START_SECONDS)
    first = system.sql(swept)[0]["at"]
    until(lambda: system.sql(swept)[0]["at"] > first + UNHEARD_SECONDS + 2, "sweeps go on", seconds=START_SECONDS)
    assert "no_ticks_heard" not in worker.output()
    assert system.metrics()[("cardsync_rings_total", ("rung",))] > 0

    # Rows are dated by the database alone.
    off = "SELECT count(*) AS n FROM cardsync.events WHERE abs(extract(epoch FROM received_at - now())) > 300"
    assert system.sql(off) == [{"n": 0}]
    clocks = until(lambda: system.get("/readyz").json()["checks"].get("clock"), "the web tells of the clocks")
    host = os.uname().nodename
    assert clocks.startswith(f"this host: {AHEAD_SECONDS['web']:+d} s against the database's; {host}: +")


def test_a_receiver_that_judges_the_time_takes_what_a_worker_ten_minutes_off_sends(system: System) -> None:
    with endpoint(system, "orders", "notifications") as orders, endpoint(system, "feed", "changes") as feed:
        customer = system.customer()
        system.save_card(customer)
        orders.wait_for(lambda received: len(received) == 1)
        feed.wait_for(lambda received: len(received) >= 1)
        done = "SELECT count(*) AS n FROM cardsync.deliveries WHERE status = 'done'"
        until(lambda: system.sql(done)[0]["n"] == 1, "it is settled")
        assert (orders.refused, feed.refused) == ([], [])


def test_a_charge_is_dated_and_bounded_by_the_database_though_the_web_is_ten_minutes_off(system: System) -> None:
    customer = system.customer()
    agreement_id, key = f"agr-{customer}", system.key("cards:reconcile")
    token = token_of(system.save_card(customer))
    system.delivered(system.simulator.checkout().agree(ENVIRONMENT, customer, token, agreement_id=agreement_id))
    charges = (
        "SELECT max(at) > now() - interval '5 minutes' AS is_now FROM cardsync.known_agreements, unnest(charges) AS at"
    )
    told = {"environment": ENVIRONMENT, "agreement_id": agreement_id}
    until(
        lambda: system.post("/v1/charges", key, **told).status_code == 202, "the agreement is known, and a charge noted"
    )
    assert system.sql(f"{charges} WHERE agreement_id = %s", agreement_id) == [{"is_now": True}]
    past = system.sql("SELECT now() - interval '5 minutes' AS at")[0]["at"].isoformat()
    refused = system.post("/v1/charges", key, **told, next_charge_at=past)
    assert (refused.status_code, refused.json()["code"]) == (409, "impossible_time")


def test_a_console_ten_minutes_behind_replays_what_failed_just_now(system: System) -> None:
    customer = system.customer()
    system.save_card(customer)
    system.until_active(customer)
    failed = system.sql(
        "INSERT INTO cardsync.events"
        " (body_hash, status, kind, environment, customer_id, scheme, key_id, token, facts, last_error)"
        " VALUES (sha256('a replay'), 'failed', 'payment', %s, %s, 'standard', 'test', 'cannot be read', '{}', 'boom')"
        " RETURNING event_id",
        ENVIRONMENT,
        customer,
    )[0]["event_id"]
    console = Console(system, f"http://127.0.0.1:{system.console_port}")
    with httpx.Client(base_url=console.base, trust_env=False, timeout=60) as browser:
        assert browser.get(console.link("operator")).status_code == 200
        page = browser.get("/notifications/replay-all?error=boom").text
        given = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page))
        assert "filter" in given, "nothing matches"
        form = {name: html.unescape(value) for name, value in given.items()}
        asked = browser.post(
            "/notifications/replay-all", data={**form, "word": "REPLAY"}, headers={"Origin": console.base}
        )
        assert asked.status_code == 303, asked.text
        until(lambda: "1 of about 1 done" in browser.get(asked.headers["Location"]).text, "it is replayed")
    again = "SELECT last_error IS DISTINCT FROM 'boom' AS again FROM cardsync.events WHERE event_id = %s"
    assert system.sql(again, failed) == [{"again": True}]
