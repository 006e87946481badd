"""Events: what is read of a notification, what is kept of it, and that nothing makes the reading fail."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync.core import events
from cardsync.core.cards import CUSTOMER_ID_MAX, ListedCard, is_customer_id
from cardsync.core.events import (
    NESTING_MAX,
    Event,
    IgnoredBecause,
    NumberLiteral,
    body_hash,
    parse,
    read_event,
)
from cardsync.core.fields import is_storable
from cardsync.errors import MalformedBody
from tests import payloads
from tests.fuzz.bodies import ALTERATIONS, SEEDS, altered, bodies


def read(payload: dict[str, Any]) -> Event:
    """The event as it is read in earnest: sent, parsed, read."""
    return read_event(parse(json.dumps(payload).encode()))


def card_of(event: Event) -> ListedCard:
    assert event.card is not None
    return event.card


# --- parse ---


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b"[{}]",
        b'"text"',
        b"12",
        b"true",
        b"{",
        b"{}{}",
        b"{} trailing",
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": 01}',
        b'{"a": "\x00"}',
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',  # a surrogate in UTF-8's clothes
        '{"a": 1}'.encode("utf-16"),
        b"amount=86.000&result=success",
        b"<xml/>",
    ],
)
def test_what_is_not_one_json_object_in_utf8_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        parse(body)


@pytest.mark.parametrize("shape", [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("depth", [NESTING_MAX + 1, 900, 2_000, 300_000])
@pytest.mark.parametrize(
    "name", ["a", "amount"]
)  # one that nothing reads, and a signed one, where numbers are looked for
def test_absurd_nesting_is_malformed(shape: tuple[str, str], depth: int, name: str) -> None:
    opening, closing = shape
    inside = "1" if opening != "[" else ""
    body = f'{{"{name}":' + opening * (depth - 1) + inside + closing * (depth - 1) + "}"
    with pytest.raises(MalformedBody):
        parse(body.encode())


def test_nesting_up_to_the_bound_is_read() -> None:
    depth = NESTING_MAX - 1
    assert "a" in parse(('{"a":' + "[" * depth + "]" * depth + "}").encode())


def test_a_refusal_shows_nothing_of_the_body() -> None:
    with pytest.raises(MalformedBody) as caught:
        parse(json.dumps(payloads.payment()).encode() + b"!")
    payloads.assert_nothing_personal(str(caught.value))


def test_a_number_keeps_the_text_that_was_sent() -> None:
    body = b'{"amount": 86.000, "b": [1E5, -0], "c": {"d": 12345678901234567890.10}, "e": true, "f": null}'
    payload = parse(body)
    assert f"{payload['amount']} {payload['b']} {payload['c']}" == "86.000 [1E5, -0] {'d': 12345678901234567890.10}"
    assert payload["e"] is True
    assert payload["f"] is None
    assert type(str(payload["amount"])) is str


def test_a_number_of_a_hundred_thousand_digits_is_only_text() -> None:
    assert parse(b'{"a": ' + b"9" * 100_000 + b"}")["a"] == "9" * 100_000


def test_of_a_name_given_twice_the_last_counts() -> None:
    assert parse(b'{"a": "first", "a": "last"}') == {"a": "last"}


def test_the_hash_is_of_the_bytes() -> None:
    assert body_hash(b'{"a": 1}') == hashlib.sha256(b'{"a": 1}').digest()
    assert body_hash(b'{"a": 1}') != body_hash(b'{"a":1}')


# --- read_event: what is of interest ---


def test_a_payment_with_a_card_is_of_interest() -> None:
    event = read(payloads.payment("cust-1", "9999000000000001", "production"))
    assert event.kind == "payment"
    assert event.ignored_because is None
    assert event.environment == "production"
    assert event.customer_id == "cust-1"
    assert event.session_id == "0" * 36 + "feed"
    assert (event.reference_number, event.result, event.state) == ("fakeref01", "success", "paid")
    assert (event.payment_type, event.agreement_id, event.order_no) == (
        "one_off",
        None,
        payloads.payment("cust-1")["order_no"],
    )
    card = card_of(event)
    assert card.token.reveal() == "9999000000000001"
    assert (card.facts.number, card.facts.last4, card.facts.brand) == ("**** 0001", "0001", "VISA")
    assert (card.facts.pg_code, card.facts.pg_name, card.facts.is_preferred) == (
        "fake-pg",
        "Fake Gateway",
        True,
    )


def test_a_saved_card_is_of_interest_without_a_charge() -> None:
    event = read(payloads.save_card())
    assert (event.payment_type, event.ignored_because) == ("save_card", None)
    assert card_of(event).token.reveal() == payloads.TOKEN


def test_an_auto_debit_names_its_agreement() -> None:
    event = read(payloads.auto_debit(agreement_id="agreement-7"))
    assert (event.payment_type, event.agreement_id, event.ignored_because) == (
        "auto_debit",
        "agreement-7",
        None,
    )
    assert card_of(event).facts.agreements == ("agreement-7",)
    assert card_of(event).facts.cvv_required is False


@pytest.mark.parametrize("result", ["failed", "pending", "canceled", "error", "cod"])
def test_every_outcome_with_a_card_is_of_interest(result: str) -> None:
    assert read(payloads.payment(result=result, state=...)).ignored_because is None


@pytest.mark.parametrize("kept", ["result", "state", "session_id", "token"])
def test_one_sign_of_a_payment_is_enough(kept: str) -> None:
    others = {"result", "state", "session_id", "token"} - {kept}
    assert read({name: v for name, v in payloads.payment().items() if name not in others}).kind == "payment"


@pytest.mark.parametrize("absent", [None, "", ...])
def test_an_empty_operation_leaves_a_payment_a_payment(absent: object) -> None:
    assert read(payloads.payment(operation=absent)).ignored_because is None


# --- read_event: what is not ---


@pytest.mark.parametrize("kind", ["refund", "void", "capture"])
def test_an_operation_event_is_ignored(kind: Any) -> None:
    event = read(payloads.operation(kind))
    assert (event.kind, event.ignored_because, event.card) == ("operation", "operation event", None)
    assert (event.environment, event.reference_number) == ("sandbox", "fakeref01")


def test_an_operation_event_with_a_card_is_ignored_and_keeps_no_card() -> None:
    event = read(payloads.operation(token=payloads.card()))
    assert (event.kind, event.card) == ("operation", None)


@pytest.mark.parametrize(
    "payload", [{}, {"hello": "world"}, {"operation": 5, "result": "x"}, {"operation": ["refund"]}]
)
def test_an_unknown_kind_is_ignored(payload: dict[str, Any]) -> None:
    event = read(payload)
    assert (event.kind, event.ignored_because) == ("unknown", "unknown kind")


@pytest.mark.parametrize("token", [..., None, {}, "tok-fake-0001", ["tok-fake-0001"], [payloads.card()], 7, True])
def test_a_payment_without_a_card_is_ignored(token: object) -> None:
    event = read(payloads.payment(token=None) | ({} if token is ... else {"token": token}))
    assert (event.kind, event.ignored_because, event.card) == ("payment", "no card", None)
    assert event.customer_id == "cust-1"


@pytest.mark.parametrize("token", [..., None, "", "t" * 51, "tok\x00", "tok\ud800", [], {}, True])
def test_an_unusable_token_is_ignored(token: object) -> None:
    event = read(payloads.payment(token_fields={"token": token}))
    assert (event.ignored_because, event.card) == ("unusable token", None)


UNUSABLE = ["x" * (CUSTOMER_ID_MAX + 1), "a\x00b", "a\ud800", ["cust-1"], {"id": "cust-1"}, True]


@pytest.mark.parametrize("customer_id", UNUSABLE)
def test_an_unusable_customer_id_is_ignored_and_never_cut(customer_id: object) -> None:
    event = read(payloads.payment(token_fields={"customer_id": customer_id}))
    assert (event.ignored_because, event.customer_id, event.card) == ("unusable customer id", None, None)


@pytest.mark.parametrize("nothing", [..., None, ""])
def test_no_customer_id_anywhere_is_ignored(nothing: object) -> None:
    payload = payloads.payment(token_fields={"customer_id": nothing})
    payload["customer_id"] = None if nothing is ... else nothing
    assert read(payload).ignored_because == "unusable customer id"


@pytest.mark.parametrize("yes", [True, 1, "1", "true", "True", " TRUE "])
@pytest.mark.parametrize("no", [False, 0, "0", "false", "FALSE"])
def test_the_environment_is_read_as_meant(yes: object, no: object) -> None:
    assert read(payloads.payment(is_sandbox=yes)).environment == "sandbox"
    assert read(payloads.payment(is_sandbox=no)).environment == "production"


@pytest.mark.parametrize("is_sandbox", [..., None, "", "yes", "sandbox", 2, -1, 1.5, "1.0", [], {}, [True]])
def test_the_environment_is_never_guessed(is_sandbox: object) -> None:
    event = read(payloads.payment(is_sandbox=is_sandbox))
    assert (event.ignored_because, event.environment, event.card) == ("no environment", None, None)


# --- read_event: the customer ---


def test_the_tokens_customer_counts_before_the_payloads() -> None:
    event = read(payloads.payment("cust-1", token_fields={"customer_id": "cust-2"}))
    assert (event.customer_id, event.ignored_because) == ("cust-2", None)


@pytest.mark.parametrize("nothing", [..., None, ""])
def test_the_payloads_customer_counts_where_the_token_names_none(nothing: object) -> None:
    event = read(payloads.payment("cust-1", token_fields={"customer_id": nothing}))
    assert (event.customer_id, event.ignored_because) == ("cust-1", None)


@pytest.mark.parametrize(
    "customer_id",
    ["a/b", "a%2Fb", "'; drop table x; --", '"', " ", "ひと", "🙂", "a\nb", "x" * CUSTOMER_ID_MAX, "..", "0"],
)
def test_any_identifier_of_the_merchants_is_kept_exactly(customer_id: str) -> None:
    assert read(payloads.payment(customer_id)).customer_id == customer_id


def test_identifiers_sent_as_numbers_are_taken_as_their_text() -> None:
    event = read(
        payloads.auto_debit(
            12345,  # type: ignore[arg-type]
            reference_number=77,
            order_no=78,
            agreement={"id": 5},
            token_fields={
                "token": 9999000000000001,
                "expiry_month": 1,
                "expiry_year": 39,
                "agreements": [5, 6],
            },
        )
        | {"session_id": 1.50}
    )
    assert (event.customer_id, event.reference_number, event.order_no, event.agreement_id) == ("12345", "77", "78", "5")
    card = card_of(event)
    assert card.token.reveal() == "9999000000000001"
    assert (card.facts.expiry_month, card.facts.agreements) == ("1", ("5", "6"))
    assert str(card.facts.expires_on) == "2039-01-31"
    assert not literals_in(event)


def test_flags_and_dates_of_a_card_are_read_as_meant() -> None:
    odd = {
        "is_expired": "true",
        "is_preferred": 1,
        "cvv_required": "0",
        "expiry_month": " 01",
        "expiry_year": "\u0663\u0669",
    }
    facts = card_of(read(payloads.payment(token_fields=odd))).facts
    assert (facts.is_expired, facts.is_preferred, facts.cvv_required) == (True, True, False)
    assert (facts.expiry_month, facts.expiry_year, str(facts.expires_on)) == ("01", "39", "2039-01-31")


def literals_in(event: Event) -> list[str]:
    texts = [getattr(event, f.name) for f in dataclasses.fields(event)]
    if event.card is not None:
        texts += [getattr(event.card.facts, f.name) for f in dataclasses.fields(event.card.facts)]
        texts += [*(event.card.facts.agreements or ()), event.card.token.reveal()]
    return [text for text in texts if isinstance(text, NumberLiteral)]


# --- read_event: what is kept ---


@pytest.mark.parametrize("make", [payloads.payment, payloads.save_card, payloads.auto_debit, payloads.operation])
def test_personal_data_is_never_kept(make: Any) -> None:
    event = read(make())
    payloads.assert_nothing_personal(event, *(getattr(event, f.name) for f in dataclasses.fields(event)))


def test_an_event_prints_no_token() -> None:
    event = read(payloads.payment(token="9999000000000042", token_fields={"number": None}))
    assert "9999000000000042" not in repr(event)
    assert "9999000000000042" not in str(card_of(event))


@pytest.mark.parametrize("field", ["number", "brand", "name_on_card", "pg_code", "pg_name"])
def test_a_full_card_number_in_any_field_is_masked(field: str) -> None:
    spaced = "9999 1234 1234 1234"
    for text in (payloads.FULL_NUMBER, spaced, f"card {spaced}"):
        event = read(payloads.payment(token_fields={field: text}))
        assert getattr(card_of(event).facts, field) == "**** 1234"


def test_a_card_number_sent_as_a_number_is_masked() -> None:
    event = read(payloads.payment(token_fields={"number": int(payloads.FULL_NUMBER)}))
    assert card_of(event).facts.number == "**** 1234"


@pytest.mark.parametrize(
    ("field", "length"),
    [
        ("session_id", 128),
        ("reference_number", 128),
        ("order_no", 128),
        ("result", 32),
        ("state", 32),
        ("payment_type", 32),
    ],
)
def test_long_texts_are_cut(field: str, length: int) -> None:
    event = read({**payloads.payment(), field: "x" * 100_000})
    assert getattr(event, field) == "x" * length
    assert event.ignored_because is None


@pytest.mark.parametrize("value", ["", "a\x00", "\ud800", [], ["x"], {}, True, None])
@pytest.mark.parametrize("field", ["session_id", "reference_number", "order_no", "result", "state", "payment_type"])
def test_an_odd_text_costs_only_its_field(field: str, value: object) -> None:
    event = read({**payloads.payment(), field: value})
    assert getattr(event, field) is None
    assert event.ignored_because is None


@pytest.mark.parametrize("agreement", [None, "a-1", [], {}, {"id": None}, {"id": ""}, {"id": "a" * 129}, {"id": ["a"]}])
def test_an_odd_agreement_is_none_and_never_cut(agreement: object) -> None:
    event = read(payloads.payment(agreement=agreement))
    assert (event.agreement_id, event.ignored_because) == (None, None)


# --- read_event: never raises ---

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=70)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
card_objects = st.fixed_dictionaries({}, optional=dict.fromkeys(payloads.card(), json_values))
odd_payloads = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ("operation", "result", "state", "session_id", "reference_number", "order_no", "payment_type"), json_values
        ),
        "customer_id": json_values,
        "is_sandbox": st.booleans() | json_values,
        "token": card_objects | json_values,
        "agreement": st.fixed_dictionaries({"id": json_values}) | json_values,
    },
)


@given(odd_payloads)
def test_no_json_object_makes_the_reading_fail(payload: dict[str, Any]) -> None:
    event = read_event(payload)
    assert event.ignored_because in (None, *get_args(IgnoredBecause))
    if event.ignored_because is None:
        assert event.kind == "payment"
        assert event.environment is not None
        assert is_customer_id(event.customer_id)
    assert (event.card is None) == (event.ignored_because is not None)


@given(odd_payloads)
def test_what_is_read_of_a_sent_body_can_be_stored(payload: dict[str, Any]) -> None:
    try:
        event = read_event(parse(json.dumps(payload).encode()))
    except MalformedBody:
        return  # NaN and Infinity, which json.dumps writes
    texts = [getattr(event, f.name) for f in dataclasses.fields(event) if f.name != "card"]
    if event.card is not None:
        texts += [getattr(event.card.facts, f.name) for f in dataclasses.fields(event.card.facts)]
    assert all(is_storable(text) for text in texts if isinstance(text, str))
    assert not literals_in(event)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_raise_anything_but_malformed_body(body: bytes) -> None:
    try:
        payload = parse(body)
    except MalformedBody:
        return
    read_event(payload)


def _judged(body: bytes, read: Callable[[bytes], object]) -> object:
    """What a body comes to by a parser: the refusal, or the event and the messages that a signature is over."""
    try:
        payload = read(body)
    except MalformedBody as error:
        return str(error)
    assert isinstance(payload, dict)
    signatures = [payloads.signature(payload, scheme=scheme) for scheme in ("standard", "subscription")]
    return read_event(payload), signatures


def _exactly(body: bytes) -> object:
    payload = events._parse_exactly(body)
    if not isinstance(payload, dict):
        raise MalformedBody("the body is JSON, but not an object")
    if events._is_nested_too_deep(payload):
        raise MalformedBody(f"the body is nested more than {events.NESTING_MAX} levels deep")
    return payload


@given(which=st.integers(0, 1_000), alterations=ALTERATIONS, chance=SEEDS)
def test_the_fast_parser_reads_every_body_as_the_exact_one_does(
    which: int, alterations: list[tuple[int, Any]], chance: int
) -> None:
    for body in bodies(altered(which, alterations), chance):
        try:
            exact = _judged(body, _exactly)
        except ValueError:  # a lone surrogate has no signature
            continue
        assert _judged(body, parse) == exact


@pytest.mark.parametrize(
    "body",
    [
        b'{"amount": 86.000, "result": "success"}',
        b'{"order_no": 12345678901234567890123}',
        b'{"session_id": 1e3, "token": {"token": 9999000000000001, "customer_id": 7, "agreements": [1.50, {"id": 10}]}}',
        b'{"extra": {"autopay": {"subscription_id": 1.0}, "merchant_id": 2}}',
        b'{"agreement": {"id": 1.0}, "result": "success"}',
        b'{"is_sandbox": 1.0}',
        b'{"a": {"b": 1.000}, "amount": "1", "amount": "2"}',
        b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}",
        b'{"a": "' + b"[" * 70 + b'"}',
    ],
)
def test_numbers_and_brackets_are_read_alike_by_both_parsers(body: bytes) -> None:
    assert _judged(body, parse) == _judged(body, _exactly)
