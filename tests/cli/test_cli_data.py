"""Keys, customers, events, the brake, explain: what they do to the database, and what they print."""

from __future__ import annotations

import json

import pytest

from cardsync.enrol import BAD_LINES_KEPT
from cardsync.forget import ForgetPolicy, forget
from cardsync.settings import Settings
from cardsync.store import keys
from tests import payloads
from tests.stories.worlds import listed

TOKEN = "9999000000000001"
NOBODY = "00000000-0000-0000-0000-000000000001"


def test_a_key_is_printed_once_and_found_by_its_hash(cardsync, engine):
    made = json.loads(
        cardsync("keys", "create", "--name", "shop", "--scope", "ops", "--scope", "cards:read", "--json").stdout
    )
    assert set(made) == {"key", "key_id", "name", "scopes"}
    assert made["scopes"] == ["cards:read", "ops"]
    with engine.connect() as connection:
        found = keys.find(connection, keys.key_hash(made["key"]))
    assert found is not None
    assert str(found.key_id) == made["key_id"]
    shown = cardsync("keys", "list", "--json").stdout + cardsync("keys", "list").stdout
    assert made["key_id"] in shown
    assert made["key"] not in shown


def test_a_revoked_key_opens_nothing_and_cannot_be_revoked_again(cardsync, engine):
    created = cardsync("keys", "create", "--name", "shop", "--scope", "ops")
    key = created.stdout.strip()
    key_id = json.loads(cardsync("keys", "list", "--json").stdout)[0]["key_id"]
    assert cardsync("keys", "revoke", key_id).exit_code == 0
    with engine.connect() as connection:
        assert keys.find(connection, keys.key_hash(key)) is None
    again = cardsync("keys", "revoke", key_id)
    assert again.exit_code == 1
    assert key_id in again.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--scope", "ops"], ["--name", "x"], ["--name", "x", "--scope", "all"], ["--name", "", "--scope", "ops"]],
)
def test_an_incomplete_key_is_wrong_usage(cardsync, arguments):
    assert cardsync("keys", "create", *arguments).exit_code == 2


def known(engine):
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT environment, customer_id FROM registry.customers").all()
    return {tuple(row) for row in rows}


def test_customers_are_imported_from_csv_in_any_order_of_columns(cardsync, engine, tmp_path):
    file = tmp_path / "customers.csv"
    text = '\ufeffcustomer_id,since,environment\r\n"a,""b",2020,sandbox\r\nkhālid/%,x,production\r\n\r\n'
    file.write_bytes(text.encode())
    result = cardsync("customers", "import", str(file))
    assert (result.exit_code, result.stdout) == (0, "2 customers, 2 of them new; 0 bad lines.\n")
    assert known(engine) == {("sandbox", 'a,"b'), ("production", "khālid/%")}


def test_importing_again_changes_nothing(cardsync, engine):
    lines = '{"environment": "sandbox", "customer_id": "a\\nb"}\n' * 2
    first = json.loads(cardsync("customers", "import", "-", "--json", stdin=lines).stdout)
    second = json.loads(cardsync("customers", "import", "-", "--json", stdin=lines).stdout)
    assert (first["new"], second["new"], second["customers"]) == (1, 0, 2)
    assert known(engine) == {("sandbox", "a\nb")}


def test_bad_lines_are_named_by_number_and_cost_only_themselves(cardsync, engine):
    lines = [
        b"environment,customer_id",
        b"test,one",
        b'sandbox,"open',
        b"sandbox,\xff",
        b"sandbox",
        b"sandbox," + b"x" * 65,
        b"sandbox," + b"y" * 300_000,
        b"sandbox,good",
    ]
    result = cardsync("customers", "import", "-", "--json", stdin=b"\n".join(lines))
    summary = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [bad["line"] for bad in summary["bad_lines"]] == [2, 3, 4, 5, 6, 7]
    assert (summary["lines"], summary["bad"], summary["new"]) == (7, 6, 1)
    assert "6 of 7 lines were bad" in result.stderr
    assert known(engine) == {("sandbox", "good")}


def test_the_list_of_bad_lines_is_bounded_and_their_count_is_not(cardsync):
    lines = "environment,customer_id\n" + "sandbox,\n" * 1_000
    summary = json.loads(cardsync("customers", "import", "-", "--json", stdin=lines).stdout)
    assert summary["bad"] == 1_000
    assert len(summary["bad_lines"]) == BAD_LINES_KEPT


def test_a_file_without_a_header_is_wrong_usage(cardsync, engine):
    assert cardsync("customers", "import", "-", stdin="sandbox,one\n").exit_code == 2
    assert known(engine) == set()


def test_more_than_one_batch_is_imported(cardsync, engine):
    lines = "environment,customer_id\n" + "".join(f"sandbox,cust-{n}\n" for n in range(20_001))
    assert cardsync("customers", "import", "-", stdin=lines).exit_code == 0
    assert len(known(engine)) == 20_001


def test_events_are_listed_and_shown_without_what_the_hint_says(cardsync, shop):
    event_id = str(shop.receive(customer_id="cust\x1b[31m").event_id)
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


@pytest.mark.parametrize("command", [["events", "show"], ["events", "replay"], ["explain"], ["keys", "revoke"]])
def test_what_does_not_exist_is_a_failure_and_no_id_is_wrong_usage(cardsync, command):
    assert cardsync(*command, NOBODY).exit_code == 1
    assert cardsync(*command, "nonsense").exit_code == 2


def test_the_brake_is_shown_and_released_with_those_it_held(cardsync, shop):
    shop.hint()
    shop.execute("UPDATE cardsync.gate SET brake_engaged_at = clock_timestamp()")
    shop.execute("UPDATE cardsync.customers SET removals_held = true, due_at = NULL, lane = NULL, dirty_since = NULL")
    shown = json.loads(cardsync("brake", "show", "--json").stdout)
    assert (shown["engaged"], shown["customers_held"]) == (True, 1)
    released = cardsync("brake", "release")
    assert released.exit_code == 0
    assert "1 customers" in released.stdout
    assert json.loads(cardsync("brake", "show", "--json").stdout)["engaged"] is False
    assert shop.customer().due_at is not None
    assert "was not on" in cardsync("brake", "release").stdout


def card_id(shop):
    return str(shop.execute("SELECT card_id FROM cardsync.cards")[0].card_id)


def test_explain_tells_the_story_of_a_card_from_hint_to_removal(cardsync, shop):
    (customer,) = shop.hint()
    explained = cardsync("explain", card_id(shop))
    assert explained.stdout.startswith("Unconfirmed: a hint of ")
    shop.ottu.cards = listed(TOKEN)
    shop.reconcile(customer)
    explained = json.loads(cardsync("explain", card_id(shop), "--json").stdout)
    assert explained["verdict"].startswith("Active since ")
    assert [change["change"] for change in explained["changes"]] == ["added"]
    assert [hint["status"] for hint in explained["hints"]] == ["done"]
    assert explained["observations"][0]["outcome"] == "changed"
    shop.ottu.cards = ()
    shop.reconcile(customer, lane="hint")
    removed = cardsync("explain", card_id(shop))
    assert removed.stdout.startswith("Removed at ")
    assert "a complete list no longer had it" in removed.stdout


def test_explain_never_shows_a_token(cardsync, shop):
    (customer,) = shop.hint()
    shop.ottu.cards = listed(TOKEN)
    shop.reconcile(customer)
    shop.receive(result="failed")
    for arguments in (["explain", card_id(shop)], ["explain", card_id(shop), "--json"]):
        output = cardsync(*arguments).output
        assert TOKEN not in output
        assert "fingerprint" not in output
        assert "1 hints are still open" in output


def test_what_has_shed_its_content_is_shown_as_such_and_explains_no_card_any_more(cardsync, shop):
    (customer,) = shop.hint()
    shop.ottu.cards = listed(TOKEN)
    shop.reconcile(customer)
    shop.execute("UPDATE cardsync.events SET received_at = received_at - interval '31 days'")
    forget(shop.engine, ForgetPolicy.of(Settings()))
    (event,) = json.loads(cardsync("events", "list", "--json").stdout)
    assert event["shed_at"] is not None
    assert event["customer_id"] is event["session_id"] is event["card_id"] is None
    assert "shed_at" in cardsync("events", "show", event["event_id"]).stdout
    explained = cardsync("explain", card_id(shop))
    assert explained.stdout.startswith("Active since ")
    assert "Hints that named it, newest first: none" in explained.stdout
    assert "Hints are shown for 30 days" in explained.stderr


def test_explain_knows_a_card_that_was_hinted_at_and_dropped(cardsync, shop):
    (customer,) = shop.hint()
    dropped = card_id(shop)
    shop.age_hints(1_000)
    shop.reconcile(customer)
    assert shop.cards() == {}
    assert cardsync("explain", dropped).stdout.startswith("Dropped: ")
