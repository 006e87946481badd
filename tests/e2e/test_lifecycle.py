"""Real processes tell of cards that expire, ask Ottu about single agreements, and look before a charge that billing told of."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from zoneinfo import ZoneInfo

import pytest

from tests.e2e.marks import ONE_BROKER
from tests.e2e.processes import run
from tests.e2e.system import ENVIRONMENT, System, token_of
from tests.waiting import until

pytestmark = ONE_BROKER
ZONE = "Pacific/Kiritimati"  # fourteen hours ahead of UTC: for more than half of each day it has another date
SETTINGS = {"CARDSYNC_TIME_ZONE": ZONE}


@pytest.fixture(autouse=True)
def _usual_knobs(system: System) -> Iterator[None]:
    yield
    system.simulator.turn(listed_agreements="serving")


def calendar_rows(system: System, customer: str) -> list[tuple[str, list[str], str]]:
    rows = system.sql(
        "SELECT change, fields, cause FROM registry.card_changes"
        " WHERE customer_id = %s AND change IN ('expiring', 'expired') ORDER BY seq",
        customer,
    )
    return [(row["change"], row["fields"], row["cause"]) for row in rows]


def expiry(day: dt.date) -> dict[str, str]:
    return {"expiry_month": f"{day.month:02d}", "expiry_year": f"{day.year % 100:02d}"}


def test_the_calendar_tells_each_thing_once_in_the_merchants_zone_and_begins_anew_with_a_new_expiry(
    system: System,
) -> None:
    # As after a change of the setting: an upgrade writes the time zone into the database.
    assert run(system.folder, system.settings, "db", "upgrade").returncode == 0
    today = dt.datetime.now(ZoneInfo(ZONE)).date()
    last_month = today.replace(day=1) - dt.timedelta(days=1)
    soon, over = system.customer(), system.customer()
    system.save_card(soon, **expiry(today))
    visit = system.save_card(over, **expiry(last_month))
    system.until_active(soon, over)
    until(lambda: calendar_rows(system, over) == [("expired", [], "calendar")], "told that it is expired")
    until(lambda: len(calendar_rows(system, soon)) == 1, "told that it expires")
    row = system.sql("SELECT expires_on, expires_in_days FROM registry.expiring_cards WHERE customer_id = %s", soon)[0]
    now = dt.datetime.now(ZoneInfo(ZONE)).date()
    assert (row["expires_on"] - row["expires_in_days"] * dt.timedelta(days=1)) in (today, now)
    (told,) = calendar_rows(system, soon)
    assert told in [("expiring", [str(days)], "calendar") for days in (7, 30)]
    # A card whose expiry changes begins again; and its word comes at a later tick than the others', which say nothing more.
    system.simulator.world.change_card(ENVIRONMENT, over, token_of(visit), **expiry(today))
    key = system.key("cards:reconcile")
    assert system.post("/v1/reconciliations", key, environment=ENVIRONMENT, customer_id=over).status_code == 202
    until(lambda: calendar_rows(system, over) == [("expired", [], "calendar"), told], "told of the new expiry")
    assert calendar_rows(system, soon) == [told]


def card_of(system: System, agreement_id: str) -> str | None:
    """The token of the card that an agreement is charged to."""
    rows = system.sql(
        "SELECT t.token FROM registry.agreement_cards AS a JOIN registry.card_tokens AS t USING (card_id)"
        " WHERE a.environment = %s AND a.agreement_id = %s",
        ENVIRONMENT,
        agreement_id,
    )
    return rows[0]["token"] if rows else None


def answered(system: System, agreement_id: str) -> bool:
    sql = "SELECT answered_at FROM cardsync.known_agreements WHERE agreement_id = %s AND answered_at IS NOT NULL"
    return bool(system.sql(sql, agreement_id))


def test_of_two_cards_that_claim_an_agreement_ottu_is_asked_which_one_it_is(system: System) -> None:
    system.simulator.turn(listed_agreements="former_too")
    customer, checkout = system.customer(), system.simulator.checkout
    agreement_id = f"agr-{customer}"
    first, second = (token_of(system.save_card(customer)) for _ in range(2))
    for token in (first, second):
        system.delivered(checkout().agree(ENVIRONMENT, customer, token, agreement_id=agreement_id))
    until(lambda: answered(system, agreement_id), "Ottu was asked about the agreement alone")
    until(lambda: card_of(system, agreement_id) == second, "the latest used card is the agreement's")
    system.until_active(customer, cards=2)


def test_an_agreement_that_a_first_payment_named_and_no_listed_card_has_is_asked_about(system: System) -> None:
    system.simulator.turn(listed_agreements="none")
    customer = system.customer()
    agreement_id = f"agr-{customer}"
    token = token_of(system.save_card(customer))
    system.delivered(system.simulator.checkout().agree(ENVIRONMENT, customer, token, agreement_id=agreement_id))
    until(lambda: card_of(system, agreement_id) == token, "Ottu's own answer links it")
    assert answered(system, agreement_id)


def test_a_reader_of_an_agreement_that_was_never_notified_reads_through(system: System) -> None:
    customer = system.customer()
    agreement_id = f"agr-{customer}"
    token = token_of(system.save_card(customer))
    system.until_active(customer)
    system.simulator.checkout().agree(ENVIRONMENT, customer, token, agreement_id=agreement_id, notify=False)
    key = system.key("cards:read", "tokens:read")
    asked = {"environment": ENVIRONMENT, "agreement_id": agreement_id}
    assert system.get("/v1/agreements/card", key, **asked).status_code == 404

    def reads_through() -> bool:  # on a slow machine the answer may come later than one reader waits
        answer = system.get("/v1/agreements/card", key, **asked, customer_id=customer, max_age=60)
        return answer.status_code == 200 and (answer.json()["token"], answer.json()["stale"]) == (token, False)

    until(reads_through, "the reader gets the card")


def test_a_reader_of_one_gateways_cards_is_served_by_that_gateways_list(system: System) -> None:
    customer = system.customer()
    for pg_code in ("gateway-one", "gateway-two"):
        system.save_card(customer, pg_code=pg_code)
    system.until_active(customer, cards=2)
    system.until_settled(customer)
    key = system.key("cards:read")
    asked = {"environment": ENVIRONMENT, "customer_id": customer, "pg_code": "gateway-one"}

    def serves() -> bool:
        # As if time had passed: the cool-down is over. Where a routine look then comes before the reader, no gateway is asked.
        system.sql(
            "UPDATE cardsync.customers SET reconciled_at = reconciled_at - interval '2 minutes' WHERE customer_id = %s",
            customer,
        )
        listed_at = system.get("/v1/cards", key, **asked).json()["reconciled_at"]
        answer = system.get("/v1/cards", key, **asked, max_age=60).json()
        rows = system.sql(
            "SELECT g.answered_no FROM cardsync.gateway_asks AS g JOIN cardsync.customers AS o ON o.id = g.customer"
            " WHERE o.customer_id = %s AND g.pg_code = 'gateway-one' AND g.answered_no IS NOT NULL"
            " AND g.answered_at > o.reconciled_at",
            customer,
        )
        return bool(
            rows
            and not answer["stale"]
            and answer["reconciled_at"] > listed_at
            and [card["pg_code"] for card in answer["cards"]] == ["gateway-one"]
        )

    until(serves, "the reader gets the gateway's cards, by that gateway's list")
    system.until_active(customer, cards=2)  # the other gateway's card stays


def test_a_charge_that_billing_tells_of_lets_the_card_be_looked_at_before_the_next_one(system: System) -> None:
    customer, checkout = system.customer(), system.simulator.checkout
    agreement_id = f"agr-{customer}"
    token = token_of(system.save_card(customer))
    system.delivered(checkout().agree(ENVIRONMENT, customer, token, agreement_id=agreement_id))
    until(lambda: card_of(system, agreement_id) == token, "the agreement is known")
    assert checkout().charge_agreement(ENVIRONMENT, agreement_id).delivery is None, "Ottu notifies no later charge"
    system.simulator.world.change_card(ENVIRONMENT, customer, token, brand="CHANGED")
    key = system.key("cards:reconcile")
    near = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=2)).isoformat()
    told = {"environment": ENVIRONMENT, "agreement_id": agreement_id, "next_charge_at": near}
    first, again = (system.post("/v1/charges", key, idempotency_key="c", **told) for _ in range(2))
    assert (first.status_code, again.headers["Idempotent-Replayed"]) == (202, "true")

    def brands() -> list[str]:
        rows = system.sql("SELECT brand FROM registry.cards WHERE customer_id = %s", customer)
        return [row["brand"] for row in rows]

    until(lambda: brands() == ["CHANGED"], "the card was looked at before the charge")
