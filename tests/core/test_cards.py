"""Cards: no full card number is held, no token is printed, and Ottu's odd answers are read or refused."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync.core.cards import (
    AGREEMENTS_MAX,
    CUSTOMER_ID_MAX,
    TOKEN_MAX,
    CardFacts,
    Token,
    is_customer_id,
    read_card,
)
from cardsync.core.fields import TEXT_MAX, is_storable
from cardsync.errors import UnusableCard
from tests import payloads


@pytest.mark.parametrize(
    "field", ["pg_code", "pg_name", "brand", "number", "expiry_month", "expiry_year", "name_on_card"]
)
def test_facts_refuse_a_full_number_and_do_not_repeat_it(field: str) -> None:
    make: Any = CardFacts
    with pytest.raises(UnusableCard) as caught:
        make(**{field: payloads.FULL_NUMBER})
    assert field in str(caught.value)
    assert payloads.FULL_NUMBER not in str(caught.value)


# --- tokens ---


def test_a_token_prints_as_an_ellipsis_everywhere() -> None:
    token = Token("tok-fake-0001")
    listed = read_card(payloads.card("tok-fake-0001", number="**** 9999"))
    for text in (
        repr(token),
        str(token),
        f"{token}",
        f"{token!r}",
        repr(listed),
        repr([listed]),
    ):
        assert "tok-fake" not in text
    assert token.reveal() == "tok-fake-0001"


@pytest.mark.parametrize("text", ["", "t" * (TOKEN_MAX + 1), "tok\x00fake", "tok\ud800fake"])
def test_an_unusable_token_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UnusableCard) as caught:
        Token(text)
    assert not text or text not in str(caught.value)


def test_tokens_are_equal_by_their_text() -> None:
    assert Token("tok-fake-0001") == Token("tok-fake-0001")
    assert len({Token("tok-fake-0001"), Token("tok-fake-0001"), Token("tok-fake-0002")}) == 2


def test_a_fingerprint_is_a_keyed_hash_of_environment_and_token() -> None:
    expected = hmac.new(b"key", b"card-token:sandbox:tok-fake-0001", hashlib.sha256).digest()
    assert Token("tok-fake-0001").fingerprint(b"key", "sandbox") == expected


def test_a_fingerprint_differs_by_key_environment_and_token() -> None:
    prints = {
        Token(text).fingerprint(key, environment)
        for text in ("tok-fake-0001", "tok-fake-0002")
        for key in (b"key", b"another")
        for environment in ("sandbox", "production")
    }
    assert len(prints) == 8


@given(st.text(min_size=1, max_size=TOKEN_MAX).filter(is_storable))
def test_every_usable_token_has_a_fingerprint(text: str) -> None:
    assert len(Token(text).fingerprint(b"key", "production")) == 32


# --- customers ---


@pytest.mark.parametrize("value", ["a", "a/b c", "%2F", "'\"", "ひと🙂", " ", "x" * CUSTOMER_ID_MAX])
def test_a_customer_id_is_any_short_text(value: str) -> None:
    assert is_customer_id(value)


@pytest.mark.parametrize("value", ["", "x" * (CUSTOMER_ID_MAX + 1), "a\x00", "\udc00", None, 7, True, b"a", ["a"]])
def test_anything_else_is_no_customer_id(value: object) -> None:
    assert not is_customer_id(value)


# --- facts ---


@pytest.mark.parametrize(
    ("month", "year", "day"),
    [
        ("01", "39", dt.date(2039, 1, 31)),
        ("1", "39", dt.date(2039, 1, 31)),
        ("02", "28", dt.date(2028, 2, 29)),
        ("02", "2027", dt.date(2027, 2, 28)),
        ("12", "00", dt.date(2000, 12, 31)),
        ("12", "9999", dt.date(9999, 12, 31)),
    ],
)
def test_a_card_is_good_to_the_end_of_its_month(month: str, year: str, day: dt.date) -> None:
    assert CardFacts(expiry_month=month, expiry_year=year).expires_on == day


@pytest.mark.parametrize(
    ("month", "year"),
    [
        (None, None),
        ("01", None),
        (None, "39"),
        ("", ""),
        ("00", "39"),
        ("13", "39"),
        ("01", "039"),
        ("01", "0000"),
        ("1.0", "39"),
        ("-1", "39"),
        ("Jan", "39"),
        ("\u0661", "39"),  # digits, but not ASCII ones
        ("\u00b2", "39"),
        ("01", "\uff13\uff19"),
    ],
)
def test_an_expiry_that_is_none_gives_no_day(month: str | None, year: str | None) -> None:
    assert CardFacts(expiry_month=month, expiry_year=year).expires_on is None


@given(month=st.text(max_size=6), year=st.text(max_size=6))
def test_no_expiry_makes_the_reading_fail(month: str, year: str) -> None:
    assert isinstance(CardFacts(expiry_month=month, expiry_year=year).expires_on, dt.date | None)


@pytest.mark.parametrize(
    ("number", "last4"),
    [
        ("**** 0008", "0008"),
        ("999912******1234", "1234"),
        ("0008", "0008"),
        ("**** 0008 ", "0008"),
        ("****0008", "0008"),
        ("**** **** **** 0008", "0008"),
        ("9999-12xx-xxxx-1234", "1234"),
        ("XXXXXXXXXXXX1234", "1234"),
        ("VISA \u2022\u2022\u2022\u2022 1234", "1234"),
        ("\u2026 1234", "1234"),
        ("999912------1234", "1234"),
        ("(**** 1234)", "1234"),
        ("****121234", "1234"),
        ("**** 08", None),
        ("411111******", None),
        ("4111 11** **** ****", None),
        ("411111XXXXXXXXXX", None),
        ("0008 - exp 12/2039", None),
        ("**** 0008 - exp 12/2039", None),
        ("**** 0008 12/39", None),
        ("**** 0008 2039", None),
        ("exp 2039", None),
        ("Amex 2039", None),
        ("41111111", None),
        ("411111", None),
        ("4111 1111", None),
        ("", None),
        ("****", None),
        (None, None),
    ],
)
def test_the_last_four_are_what_the_mask_shows(number: str | None, last4: str | None) -> None:
    assert CardFacts(number=number).last4 == last4


def test_what_is_not_said_is_taken_from_the_older_facts() -> None:
    older = CardFacts(brand="VISA", is_preferred=True, agreements=("a",), cvv_required=False)
    newer = CardFacts(brand="MASTERCARD", is_preferred=False, agreements=())
    assert newer.over(older) == CardFacts(brand="MASTERCARD", is_preferred=False, agreements=(), cvv_required=False)
    assert CardFacts().over(older) == older


# --- read_card ---


def test_a_whole_card_is_read() -> None:
    listed = read_card(payloads.card(agreements=["b", "a", "b"]))
    assert listed.token == Token(payloads.TOKEN)
    assert listed.facts == CardFacts(
        pg_code="fake-pg",
        pg_name="Fake Gateway",
        brand="VISA",
        number="**** 0001",
        expiry_month="01",
        expiry_year="39",
        is_expired=False,
        is_preferred=True,
        cvv_required=True,
        agreements=("a", "b"),
        name_on_card="FAKE SHOPPER",
    )


def test_a_bare_token_is_a_card_of_which_nothing_is_said() -> None:
    assert read_card({"token": "tok-fake-0001"}).facts == CardFacts()


@pytest.mark.parametrize(
    "token", [..., None, "", 1.5, 10**60, -(10**100), True, ["tok"], {"token": "tok"}, "t" * 51, "a\x00"]
)
def test_a_card_without_a_usable_token_is_refused(token: object) -> None:
    with pytest.raises(UnusableCard):
        read_card(payloads.card() | {"token": token})


def test_pg_stands_in_for_pg_name() -> None:
    assert read_card({"token": "tok-fake-0001", "pg": "Fake"}).facts.pg_name == "Fake"
    assert read_card({"token": "tok-fake-0001", "pg": "Fake", "pg_name": "Name"}).facts.pg_name == "Name"


@pytest.mark.parametrize("field", ["number", "brand", "name_on_card", "pg_code", "pg_name", "pg", "expiry_month"])
@pytest.mark.parametrize("value", [payloads.FULL_NUMBER, int(payloads.FULL_NUMBER), "9999 1234 1234 1234"])
def test_a_full_number_in_any_field_is_masked_on_reading(field: str, value: object) -> None:
    listed = read_card({"token": "tok-fake-0001", field: value})
    assert "**** 1234" in dataclasses.astuple(listed.facts)
    assert "99991234" not in repr(listed)


def test_numbers_are_read_as_texts() -> None:
    facts = read_card({"token": "tok-fake-0001", "expiry_month": 1, "expiry_year": 2039}).facts
    assert (facts.expiry_month, facts.expires_on) == ("1", dt.date(2039, 1, 31))


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (True, True),
        (1, True),
        ("true", True),
        (" True ", True),
        ("1", True),
        (False, False),
        (0, False),
        ("FALSE", False),
        ("0", False),
        *((odd, None) for odd in (None, "", "yes", 2, -1, 1.0, [], {}, [True], 10**100)),
    ],
)
def test_a_flag_is_read_as_meant(said: object, read: object) -> None:
    assert read_card({"token": "tok-fake-0001", "is_expired": said}).facts.is_expired is read


@pytest.mark.parametrize(
    ("month", "read"),
    [
        ("01", "01"),
        (" 01", "01"),
        ("01\u00a0", "01"),
        ("\u0660\u0661", "01"),  # Arabic-Indic
        ("\u06f0\u06f1", "01"),  # as in Persian and Urdu
        ("\u0966\u0967", "01"),  # Devanagari
        ("\uff10\uff11", "01"),  # full-width
        ("\u200f\u0660\u0661", "01"),  # with a direction mark
        ("\u00b2", "\u00b2"),  # a superscript is no digit of a month
        ("Jan", "Jan"),
        ("", ""),
        (10**100, None),
    ],
)
def test_a_month_is_read_as_meant(month: object, read: object) -> None:
    facts = read_card({"token": "tok-fake-0001", "expiry_month": month, "expiry_year": "\u0663\u0669"}).facts
    assert facts.expiry_month == read
    assert (facts.expires_on == dt.date(2039, 1, 31)) is (read == "01")


def test_a_token_that_is_a_number_is_its_digits() -> None:
    assert read_card({"token": 9999000000000001}).token == Token("9999000000000001")


def test_blanks_around_a_token_make_no_other_card() -> None:
    assert read_card({"token": " tok-fake-0001\n"}).token == Token("tok-fake-0001")


def test_long_texts_are_cut() -> None:
    assert read_card({"token": "tok-fake-0001", "name_on_card": "N" * 1_000}).facts.name_on_card == "N" * TEXT_MAX


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (None, None),
        ("a", None),
        ({"id": "a"}, None),
        ([], ()),
        (["b", "a", "a"], ("a", "b")),
        ([{"id": "a", "type": "recurring"}, "b"], ("a", "b")),
        ([5, "5"], ("5",)),
        (["", "a" * 129, "\x00", "\ud800", None, True, ["a"], {}, {"id": None}, "a" * 128], ("a" * 128,)),
    ],
)
def test_agreements_are_read_sorted_and_once_each(said: object, read: object) -> None:
    assert read_card({"token": "tok-fake-0001", "agreements": said}).facts.agreements == read


def test_agreements_are_bounded() -> None:
    facts = read_card({"token": "tok-fake-0001", "agreements": [f"{n:05}" for n in range(5_000)]}).facts
    assert facts.agreements is not None
    assert len(facts.agreements) == AGREEMENTS_MAX


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=60),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)

FIELDS = ("pg", *(name for name in payloads.card() if name != "token"))


@given(st.fixed_dictionaries({"token": st.just("tok-fake-0001")}, optional=dict.fromkeys(FIELDS, json_values)))
def test_odd_values_cost_only_their_field(source: dict[str, Any]) -> None:
    listed = read_card(source)
    assert listed.token == Token("tok-fake-0001")
    for value in dataclasses.astuple(listed.facts):
        assert value is None or isinstance(value, bool | str | tuple)
        assert not isinstance(value, str) or is_storable(value)
