"""``cardsync endpoints`` and ``deliveries``: what is shown once, what is refused, and what is sent again."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import text

from cardsync.stories.receive import examine, store
from tests import payloads
from tests.factories import RING, CustomerFactory, make_card
from tests.receivers import Receiver
from tests.stories.shop import KEYS

URL = "https://orders.example.test/hook"


def add(cardsync, name="orders", url=URL, kind="notifications", *more):
    return cardsync("endpoints", "add", "--name", name, "--url", url, "--kind", kind, *more)


def test_an_endpoints_secret_is_shown_once(cardsync):
    added = json.loads(add(cardsync, "orders", URL, "notifications", "--json").stdout)
    assert added["secret"].startswith("whsec_")
    assert {"endpoint_id", "secret"} <= set(added)
    for result in (
        cardsync("endpoints", "list"),
        cardsync("endpoints", "list", "--json"),
        cardsync("endpoints", "show", "orders"),
        cardsync("endpoints", "show", "orders", "--json"),
    ):
        assert result.exit_code == 0
        assert added["secret"].removeprefix("whsec_") not in result.output
        assert "orders" in result.stdout
    rotated = json.loads(cardsync("endpoints", "rotate", "orders", "--json").stdout)
    assert rotated["secret"] != added["secret"]
    assert cardsync("endpoints", "rotate", "orders").stdout.startswith("whsec_")


@pytest.mark.parametrize(
    "url",
    [
        "http://orders.example.test/hook",
        "http://8.8.8.8/hook",
        "http://169.254.169.254/latest/meta-data",
        "https://169.254.169.254/",
        "https://user:password@orders.example.test/",
        "https://orders.example.test/#part",
        "ftp://orders.example.test/",
        "https:///hook",
        "http://[::ffff:8.8.8.8]/",
        "http://0.0.0.0/",
        "http://[fd00:ec2::254]/",
    ],
)
def test_an_address_that_is_never_sent_to_is_refused(cardsync, monkeypatch, url):
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("93.184.216.34", 0))])
    assert add(cardsync, "orders", url).exit_code == 2


@pytest.mark.parametrize("url", ["http://a..b/", "https://orders..example.test/", f"https://{'a' * 64}.test/"])
def test_a_name_that_none_can_look_up_is_refused_in_a_line(cardsync, url):
    refused = add(cardsync, "orders", url)
    assert refused.exit_code == 2
    assert "the URL is not well formed" in refused.stderr


@pytest.mark.parametrize(
    "url", [URL, "http://127.0.0.1:8080/hook", "http://10.1.2.3/", "http://localhost/", "http://[::1]/"]
)
def test_https_anywhere_and_http_to_private_networks_is_taken(cardsync, url):
    assert add(cardsync, "orders", url).exit_code == 0


def test_what_is_not_there_or_not_so_is_a_failure(cardsync):
    assert add(cardsync).exit_code == 0
    assert add(cardsync).exit_code == 1
    for command in ("show", "disable", "enable", "remove", "rotate", "test"):
        assert cardsync("endpoints", command, "nothing").exit_code == 1
    assert cardsync("endpoints", "enable", "orders").exit_code == 1
    assert cardsync("endpoints", "disable", "orders").exit_code == 0
    assert cardsync("endpoints", "disable", "orders").exit_code == 1
    assert cardsync("endpoints", "enable", "orders").exit_code == 0
    assert cardsync("endpoints", "remove", "orders").exit_code == 0
    assert json.loads(cardsync("endpoints", "list", "--json").stdout) == []
    assert add(cardsync, "x", URL, "notifications", "--from-seq", "1").exit_code == 2
    assert add(cardsync, "9999 1234 1234 1234").exit_code == 2


def test_a_test_message_is_signed_and_its_answer_is_told(cardsync):
    receiver = Receiver()
    try:
        receiver.secret = json.loads(add(cardsync, "orders", receiver.url, "changes", "--json").stdout)["secret"]
        answered = cardsync("endpoints", "test", "orders")
        assert (answered.exit_code, answered.stdout) == (0, "orders answered 200.\n")
        assert receiver.received[0].content["type"] == "cardsync.test"
        receiver.answer = lambda _: 500
        assert cardsync("endpoints", "test", "orders").exit_code == 1
        assert receiver.refused == []
    finally:
        receiver.close()


def test_deliveries_are_listed_shown_and_replayed_without_their_bodies(cardsync, shop):
    assert add(cardsync).exit_code == 0
    store(shop.ingest, [examine(payloads.signed(payloads.payment()), KEYS, keep_body=True)])
    shop.execute("UPDATE cardsync.deliveries SET status = 'failed', finished_at = clock_timestamp(), attempts = 9")
    (listed,) = json.loads(
        cardsync("deliveries", "list", "--endpoint", "orders", "--status", "failed", "--json").stdout
    )
    number = str(listed["delivery_id"])
    for result in (cardsync("deliveries", "list"), cardsync("deliveries", "show", number)):
        assert result.exit_code == 0
        payloads.assert_nothing_personal(result.output)
        assert payloads.TOKEN not in result.output
    assert (
        cardsync("deliveries", "replay", "--endpoint", "orders", "--failed").stdout == "1 deliveries are sent again.\n"
    )
    assert shop.execute("SELECT status, attempts FROM cardsync.deliveries")[0] == ("pending", 0)
    assert cardsync("deliveries", "replay", number).exit_code == 0
    shop.execute("UPDATE cardsync.kept_bodies SET body = NULL, customer_id = NULL, session_id = NULL")
    gone = cardsync("deliveries", "replay", number)
    assert (gone.exit_code, "erased" in gone.stderr) == (1, True)
    assert cardsync("deliveries", "show", "999").exit_code == 1
    for wrong in (["replay"], ["replay", number, "--endpoint", "orders"], ["replay", "--endpoint", "orders"]):
        assert cardsync("deliveries", *wrong).exit_code == 2
    assert RING.prefix not in cardsync("deliveries", "show", number, "--json").stdout


def test_doctor_says_which_endpoint_is_behind_and_why(engine, cardsync, shop, bound_factories):
    from cardsync.cli.doctor import endpoints

    assert list(endpoints.lags(engine)) == []
    add(cardsync)
    add(cardsync, "feed", URL, "changes")
    store(shop.ingest, [examine(payloads.signed(payloads.operation()), KEYS, keep_body=True)])
    assert [check.status for check in endpoints.lags(engine)] == ["ok"]
    shop.execute("UPDATE cardsync.deliveries SET made_at = made_at - interval '10 minutes'")
    shop.execute("UPDATE cardsync.endpoints SET last_error = 'no connection' WHERE name = 'orders'")
    (late,) = endpoints.lags(engine)
    assert late.status == "warning"
    assert late.found.startswith("orders is behind (1 notifications wait, the oldest for 10 minutes): no connection")
    make_card(CustomerFactory())  # a change, which no worker sends
    assert [check.found.partition(" ")[0] for check in endpoints.lags(engine)] == ["orders"]
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))  # the feed is append-only
        connection.execute(text("UPDATE cardsync.card_changes SET at = at - interval '10 minutes'"))
    feed, _ = endpoints.lags(engine)
    assert (feed.status, feed.found) == (
        "warning",
        "feed is behind (1 changes wait, the oldest for 10 minutes): a worker has not sent it yet",
    )
    shown = json.loads(cardsync("endpoints", "show", "feed", "--json").stdout)
    assert (shown["behind"], shown["pending"], shown["failing_since"]) == (1, 0, None)
    assert shown["oldest_pending_at"] is not None
    cardsync("endpoints", "disable", "feed")
    assert "disabled by an operator" in "".join(check.found for check in endpoints.lags(engine))
