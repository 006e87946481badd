"""What expires and what is at risk, over HTTP: a page, its bounds, its scope."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from cardsync.core.change_rate import BEFORE_A_CHARGE
from cardsync.core.expiry import month_ends
from tests.clocks import host_off_by
from tests.web.conftest import NotingBells
from tests.web.rows import add_card
from tests.web.test_api import CARD_FIELDS

Bearer = Callable[..., dict[str, str]]


def soon() -> dict[str, str]:
    """The facts of a card whose month ends next."""
    today = dt.datetime.now(dt.timezone(dt.timedelta(hours=3))).date()  # Kuwait's
    end = month_ends(today, today + dt.timedelta(days=31))[0]
    return {"expiry_month": f"{end:%m}", "expiry_year": f"{end:%y}"}


def test_cards_that_expire_are_paged_without_tokens(client: FlaskClient, engine: Engine, bearer: Bearer) -> None:
    ids = sorted(str(add_card(engine, f"cust-{n}", f"tok-fake-000{n}", **soon())) for n in range(3))
    add_card(engine, "cust-9", "tok-fake-0009", expiry_month="01", expiry_year="39")
    query: dict[str, object] = {"environment": "sandbox", "within_days": 31, "limit": 2}
    headers = bearer("cards:read", "tokens:read")
    first = client.get("/v1/cards/expiring", query_string=query, headers=headers).json
    assert first is not None
    assert [card["card_id"] for card in first["cards"]] == ids[:2]
    assert set(first["cards"][0]) == {*CARD_FIELDS, "expires_in_days"}
    assert 0 <= first["cards"][0]["expires_in_days"] <= 31
    assert first["next_after"] == ids[1]
    last = client.get("/v1/cards/expiring", query_string={**query, "after": ids[1]}, headers=headers).json
    assert last is not None
    assert ([card["card_id"] for card in last["cards"]], last["next_after"]) == (ids[2:], None)


def test_agreements_at_risk_are_paged(client: FlaskClient, engine: Engine, bearer: Bearer) -> None:
    card_id = add_card(engine, agreement_ids=("A", "B"), **soon())
    add_card(engine, "cust-2", "tok-fake-0002", agreement_ids=("C",), expiry_month="01", expiry_year="39")
    query: dict[str, object] = {"environment": "sandbox", "limit": 1}
    first = client.get("/v1/agreements/at-risk", query_string=query, headers=bearer("cards:read")).json
    assert first is not None
    (risk,) = first["agreements"]
    assert risk.pop("since").endswith("Z")
    assert risk == {"environment": "sandbox", "agreement_id": "A", "card_id": str(card_id), "reason": "expiring"}
    assert first["next_after"] == "A"
    last = client.get("/v1/agreements/at-risk", query_string={**query, "after": "B"}, headers=bearer("cards:read")).json
    assert last == {"agreements": [], "next_after": None}


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/v1/cards/expiring", "environment=sandbox"),
        ("/v1/cards/expiring", "environment=sandbox&within_days=0"),
        ("/v1/cards/expiring", "environment=sandbox&within_days=366"),
        ("/v1/cards/expiring", "environment=sandbox&within_days=1e1"),
        ("/v1/cards/expiring", "environment=sandbox&within_days=30&after=no-uuid"),
        ("/v1/cards/expiring", "environment=sandbox&within_days=30&limit=1001"),
        ("/v1/cards/expiring", "within_days=30"),
        ("/v1/agreements/at-risk", ""),
        ("/v1/agreements/at-risk", "environment=sandbox&limit=0"),
        ("/v1/agreements/at-risk", "environment=sandbox&after="),
    ],
)
def test_what_is_no_such_question_is_unprocessable(client: FlaskClient, bearer: Bearer, path: str, query: str) -> None:
    assert client.get(f"{path}?{query}", headers=bearer("cards:read")).status_code == 422


@pytest.mark.parametrize(
    "path", ["/v1/cards/expiring?environment=sandbox&within_days=1", "/v1/agreements/at-risk?environment=sandbox"]
)
def test_reading_needs_its_scope(client: FlaskClient, bearer: Bearer, path: str) -> None:
    assert client.get(path, headers=bearer("cards:reconcile")).status_code == 403
    assert client.get(path).status_code == 401


def card_with_agreement(engine: Engine) -> None:
    add_card(engine, agreement_ids=("A",), expiry_month="01", expiry_year="39")


def expected(engine: Engine) -> tuple[dt.datetime | None, dt.datetime | None]:
    """When the agreement is charged next as others see it, and when the customer is looked at."""
    with engine.connect() as connection:
        row = connection.execute(
            text("SELECT next_charge_at, look_by FROM registry.agreements, cardsync.customers WHERE agreement_id = 'A'")
        ).one()
    return row.next_charge_at, row.look_by


def tell(client: FlaskClient, headers: dict[str, str], **more: object) -> TestResponse:
    return client.post("/v1/charges", json={"environment": "sandbox", "agreement_id": "A", **more}, headers=headers)


def test_a_charge_that_billing_tells_of_says_when_the_card_is_looked_at_next(
    client: FlaskClient, engine: Engine, bearer: Bearer, bells: NotingBells
) -> None:
    card_with_agreement(engine)
    charged = dt.datetime.now(dt.UTC).replace(microsecond=0) - dt.timedelta(days=3)
    answer = tell(client, bearer("cards:reconcile"), charged_at=charged.isoformat())
    assert answer.status_code == 202
    assert answer.json is not None
    next_charge_at = dt.datetime.fromisoformat(answer.json["next_charge_at"])
    assert 25 <= (next_charge_at - charged).days <= 31  # a month: nothing else is known
    assert expected(engine) == (next_charge_at, next_charge_at - BEFORE_A_CHARGE)
    assert bells.rung == 0
    again = tell(client, bearer("cards:reconcile"), charged_at=charged.isoformat())
    assert again.json == answer.json


def test_a_next_charge_that_is_told_counts_and_one_that_is_near_asks_for_a_look_now(
    client: FlaskClient, engine: Engine, bearer: Bearer, bells: NotingBells
) -> None:
    card_with_agreement(engine)
    far, near = (dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(hours=h) for h in (200, 2))
    tell(client, bearer("cards:reconcile"), next_charge_at=far.isoformat())
    assert (expected(engine), bells.rung) == ((far, far - BEFORE_A_CHARGE), 0)
    tell(client, bearer("cards:reconcile"), next_charge_at=near.isoformat())
    assert expected(engine)[0] == near
    assert bells.rung == 1


def test_a_charge_of_an_unknown_agreement_is_not_found(client: FlaskClient, bearer: Bearer) -> None:
    answer = tell(client, bearer("cards:reconcile"))
    assert answer.json is not None
    assert (answer.status_code, answer.json["code"]) == (404, "agreement_not_found")


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"charged_at": "2999-03-01T06:00:00Z"}, 409),
        ({"charged_at": "1999-03-01T06:00:00Z"}, 409),
        ({"next_charge_at": "2020-03-01T06:00:00Z"}, 409),
        ({"next_charge_at": "2999-03-01T06:00:00Z"}, 409),
        ({"charged_at": "2027-03-01T06:00:00"}, 422),
        ({"agreement_id": ""}, 422),
    ],
)
def test_a_charge_at_no_possible_time_is_refused(
    client: FlaskClient, engine: Engine, bearer: Bearer, wrong: dict[str, str], status: int
) -> None:
    card_with_agreement(engine)
    assert tell(client, bearer("cards:reconcile"), **wrong).status_code == status


@pytest.mark.parametrize("minutes", [-120, 120])
def test_a_charges_time_is_bounded_and_noted_by_the_databases_clock(
    client: FlaskClient, engine: Engine, bearer: Bearer, minutes: int
) -> None:
    card_with_agreement(engine)
    headers = bearer("cards:reconcile")
    now = dt.datetime.now(dt.UTC)
    charged = {hours: (now + dt.timedelta(hours=hours)).isoformat() for hours in (-1.5, 0, 1.5)}
    with host_off_by(minutes):
        statuses = [tell(client, headers, charged_at=one).status_code for one in charged.values()]
        statuses += [tell(client, headers, next_charge_at=one).status_code for one in charged.values()]
        assert tell(client, headers).status_code == 202
    assert statuses == [202, 202, 409, 409, 409, 202]
    with engine.connect() as connection:
        known = connection.execute(text("SELECT max(c) FROM cardsync.known_agreements, unnest(charges) AS c"))
        assert abs(known.scalar_one() - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=30)


def test_telling_of_a_charge_needs_its_scope(client: FlaskClient, bearer: Bearer) -> None:
    assert tell(client, bearer("cards:read")).status_code == 403
