"""Signatures: Ottu's vectors, both schemes, rotated keys, and everything that must not vouch."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ottu.utils import webhooks

from cardsync.core.events import parse
from cardsync.core.signature import STANDARD_FIELDS, Scheme, Vouched, verify
from cardsync.errors import InvalidSignature
from tests import payloads

KEYS = ("old-test-key", payloads.KEY)
SCHEMES: tuple[Scheme, ...] = ("standard", "subscription")


def refused(payload: dict[str, Any], keys: tuple[str, ...] = KEYS) -> bool:
    """Whether ``InvalidSignature`` is raised, the one error there may be."""
    try:
        verify(payload, keys)
    except InvalidSignature:
        return True
    return False


def raw(payload: dict[str, Any], key: str = payloads.KEY, scheme: Scheme = "standard") -> dict[str, Any]:
    return {**payload, "signature": payloads.signature(payload, key, scheme)}


def test_ottus_vector_of_the_standard_scheme_is_vouched_for() -> None:
    payload = {
        "amount": "86.000",
        "currency_code": "KWD",
        "customer_first_name": "example-customer",
        "signature": "6143b8ad4bd283540721ab000f6de746e722231aaaa90bc38f639081d3ff9f67",
    }
    assert verify(payload, ["pu9MpX3yPR"]) == Vouched(key_index=0, scheme="standard")


def test_ottus_vector_of_the_subscription_scheme_is_vouched_for() -> None:
    payload = {
        "amount": "100.000",
        "result": "success",
        "session_id": "sess-1",
        "token": {"token": "tok-1", "brand": "VISA"},
        "state": "",
        "signature": "46ba93a62680c8750567583bb8074e37ccaadc6f374268b78a0c574c8424baff",
    }
    assert verify(payload, ["test-key"]) == Vouched(key_index=0, scheme="subscription")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("key_index", [0, 1])
def test_the_key_and_the_scheme_that_vouch_are_told(scheme: Scheme, key_index: int) -> None:
    body = payloads.signed(payloads.payment(), KEYS[key_index], scheme)
    assert verify(parse(body), KEYS) == Vouched(key_index, scheme)


@pytest.mark.parametrize("make", [payloads.payment, payloads.save_card, payloads.auto_debit, payloads.operation])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_kind_of_notification_is_vouched_for(make: Any, scheme: Scheme) -> None:
    assert verify(parse(payloads.signed(make(), scheme=scheme)), KEYS).scheme == scheme


def test_a_key_given_twice_vouches_by_its_first_place() -> None:
    assert verify(raw(payloads.payment()), (payloads.KEY, payloads.KEY)).key_index == 0


@pytest.mark.parametrize("literal", ["86.000", "1e5", "1E+2", "-0", "0.10", "1" * 5_000, "12345678901234567890.0"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_number_is_verified_as_the_text_that_was_sent(literal: str, scheme: Scheme) -> None:
    mac = payloads.signature({"amount": literal, "result": "success"}, scheme=scheme)
    body = f'{{"amount": {literal}, "result": "success", "signature": "{mac}"}}'.encode()
    assert verify(parse(body), KEYS).scheme == scheme


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
    scheme=st.sampled_from(SCHEMES),
)
def test_whatever_python_signs_and_sends_verifies_after_the_parse(value: object, scheme: Scheme) -> None:
    payload = {"amount": "1", "order_no": value}
    assert verify(parse(payloads.signed(payload, scheme=scheme)), KEYS).scheme == scheme


@given(at=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_one_mutated_byte_of_a_signed_value_is_refused(at: int, flip: int) -> None:
    payload = payloads.payment(token=None)
    for name in STANDARD_FIELDS:
        payload.setdefault(name, "x")
    name = STANDARD_FIELDS[at % len(STANDARD_FIELDS)]
    text = payload[name]
    place = at % len(text)
    mutated = text[:place] + chr(ord(text[place]) ^ flip) + text[place + 1 :]
    assert refused({**raw(payload), name: mutated})


@pytest.mark.parametrize(
    "path", ["session_id", "payment_type", ("token", "token"), ("token", "customer_id"), ("agreement", "id")]
)
def test_the_subscription_scheme_covers_the_card_and_the_customer(path: str | tuple[str, str]) -> None:
    payload = raw(payloads.auto_debit(), scheme="subscription")
    if isinstance(path, str):
        payload[path] = "changed"
    else:
        payload[path[0]][path[1]] = "changed"
    assert refused(payload)


def test_another_key_is_refused() -> None:
    assert refused(raw(payloads.payment(), "a key of nobody's"))


def test_no_keys_vouch_for_nothing() -> None:
    assert refused(raw(payloads.payment()), keys=())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_empty_key_vouches_for_nothing(scheme: Scheme) -> None:
    assert refused(raw(payloads.payment(), "", scheme), keys=("",))


def test_a_missing_signature_is_refused() -> None:
    assert refused(payloads.payment())


@pytest.mark.parametrize(
    "spoil",
    [
        str.upper,
        lambda mac: mac[:-1],
        lambda mac: mac + "0",
        lambda mac: f" {mac}",
        lambda mac: f"{mac}\n",
        lambda mac: f"sha256={mac}",
        lambda mac: "é" + mac[1:],
        lambda mac: "\uff10" * 64,  # digits, but not ASCII ones
        lambda mac: "\ud800" * 64,
        lambda mac: "",
        lambda mac: None,
        lambda mac: True,
        lambda mac: 0,
        lambda mac: int(mac, 16),
        lambda mac: [mac],
        lambda mac: {"signature": mac},
        lambda mac: mac.encode(),
    ],
)
def test_anything_but_64_lower_case_hex_characters_is_refused(spoil: Any) -> None:
    payload = raw(payloads.payment())
    assert refused({**payload, "signature": spoil(payload["signature"])})


def test_a_json_number_is_no_signature() -> None:
    body = json.dumps(payloads.payment())[:-1] + f', "signature": {"1" * 64}}}'
    assert refused(parse(body.encode()))


NOTHING_SIGNED = [
    {},
    {"customer_id": "cust-1", "token": payloads.card(), "is_sandbox": False},
    {"amount": None, "result": "", "state": None, "token": payloads.card()},
]


@pytest.mark.parametrize("payload", NOTHING_SIGNED)
def test_a_standard_signature_over_nothing_is_refused(payload: dict[str, Any]) -> None:
    over_nothing = hmac.digest(payloads.KEY.encode(), b"", hashlib.sha256).hex()
    assert payloads.signature(payload) == over_nothing
    assert refused({**payload, "signature": over_nothing})


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"is_sandbox": False, "token": {"brand": "VISA"}},
        {"token": {"token": "", "customer_id": None}},
        {"token": "x"},
    ],
)
def test_a_subscription_signature_over_nothing_is_refused(payload: dict[str, Any]) -> None:
    assert refused(raw(payload, scheme="subscription"))


def test_a_subscription_signature_over_the_card_alone_is_over_something() -> None:
    assert verify(raw({"token": payloads.card()}, scheme="subscription"), KEYS).scheme == "subscription"


def test_a_subscription_message_cannot_be_passed_off_as_a_standard_one() -> None:
    genuine = raw(payloads.payment(token="tok-fake-0001"), scheme="subscription")
    lines = [
        f"{path}={value}"
        for path in webhooks._SUBSCRIPTION_SIGNED_FIELDS
        if (value := webhooks._resolve_path(genuine, path)) is not webhooks._MISSING
    ]
    forged = {
        "amount": "\n".join(lines).removeprefix("amount"),
        "is_sandbox": False,
        "token": payloads.card("tok-fake-0002", "somebody-else"),
        "signature": genuine["signature"],
    }
    assert webhooks.verify_signature(forged, genuine["signature"], payloads.KEY), "ottu-py alone would take it"
    assert refused(forged)


def test_a_later_signed_value_may_begin_with_an_equals_sign() -> None:
    assert verify(raw(payloads.payment(customer_last_name="=odd")), KEYS).scheme == "standard"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_lone_surrogate_in_a_signed_field_is_refused(scheme: Scheme) -> None:
    body = b'{"amount": "1", "customer_first_name": "\\ud800", "signature": "%s"}' % (b"0" * 64)
    assert refused(parse(body))
    assert refused({"amount": ["\ud800"], "state": "\udfff", "signature": "0" * 64})


def test_a_lone_surrogate_in_an_unsigned_field_is_no_matter_of_the_signature() -> None:
    payload = payloads.payment(token_fields={"name_on_card": "\ud800"})
    assert verify(parse(payloads.signed(payload)), KEYS).scheme == "standard"


def test_a_signed_field_nested_past_what_can_be_written_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert refused({"amount": deep, "signature": "0" * 64})
    while deep:  # taken apart by hand: CPython would free it recursively
        deep = deep.pop()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(
    payload=st.dictionaries(
        st.sampled_from([*STANDARD_FIELDS, "token", "agreement", "extra", "session_id"]), json_values
    ),
    mac=json_values | st.just("0" * 64) | st.text(max_size=70),
)
def test_no_unsigned_object_is_vouched_for_and_nothing_else_is_raised(payload: dict[str, Any], mac: object) -> None:
    assert refused({**payload, "signature": mac})


def test_every_key_and_both_schemes_are_tried_whichever_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []
    genuine = hmac.compare_digest

    def counting(a: str, b: str) -> bool:
        compared.append(a)
        return genuine(a, b)

    monkeypatch.setattr("cardsync.core.signature.hmac.compare_digest", counting)
    counts = set()
    for payload in (raw(payloads.payment(), KEYS[0]), raw(payloads.payment(), KEYS[1], "subscription")):
        compared.clear()
        verify(payload, KEYS)
        counts.add(len(compared))
    compared.clear()
    assert refused({**payloads.payment(), "signature": "0" * 64})
    assert {*counts, len(compared)} == {8}


def test_the_standard_fields_are_ottu_pys() -> None:
    assert list(STANDARD_FIELDS) == sorted(webhooks._SIGNED_FIELDS)
