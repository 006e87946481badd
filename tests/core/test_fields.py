"""One field of Ottu's JSON: read as it is meant, whatever its type is, and never an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync.core.card_numbers import looks_like_full_number
from cardsync.core.fields import (
    TEXT_MAX,
    as_text,
    is_storable,
    read_count,
    read_digits,
    read_flag,
    read_text,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(JSON)
def test_no_value_raises_and_what_is_read_is_of_its_kind(value: object) -> None:
    text, digits = read_text(value), read_digits(value)
    assert all(one is None or (is_storable(one) and len(one) <= TEXT_MAX) for one in (text, digits))
    assert text is None or not looks_like_full_number(text)
    assert read_flag(value) in (True, False, None)
    count = read_count(value)
    assert count is None or 0 <= count < 10**6


@given(st.integers(-(10**64), 10**64))
def test_a_number_is_its_digits_and_an_absurd_one_is_nothing(number: int) -> None:
    assert as_text(number) == str(number)
    assert as_text(number + 10**65) is None


@given(st.integers(0, 999_999), st.sampled_from([int, str, lambda n: f" {n} "]))
def test_a_count_is_the_same_as_a_number_and_as_a_text(number: int, written: type) -> None:
    assert read_count(written(number)) == number


@pytest.mark.parametrize("value", [True, False, -1, "-1", "1.0", 1.0, "1000000", 10**6, "\u0661", "\u00b2", "", None])
def test_what_is_no_small_whole_number_is_no_count(value: object) -> None:
    assert read_count(value) is None


@pytest.mark.parametrize("text", ["a\x00b", "\ud800", "x\udfff"])
def test_what_postgresql_cannot_hold_is_not_read(text: str) -> None:
    assert not is_storable(text)
    assert read_text(text) is None


@given(st.integers(0, 9_999), st.sampled_from("\u0660\u06f0\u0966\uff10"))
def test_digits_of_every_script_are_read_as_the_same_number(number: int, zero: str) -> None:
    written = "".join(chr(ord(zero) + int(digit)) for digit in str(number))
    assert read_digits(f"\u200f {written}\u00a0") == str(number)
