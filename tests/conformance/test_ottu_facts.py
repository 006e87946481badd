"""Ottu's documented facts, checked against the stand-in, or against a real sandbox.

Set CONFORMANCE_OTTU_URL, CONFORMANCE_OTTU_API_KEY and CONFORMANCE_CUSTOMER_ID (a customer of the sandbox with at
least one saved card) and the facts that only read are checked there; those that change cards are skipped.

Answers are validated against Ottu's OpenAPI description. Where it cannot be right, the answer is an exception with a
name: see ``EXCEPTIONS``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml
from jsonschema.validators import validator_for
from openapi_core import OpenAPI
from openapi_core.testing import MockRequest, MockResponse
from ottu.utils.webhooks import verify_signature

from cardsync.dev.simulator import Knobs, Simulator

DESCRIPTION: Final = Path(__file__).parents[1] / "data" / "ottu-openapi.yaml"
LIST: Final = "/b/pbl/v2/card/"
NAMES: Final = ("CONFORMANCE_OTTU_URL", "CONFORMANCE_OTTU_API_KEY", "CONFORMANCE_CUSTOMER_ID")

EXCEPTIONS: Final = {
    "array": "A list is described as one card; the SDK's fixtures have an array. Each item is validated as a Card.",
    "pages": "The general documentation pages lists; the description knows no pages. Each result is validated.",
    "400 with detail": "CardErrors is oneOf two schemas that an object with a string `detail` both matches.",
    "429": "Documented in prose, absent from the description.",
    "405 on a card": "Described for the list, not for the card.",
}
WEBHOOK_EXCEPTIONS: Final = {
    "agreement": "Required by the description; said of auto-debit payments alone.",
    "card_acceptance_criteria": "Required by the description; sent only where the payment has any.",
}

description = yaml.safe_load(DESCRIPTION.read_text(encoding="utf-8"))
openapi = OpenAPI.from_dict(description)


@dataclass
class Target:
    """Which Ottu to ask: Ottu's sandbox, or the stand-in (then ``simulator`` is set)."""

    http: httpx.Client
    customer_id: str
    simulator: Simulator | None = None

    def list(self, customer_id: str | None = None, **more: Any) -> httpx.Response:
        return self.http.post(LIST, json={"type": "sandbox", "customer_id": customer_id or self.customer_id, **more})


def sandbox() -> dict[str, str]:
    given = {name: os.environ[name] for name in NAMES if os.environ.get(name)}
    if given and len(given) < len(NAMES):
        pytest.fail(f"set all of {', '.join(NAMES)} or none")
    return given


@pytest.fixture(params=["array", "object", "pages"])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    real = sandbox()
    if real:
        if request.param != "array":
            pytest.skip("a real Ottu has one shape of lists, checked once")
        headers = {"Authorization": f"Api-Key {real[NAMES[1]]}"}
        with httpx.Client(base_url=real[NAMES[0]], headers=headers, timeout=30) as http:
            yield Target(http, real[NAMES[2]])
        return
    with Simulator(Knobs(list_shape=request.param, page_size=2), api_key="fake-api-key") as simulator:
        for number in range(3):
            simulator.world.save_card("sandbox", "customer 1/ü%", pg_code=f"gateway-{number}")
        headers = {"Authorization": "Api-Key fake-api-key"}
        with httpx.Client(base_url=simulator.base_url, headers=headers, trust_env=False, timeout=60) as http:
            yield Target(http, "customer 1/ü%", simulator)


@pytest.fixture
def changeable(target: Target) -> Target:
    if target.simulator is None:
        pytest.skip("changes cards: checked against the stand-in only")
    return target


def validate(answer: httpx.Response, exception: str | None = None) -> None:
    """Validate against the description. With an exception: it must still be one, or its name is to be struck out."""
    path = answer.request.url.path
    pattern = LIST if path == LIST else f"{LIST}{{token}}/"
    asked = MockRequest("http://stand-in", answer.request.method, path, path_pattern=pattern)
    # openapi-core wants a body where a media type is described; a 204 has none, and its schema is empty.
    content = answer.content if answer.status_code != 204 else b"{}"
    media_type = answer.headers.get("Content-Type", "application/json")
    given = MockResponse(content, answer.status_code, dict(answer.headers), media_type)
    if exception is None:
        openapi.validate_response(asked, given)
    else:
        assert exception in EXCEPTIONS
        with pytest.raises(Exception):  # noqa: B017  # openapi-core's errors have no common public root
            openapi.validate_response(asked, given)


def validate_schema(name: str, value: Any) -> list[str]:
    """Validate a value against one schema; return the names of required properties that it lacks."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": description["components"]}
    validator = validator_for(
        schema, default=validator_for({"$schema": "https://json-schema.org/draft/2020-12/schema"})
    )
    errors = list(validator(schema).iter_errors(value))
    missing = [
        n for e in errors if e.validator == "required" and not e.path for n in e.validator_value if n not in value
    ]
    assert [e.message for e in errors if e.validator != "required" or e.path] == []
    return sorted(set(missing))


def cards_in(target: Target, answer: httpx.Response) -> list[dict[str, Any]]:
    """All cards of a list in whichever shape it is, every one validated."""
    assert answer.status_code == 200
    body = answer.json()
    if isinstance(body, list):
        validate(answer, "array")
        cards = body
    elif "results" in body:
        validate(answer, "pages")
        cards = list(body["results"])
        while body["next"]:
            following = target.http.post(body["next"], json={"type": "sandbox", "customer_id": target.customer_id})
            assert following.json()["count"] == body["count"]
            body = following.json()
            cards += body["results"]
        assert len(cards) == body["count"]
    else:
        validate(answer)
        cards = [body]
    for card in cards:
        assert validate_schema("Card", card) == []
    return cards


# Facts that only read.


def test_a_list_holds_the_customers_cards_and_no_token_twice(target):
    cards = cards_in(target, target.list())
    assert cards
    assert {card["customer_id"] for card in cards} == {target.customer_id}
    assert len({card["token"] for card in cards}) == len(cards)


def test_tokens_and_masks_are_short(target):
    for card in cards_in(target, target.list()):
        assert 1 <= len(card["token"]) <= 50
        assert len(card["number"] or "") <= 19


def test_a_customer_without_cards_has_an_empty_list(target):
    assert cards_in(target, target.list("cardsync-conformance-nobody")) == []


def test_gateway_codes_filter_the_list(target):
    chosen = cards_in(target, target.list())[0]["pg_code"]
    filtered = cards_in(target, target.list(pg_codes=[chosen]))
    assert {card["pg_code"] for card in filtered} == {chosen}


def test_an_agreement_has_one_card_at_most(target):
    for card in cards_in(target, target.list()):
        for agreement_id in card["agreements"]:
            assert len(cards_in(target, target.list(agreement_id=agreement_id))) == 1
    assert cards_in(target, target.list(agreement_id="cardsync-conformance-none")) == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"customer_id": "c"}, "type"),
        ({"type": "sandbox"}, "customer_id"),
        ({"type": "moon", "customer_id": "c"}, "type"),
        ({"type": "sandbox", "customer_id": "c", "pg_codes": "x"}, "pg_codes"),
    ],
)
def test_a_wrong_field_is_named(target, body, field):
    answer = target.http.post(LIST, json=body)
    assert answer.status_code == 400
    assert field in answer.json()
    validate(answer)


def test_a_form_is_as_good_as_json(target):
    answer = target.http.post(LIST, data={"type": "sandbox", "customer_id": target.customer_id})
    assert cards_in(target, answer)


def test_no_or_wrong_credentials_are_refused_with_a_detail(target):
    body = {"type": "sandbox", "customer_id": target.customer_id}
    for headers in ({}, {"Authorization": "Api-Key cardsync-conformance-wrong"}):
        answer = httpx.post(target.http.base_url.join(LIST), json=body, headers=headers, trust_env=False, timeout=60)
        assert answer.status_code in (401, 403)
        validate(answer)


def test_only_post_lists(target):
    answer = target.http.put(LIST, json={})
    assert answer.status_code == 405
    # The description knows no PUT: its 405 can only be looked at as one of POST.
    assert validate_schema("GenericErrorMessage", answer.json()) == []


def test_another_media_type_is_refused(target):
    answer = target.http.post(LIST, content=b"x", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415
    validate(answer)


# Facts that change cards.


def test_a_deleted_card_is_not_listed_and_not_found(changeable):
    token = cards_in(changeable, changeable.list())[0]["token"]
    statuses = []
    for _ in range(2):
        answer = delete(changeable, token)
        validate(answer)
        statuses.append(answer.status_code)
    assert statuses == [204, 404]
    assert token not in [card["token"] for card in cards_in(changeable, changeable.list())]


@pytest.mark.parametrize("status", [400, 403])
def test_a_card_of_an_agreement_is_locked_until_another_takes_over(changeable, status):
    changeable.simulator.turn(locked_status=status)
    first, second, *_ = (card["token"] for card in cards_in(changeable, changeable.list()))
    owner = ("sandbox", changeable.customer_id)
    changeable.simulator.checkout().agree(*owner, first, agreement_id="A", notify=False)
    refused = delete(changeable, first)
    assert refused.status_code == status
    validate(refused, "400 with detail" if status == 400 else None)
    changeable.simulator.checkout().agree(*owner, second, agreement_id="A", notify=False)
    (serving,) = cards_in(changeable, changeable.list(agreement_id="A"))
    assert serving["token"] == second
    assert delete(changeable, first).status_code == 204


def test_a_token_of_two_customers_is_two_cards(changeable):
    token = cards_in(changeable, changeable.list())[0]["token"]
    changeable.simulator.world.save_card("sandbox", "customer 2", token=token)
    assert delete(changeable, token).status_code == 204
    assert changeable.simulator.world.truth("sandbox", "customer 2") == {token}


@pytest.mark.parametrize("missing", ["customer_id", "type"])
def test_a_deletion_says_whose_card_it_is(changeable, missing):
    params = {"customer_id": changeable.customer_id, "type": "sandbox"}
    del params[missing]
    answer = changeable.http.delete(f"{LIST}9999000000000000/", params=params)
    assert answer.status_code == 400
    assert missing in answer.json()
    validate(answer)


def test_beyond_the_limit_of_calls_429_is_answered(changeable):
    changeable.simulator.turn(daily_calls=0, retry_after_seconds=3)
    answer = changeable.list()
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "3")
    validate(answer, "429")


def test_a_card_cannot_be_got(changeable):
    answer = changeable.http.get(f"{LIST}9999000000000000/")
    assert answer.status_code == 405
    validate(answer, "405 on a card")


def test_webhooks_are_as_described_and_signed(changeable):
    simulator = changeable.simulator
    owner = ("sandbox", changeable.customer_id)
    card, *_ = simulator.world.cards(*owner)
    checkout = simulator.checkout
    visits = [
        checkout().save_card(*owner),
        checkout().pay(*owner, card.token),
        checkout().pay_without_card(*owner, result="failed"),
        checkout().agree(*owner, card.token, agreement_id="A"),
        checkout().charge_agreement("sandbox", "A"),
        *(checkout().pay(*owner, card.token, result=r) for r in ("pending", "canceled", "error", "cod")),
    ]
    from cardsync.dev.simulator.payloads import sign

    for visit in visits:
        for scheme in ("standard", "subscription"):
            signed = sign(visit.event, "fake-webhook-key", scheme)
            missing = validate_schema("SchemaWebhook", signed)
            assert set(missing) <= set(WEBHOOK_EXCEPTIONS)
            assert ("agreement" in missing) == (visit.agreement_id is None)
            assert verify_signature(signed, signed["signature"], "fake-webhook-key")


def test_an_operation_event_names_no_card(changeable):
    visit = changeable.simulator.checkout().pay_without_card("sandbox", changeable.customer_id)
    refund = changeable.simulator.checkout().refund(visit.purchase)
    assert {"operation", "source", "success", "txn", "pg_code"} <= set(refund.event)
    assert "token" not in refund.event


def delete(target: Target, token: str) -> httpx.Response:
    return target.http.delete(f"{LIST}{token}/", params={"customer_id": target.customer_id, "type": "sandbox"})
