"""Every series with a fixed set of labels is there at 0 before its first count, and Prometheus's own tool takes a scrape."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Final, get_args

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from cardsync import db, metrics
from cardsync.ciphers import KeyRing
from cardsync.core.call_budget import LANES
from cardsync.core.feed import Change
from cardsync.outgoing import Sender
from cardsync.store.deliveries import endpoints
from cardsync.store.retention import WHATS
from cardsync.stories import endpoints as story
from cardsync.stories.deliver import Courier
from cardsync.stories.endpoints import NewEndpoint
from cardsync.stories.read_through import Served
from cardsync.stories.receive import WebhookKeys, examine, store
from tests import payloads
from tests.receivers import Receiver
from tests.waiting import until
from tests.web.conftest import SECRET
from tests.web.rows import add_card

# Labels whose values are known only when something happens: an operator's name of an endpoint, a route's status, a release.
OPEN: Final = {"cardsync_deliveries", "cardsync_http_request_seconds", "cardsync_processes", "cardsync_build_info"}
# Made by what has them: the endpoint knows its keys, each engine its pool.
MADE_LATER: Final = {
    *("cardsync_signatures", "cardsync_webhook_key_last_used_timestamp_seconds"),
    *("cardsync_database_pool_in_use", "cardsync_database_pool_wait_seconds"),
}
FRESH: Final = """
from prometheus_client import REGISTRY
from cardsync import metrics
for family in REGISTRY.collect():
    if family.name.startswith("cardsync_"):
        print(family.name, sum(not s.name.endswith("_created") for s in family.samples), sum(s.value for s in family.samples
              if not s.name.endswith("_created")))
"""


def test_every_series_with_a_fixed_set_of_labels_is_there_at_zero_from_the_start() -> None:
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, timeout=300, check=True)
    found = {name: (int(series), float(total)) for name, series, total in map(str.split, done.stdout.splitlines())}
    empty = {name for name, (series, _) in found.items() if not series}
    assert empty == OPEN | MADE_LATER
    assert {total for _, total in found.values()} == {0.0}


def test_each_outcome_that_the_code_counts_is_among_those_that_begin_at_zero() -> None:
    """A word that is counted and not named at its metric would hide its first count from ``increase()``."""
    code = "".join(
        path.read_text(encoding="utf-8")
        for room in ("cardsync", "workers")
        for path in Path(metrics.__file__).parents[1].joinpath(room).rglob("*.py")
    )
    counted = set(re.findall(r"metrics\.([A-Z_]+)\.labels\(\"(\w+)\"", code))
    assert counted
    for name, first in counted:
        known = {labels[0] for labels in getattr(metrics, name)._metrics}
        assert first in known, (name, first)


def test_each_kind_of_row_that_is_forgotten_and_each_change_begins_at_zero() -> None:
    assert {labels[0] for labels in metrics.FORGOTTEN._metrics} == set(WHATS)
    assert {labels[0] for labels in metrics.CARD_CHANGES._metrics} == set(get_args(Change)) - {"deleting", "restored"}
    assert {labels[0] for labels in metrics.READER_SECONDS._metrics} == set(get_args(Served))


def test_each_lane_and_each_endpoint_has_its_series_before_its_first_call_or_message(
    client: FlaskClient, worker_engine: Engine
) -> None:
    name = f"quiet-{uuid.uuid4()}"
    story.add(worker_engine, NewEndpoint(name, "https://endpoint.example/", "notifications"), KeyRing(SECRET.encode()))
    until(
        lambda: _deliveries(client, name) == {"delivered": 0.0, "failed": 0.0, "given_up": 0.0},
        "the endpoint's series are there",
    )
    shown = client.get("/metrics").get_data(as_text=True)
    assert {lane for lane in LANES if f'cardsync_ottu_calls_last_day{{lane="{lane}"}} 0.0' in shown} == set(LANES)


def test_the_series_of_keys_and_pools_are_there_once_their_owner_is(client: FlaskClient) -> None:
    text = client.get("/metrics").get_data(as_text=True)
    for scheme in ("standard", "subscription"):
        for key in ("0", "1"):
            assert re.search(rf'^cardsync_signatures_total{{key="{key}",scheme="{scheme}"}} ', text, re.MULTILINE)
    assert 'cardsync_webhook_key_last_used_timestamp_seconds{key="1"}' in text
    assert "cardsync_database_pool_in_use{" in text


def test_a_pools_use_and_waits_are_counted(database_url: str) -> None:
    engine: Engine = db.make_engine(database_url, name="cardsync tested", pool_size=1)
    in_use = metrics.POOL_IN_USE.labels("tested")
    with engine.connect() as one:
        assert in_use._value.get() == 1
        with engine.connect():
            assert in_use._value.get() == 2
        one.invalidate()
    assert in_use._value.get() == 0
    waits = next(s for s in metrics.POOL_WAIT_SECONDS.labels("tested")._child_samples() if s.name == "_count")
    assert waits.value == 2
    engine.dispose()


def test_deliveries_are_counted_by_outcome_and_a_feed_that_is_behind_is_shown(
    client: FlaskClient, engine: Engine, ingest_engine: Engine, worker_engine: Engine
) -> None:
    orders, feed = (f"{name}-{uuid.uuid4()}" for name in ("orders", "feed"))  # the counters are the whole run's
    receiver, sender = Receiver(lambda one: 500 if b"refused" in one.body else 200), Sender()
    ring = KeyRing(SECRET.encode())
    story.add(worker_engine, NewEndpoint(orders, receiver.url, "notifications"), ring)
    story.add(worker_engine, NewEndpoint(feed, receiver.url, "changes"), ring)
    with engine.begin() as connection:
        endpoints.disable(connection, feed)
    add_card(engine)  # one change, which waits for the feed's endpoint
    bodies = [payloads.signed(payloads.operation(session_id=session)) for session in ("taken-1", "taken-2", "refused")]
    store(ingest_engine, [examine(body, WebhookKeys.of([payloads.KEY], ring), keep_body=True) for body in bodies])
    courier = Courier(worker_engine, ring, sender)
    try:
        until(
            lambda: (
                (courier.turn(), _deliveries(client, orders))[1] == {"delivered": 2.0, "failed": 1.0, "given_up": 0.0}
            ),
            "the figures say it",
        )
        with engine.begin() as connection:
            connection.execute(text("UPDATE cardsync.deliveries SET made_at = made_at - interval '3 days'"))
        courier._give_up_at = 0.0
        given_up = {"delivered": 2.0, "failed": 1.0, "given_up": 1.0}
        until(lambda: (courier.turn(), _deliveries(client, orders))[1] == given_up, "the figures say it")
    finally:
        sender.close()
        receiver.close()
    behind = f'cardsync_endpoint_changes_behind{{endpoint="{feed}"}} 1.0'
    until(lambda: behind in client.get("/metrics").text.splitlines(), "the figures say it")
    assert "cardsync_endpoint_changes_behind{" + f'endpoint="{orders}"' not in client.get("/metrics").text


def _deliveries(client: FlaskClient, endpoint: str) -> dict[str, float]:
    """How often each outcome was counted for an endpoint."""
    line = re.compile(rf'^cardsync_deliveries_total{{endpoint="{endpoint}",outcome="(\w+)"}} (\S+)$', re.MULTILINE)
    return {outcome: float(count) for outcome, count in line.findall(client.get("/metrics").text)}


def test_prometheus_finds_nothing_to_complain_about_in_a_scrape(client: FlaskClient) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        assert not os.environ.get("CARDSYNC_REQUIRE_SERVICES"), (
            "promtool is missing: Debian's package prometheus has it"
        )
        pytest.skip("promtool is not here: Debian's package prometheus has it")
    client.get("/v1/cards")
    ours = [
        line for line in client.get("/metrics").get_data(as_text=True).splitlines(keepends=True) if "cardsync_" in line
    ]
    done = subprocess.run(
        [promtool, "check", "metrics"], input="".join(ours), capture_output=True, text=True, timeout=180
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
