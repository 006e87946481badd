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

from cardsync.core import signature
from cardsync.core.events import parse
from cardsync.core.signature import (
    STANDARD_FIELDS,
    SUBSCRIPTION_PATHS,
    Scheme,
    Vouched,
    require_environment,
    signs_card,
    standard_message,
    subscription_message,
    verify,
)
from cardsync.core.webhook_keys import BoundKey
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


PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters=[chr(c) for c in (*range(32), 127)]))
)
WORDS = st.text("ab=. \u0663\u0085", max_size=4)
SIGNED = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(STANDARD_FIELDS, PLAIN),
        **dict.fromkeys(("session_id", "payment_type", "message"), PLAIN | WORDS),
        "agreement": PLAIN | st.dictionaries(st.sampled_from(["id", "type"]), PLAIN),
        "token": PLAIN | st.dictionaries(st.sampled_from(["token", "customer_id", "pg_code", "brand"]), PLAIN),
        "extra": PLAIN
        | st.fixed_dictionaries(
            {},
            optional={
                "merchant_id": PLAIN,
                "autopay": PLAIN | st.dictionaries(st.sampled_from(["subscription_id", "other"]), PLAIN),
            },
        ),
    },
)


@given(payload=SIGNED, key=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_the_messages_are_those_of_ottu_py(payload: dict[str, Any], key: str) -> None:
    read = parse(json.dumps(payload).encode())
    for build, theirs in (
        (standard_message, webhooks.calculate_hmac_signature),
        (subscription_message, webhooks.calculate_subscription_hmac_signature),
    ):
        message = build(read)
        if message is not None:
            assert hmac.digest(key.encode(), message, "sha256").hex() == theirs(payload=dict(read), hmac_key=key)


@given(payload=SIGNED, scheme=st.sampled_from(SCHEMES))
def test_whatever_python_signs_and_sends_verifies_after_the_parse(payload: dict[str, Any], scheme: Scheme) -> None:
    payload = {**payload, "amount": "1"}  # something is signed, and it does not begin with "="
    assert verify(parse(payloads.signed(payload, scheme=scheme)), KEYS).scheme == scheme


@pytest.mark.parametrize("container", [[], {}, ["9"], {"a": "9"}, [[["9"]]]])
@pytest.mark.parametrize("name", STANDARD_FIELDS)
def test_a_container_in_a_flat_signed_field_is_refused_before_any_hmac(
    name: str, container: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads_by_scheme = [raw({"state": "paid", "amount": "1", name: container}, scheme=scheme) for scheme in SCHEMES]

    def fail(*_: object) -> bytes:
        raise AssertionError("an HMAC was computed")

    monkeypatch.setattr("cardsync.core.signature._hmac", fail)
    assert all(refused(payload) for payload in payloads_by_scheme)


def test_a_container_at_a_path_of_the_subscription_scheme_alone_is_no_matter_of_the_standard_one() -> None:
    assert verify(raw(payloads.payment(session_id=["x"])), KEYS).scheme == "standard"
    assert refused(raw(payloads.payment(session_id=["x"]), scheme="subscription"))


CONTROLS = [chr(code) for code in (*range(32), 127)]


@pytest.mark.parametrize("character", CONTROLS)
@pytest.mark.parametrize("name", [name for name in STANDARD_FIELDS if not name.startswith("customer_")])
def test_a_control_character_in_a_signed_value_is_refused(name: str, character: str) -> None:
    assert all(refused(raw(payloads.payment(**{name: f"a{character}b"}), scheme=scheme)) for scheme in SCHEMES)


@pytest.mark.parametrize("path", ["session_id", "payment_type"])
def test_a_control_character_counts_where_the_scheme_signs_it(path: str) -> None:
    payload = payloads.payment(**{path: "a\nb"})
    assert refused(raw(payload, scheme="subscription"))
    assert verify(raw(payload), KEYS).scheme == "standard"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", [name for name in STANDARD_FIELDS if name.startswith("customer_")])
def test_an_address_of_several_lines_is_vouched_for(name: str, scheme: Scheme) -> None:
    payload = raw(payloads.payment(**{name: "Block 4,\r\nStreet\t7\nresults = good"}), scheme=scheme)
    assert verify(payload, KEYS).scheme == scheme
    others = [c for c in CONTROLS if c not in "\t\n\r"]
    assert all(refused(raw(payloads.payment(**{name: f"a{c}b"}), scheme=scheme)) for c in others)


@pytest.mark.parametrize("path", SUBSCRIPTION_PATHS)
def test_a_line_of_an_address_that_reads_as_a_signed_path_is_refused_where_it_could_stand_for_one(path: str) -> None:
    payload = payloads.payment(customer_address_line1=f"Block 4\n{path}=x")
    assert refused(raw(payload, scheme="subscription"))
    assert verify(raw(payload), KEYS).scheme == "standard"


def test_a_genuine_subscription_message_has_one_payload() -> None:
    genuine = raw(
        payloads.payment(customer_address_line1="Block 4", customer_address_line2="Street 7"), scheme="subscription"
    )
    merged = {**genuine, "customer_address_line1": "Block 4\ncustomer_address_line2=Street 7"}
    del merged["customer_address_line2"]
    assert webhooks.verify_signature(merged, genuine["signature"], payloads.KEY), "ottu-py alone would take it"
    assert refused(merged)


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


@given(key=st.text(max_size=200), message=st.binary(max_size=300))
def test_the_hmac_is_pythons_for_keys_of_any_length(key: str, message: bytes) -> None:
    try:
        secret = key.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: no setting holds one
        return
    assert signature._hmac(key, message) == hmac.digest(secret, message, "sha256").hex()


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


def test_a_body_is_refused_after_every_key_and_both_schemes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[bytes] = []
    genuine = signature._hmac

    def counting(key: str, message: bytes) -> str:
        messages.append(message)
        return genuine(key, message)

    signed = [raw(payloads.payment(), key, scheme) for scheme in SCHEMES for key in KEYS]
    monkeypatch.setattr("cardsync.core.signature._hmac", counting)
    counts = []
    for payload in signed:
        messages.clear()
        verify(payload, KEYS)
        counts.append(len(messages))
    messages.clear()
    assert refused({**payloads.payment(), "signature": "0" * 64})
    assert (counts, len(messages), len(set(messages))) == ([1, 2, 3, 4], 4, 2)


def test_the_standard_fields_are_ottu_pys() -> None:
    assert list(STANDARD_FIELDS) == sorted(webhooks._SIGNED_FIELDS)


def test_the_subscription_paths_are_ottu_pys() -> None:
    assert list(SUBSCRIPTION_PATHS) == webhooks._SUBSCRIPTION_SIGNED_FIELDS


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("production:k", BoundKey("k", "production")),
        ("sandbox:k:with:colons", BoundKey("k:with:colons", "sandbox")),
        ("a:plain:key", BoundKey("a:plain:key")),
        ("Production:k", BoundKey("Production:k")),
    ],
)
def test_a_key_is_bound_by_its_prefix(text: str, key: BoundKey) -> None:
    assert BoundKey.read(text) == key
    assert key.key not in repr(key)


def test_a_bound_key_vouches_for_its_environment_only_and_in_the_words_of_any_refusal() -> None:
    for said in ("production", None):
        require_environment("production", said)
    require_environment(None, "sandbox")
    with pytest.raises(InvalidSignature) as other:
        require_environment("production", "sandbox")
    with pytest.raises(InvalidSignature) as wrong:
        verify({"signature": "0" * 64}, KEYS)
    assert str(other.value) == str(wrong.value)


@pytest.mark.parametrize(
    ("changes", "scheme", "covered"),
    [
        ({}, "subscription", True),
        ({}, "standard", False),
        ({"token_fields": {"customer_id": ...}}, "subscription", False),
        ({"token_fields": {"customer_id": ""}}, "subscription", False),
        ({"token_fields": {"token": 7}}, "subscription", False),
        ({"token": None}, "subscription", False),
        ({"message": "not signed\n"}, "subscription", True),
    ],
)
def test_only_a_message_that_names_the_customer_covers_the_card(
    changes: dict[str, Any], scheme: Scheme, covered: bool
) -> None:
    payload = payloads.payment(**changes)
    assert signs_card(payload, Vouched(0, scheme)) is covered
