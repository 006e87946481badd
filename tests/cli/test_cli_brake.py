"""``cardsync brake``: why it is on, for which customers, and its release."""

from __future__ import annotations

import json

from sqlalchemy import text

from cardsync.db import session
from cardsync.store.deletions import askers, requests
from tests.factories import CustomerFactory, make_card


def hold(shop):
    """A customer whose removals the brake holds, engaged by the list that lacked its card."""
    (customer,) = shop.hint()
    shop.execute("UPDATE cardsync.gate SET brake_engaged_at = clock_timestamp()")
    shop.execute("UPDATE cardsync.customers SET removals_held = true, due_at = NULL, lane = NULL, dirty_since = NULL")
    shop.execute(
        """UPDATE cardsync.brake SET example_customer = :customer, example_observation = 7, example_expected = 3,
           example_lacked = 2, counted = ARRAY[:customer]::bigint[]""",
        customer=customer,
    )
    return customer


def test_the_brake_shows_since_when_it_is_on_whom_it_holds_and_the_list_that_engaged_it(cardsync, shop):
    customer = hold(shop)
    shown = json.loads(cardsync("brake", "show", "--json").stdout)
    assert (shown["engaged"], shown["customers_held"]) == (True, 1)
    assert shown["engaged_at"] is not None
    example = shown["example"]
    assert (example["customer"], example["customer_id"], example["expected"], example["lacked"]) == (
        customer,
        "cust-1",
        3,
        2,
    )
    assert [one["customer"] for one in shown["held"]] == [customer]
    assert [one["customer"] for one in shown["lost"]] == [customer]
    text = cardsync("brake", "show").stdout
    assert "should have confirmed 3 cards and lacked 2" in text
    assert "cust-1" in text


def test_a_brake_that_never_was_on_is_shown_too(cardsync, shop):
    shown = json.loads(cardsync("brake", "show", "--json").stdout)
    assert (shown["engaged"], shown["customers_held"], shown["example"], shown["held"]) == (False, 0, None, [])
    assert cardsync("brake", "show").stdout.startswith("The brake is off.")


def test_the_brake_is_released_and_those_it_held_are_looked_at_in_lane_sweep(cardsync, shop):
    hold(shop)
    released = cardsync("brake", "release")
    assert released.exit_code == 0
    assert "1 customers" in released.stdout
    assert json.loads(cardsync("brake", "show", "--json").stdout)["engaged"] is False
    assert shop.customer().due_at is not None
    assert shop.customer().lane == "sweep"
    assert "was not on" in cardsync("brake", "release").stdout


def test_an_operator_vouches_for_a_number_of_customers(cardsync, shop):
    hold(shop)
    assert cardsync("brake", "release", "--accept", "-1").exit_code == 2
    assert cardsync("brake", "release", "--accept", "5").exit_code == 0
    assert json.loads(cardsync("brake", "show", "--json").stdout)["accepted"] == 5


def ask(engine, number, asker="api:shop"):
    card_id = make_card(CustomerFactory(), token=f"999900000000000{number}").card_id
    with engine.begin() as connection:
        askers.keep_limits(connection, share=0.01, floor=1)
        return requests.request(connection, card_id=card_id, requested_by="test", asker=asker).deletion_id


def test_the_brake_shows_whose_requests_are_held_and_releases_them(cardsync, engine, bound_factories):
    deletions = [ask(engine, number) for number in range(3)]
    (held,) = json.loads(cardsync("brake", "show", "--json").stdout)["requests"]
    assert (held["asker"], held["asked"], held["deletions_held"]) == ("api:shop", 3, 2)
    assert "api:shop" in cardsync("brake", "show").stdout
    assert cardsync("brake", "release", "--asker", "api:shop").exit_code == 2
    assert "0 askers" in cardsync("brake", "release", "--requests", "--asker", "api:another").stdout
    assert "1 askers are released; 2 deletions" in cardsync("brake", "release", "--requests").stdout
    assert json.loads(cardsync("brake", "show", "--json").stdout)["requests"] == []
    shown = json.loads(cardsync("deletions", "show", str(deletions[2]), "--json").stdout)
    assert (shown["status"], shown["error"]) == ("pending", None)


def test_a_release_that_leaves_some_held_says_how_many_and_fails(cardsync, engine, bound_factories, monkeypatch):
    deletions = [ask(engine, number) for number in range(4)]
    monkeypatch.setitem(session.SESSION, "lock_timeout", "100")
    with engine.connect() as other:
        locked = {"these": deletions[2:]}
        other.execute(text("SELECT FROM cardsync.deletions WHERE deletion_id = ANY(:these) FOR UPDATE"), locked)
        done = cardsync("brake", "release", "--requests")
    assert done.exit_code == 1
    assert "1 askers are released; 1 deletions are called for." in done.stdout
    assert "2 are held still" in done.stderr
    assert "0 askers are released; 2 deletions" in cardsync("brake", "release", "--requests").stdout


def test_a_held_deletion_can_be_cancelled_once(cardsync, engine, bound_factories):
    held = [ask(engine, number) for number in range(2)][1]
    assert json.loads(cardsync("deletions", "show", str(held), "--json").stdout)["error"] == "held"
    assert cardsync("deletions", "cancel", str(held)).exit_code == 0
    shown = json.loads(cardsync("deletions", "show", str(held), "--json").stdout)
    assert (shown["status"], shown["error"]) == ("failed", "cancelled")
    assert cardsync("deletions", "cancel", str(held)).exit_code == 1
