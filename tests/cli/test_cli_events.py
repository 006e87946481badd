"""``cardsync events``: what is shown of a notification, and which one can be replayed."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from tests import payloads

TOKEN = "9999000000000001"
NOBODY = "00000000-0000-0000-0000-000000000001"


def test_events_are_listed_and_shown_without_what_the_hint_says(cardsync, shop):
    event_id = str(shop.receive(customer_id="cust\x1b[31m", order_no="order-1").event_id)
    everything = [
        cardsync("events", "list"),
        cardsync("events", "list", "--status", "pending", "--json"),
        cardsync("events", "show", event_id),
        cardsync("events", "show", event_id, "--json"),
    ]
    for result in everything:
        assert result.exit_code == 0
        assert event_id in result.stdout
        assert TOKEN not in result.output
        assert payloads.PERSONAL not in result.output
        assert "\x1b" not in result.stdout
    shown = json.loads(everything[-1].stdout)
    assert shown["status"] == "pending"
    assert shown["received_at"].endswith("Z")
    assert cardsync("events", "list", "--status", "failed", "--json").stdout == "[]\n"


def test_a_failed_event_is_replayed_and_a_settled_one_is_not(cardsync, shop):
    receipt = shop.receive()
    shop.execute("UPDATE cardsync.events SET status = 'failed', attempts = 10")
    assert cardsync("events", "replay", str(receipt.event_id)).exit_code == 0
    assert shop.execute("SELECT status, attempts FROM cardsync.events")[0] == ("pending", 0)
    shop.process(receipt)
    settled = cardsync("events", "replay", str(receipt.event_id))
    assert settled.exit_code == 1
    assert "done" in settled.stderr


def test_events_are_listed_since_a_moment_as_cardsync_prints_it(cardsync, shop):
    shop.receive()
    (row,) = json.loads(cardsync("events", "list", "--json").stdout)
    printed = row["received_at"]
    assert printed.endswith("Z")
    moment = dt.datetime.fromisoformat(printed)
    later = moment + dt.timedelta(seconds=1)
    in_kuwait = moment.astimezone(dt.timezone(dt.timedelta(hours=3)))
    for since, shown in (
        (printed, 1),
        (later.isoformat().replace("+00:00", "Z"), 0),
        (in_kuwait.isoformat(), 1),
        (moment.strftime("%Y-%m-%d"), 1),
        (moment.strftime("%Y-%m-%dT%H:%M:%S"), 1),
        (moment.strftime("%Y-%m-%d %H:%M:%S"), 1),
        (later.strftime("%Y-%m-%d %H:%M:%S.%f"), 0),
        ("2026-1-5", 1),
        ("9999-12-31", 0),
    ):
        listed = cardsync("events", "list", "--since", since, "--json")
        assert (listed.exit_code, len(json.loads(listed.stdout))) == (0, shown), since
    for nonsense in ("", "yesterday", "2026-13-01", "10:20"):
        refused = cardsync("events", "list", "--since", nonsense)
        assert refused.exit_code == 2
        assert "2026-11-25T10:20:30Z" in refused.stderr


@pytest.mark.parametrize("command", [["events", "show"], ["events", "replay"], ["explain"], ["keys", "revoke"]])
def test_what_does_not_exist_is_a_failure_and_no_id_is_wrong_usage(cardsync, command):
    assert cardsync(*command, NOBODY).exit_code == 1
    assert cardsync(*command, "nonsense").exit_code == 2
