"""Card numbers: a full one is seen through every separator and script, a mask is kept, and no last four are guessed at."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync.core.card_numbers import SHORTEST_NUMBER, last_four, looks_like_full_number, masked

FULL_NUMBERS = [
    "9999123412341234",
    "9999 1234 1234 1234",
    "9999-1234-1234-1234",
    "9999.1234.1234.1234",
    "9999_1234_1234_1234",
    "9999/1234/1234/1234",
    "9999,1234,1234,1234",
    "9999:1234:1234:1234",
    "9999|1234|1234|1234",
    "9999\u00a01234\u00a01234\u00a01234",  # no-break spaces
    "9999\u20131234\u20131234\u20131234",  # en dashes
    "9999\u200b1234\u200b1234\u200b1234",  # zero-width spaces
    "card no. 9999 1234 1234 1234, thanks",
    "\uff19\uff19\uff19\uff19" + "\uff11\uff12\uff13\uff14" * 3,  # full-width digits
    "999912341234",  # Maestro's twelve digits
    "9999123412341234123",  # nineteen
    "9999;1234;1234;1234",
    "9999 \u2014 1234 \u2014 1234 \u2014 1234",  # em dashes between blanks
    "\u0669\u0669\u0669\u0669" + "\u0661\u0662\u0663\u0664" * 3,  # Arabic-Indic digits
    "\u2079\u2079\u2079\u2079 " + "\u00b9\u00b2\u00b3\u2074 " * 3,  # superscripts
    "\u2468\u2468\u2468\u2468" + "\u2460\u2461\u2462\u2463" * 3,  # circled digits
    "9999\u20601234\u206012341234",  # word joiners
]
MASKS = [
    "**** 0008",
    "0008",
    "999912******1234",
    "99991234****1234",
    "9999 12XX XXXX 1234",
    "9999-12xx-xxxx-1234",
    "999912\u2022\u2022\u2022\u2022\u2022\u20221234",
    "999912######1234",
    "",
    "VISA",
]


@pytest.mark.parametrize("text", FULL_NUMBERS)
def test_a_full_number_is_seen_through_its_separators_and_masked(text: str) -> None:
    assert looks_like_full_number(text)
    assert masked(text) in ("**** 1234", "**** 4123", "****")


@pytest.mark.parametrize("text", MASKS)
def test_a_mask_is_kept_as_it_is(text: str) -> None:
    assert not looks_like_full_number(text)
    assert masked(text) == text


@given(st.text())
def test_what_was_masked_never_looks_like_a_full_number(text: str) -> None:
    assert not looks_like_full_number(masked(text))
    assert masked(masked(text)) == masked(text)


@given(
    number=st.from_regex(r"[0-9]{12,19}", fullmatch=True),
    between=st.sampled_from(["", " ", "-", ". ", ", ", "\u2009"]),
)
def test_no_digits_of_a_full_number_but_the_last_four_survive(number: str, between: str) -> None:
    written = between.join(number[at : at + 4] for at in range(0, len(number), 4))
    assert masked(f"<{written}>") == f"**** {number[-4:]}"


@given(
    head=st.sampled_from(["", "4111", "411111", "4111 11", "VISA "]),
    hidden=st.sampled_from(["****", "******", "xxxx", "XXXXXX", "\u2022\u2022\u2022\u2022", "####", "----", "** ****"]),
    between=st.sampled_from(["", " ", "-"]),
    last=st.from_regex(r"[0-9]{4}", fullmatch=True),
    behind=st.sampled_from(["", " ", " exp 12/2039", " 12/39", " - 2039", "*", "******", " (2039)"]),
)
def test_the_last_four_are_read_only_from_the_end_of_a_mask(
    head: str, hidden: str, between: str, last: str, behind: str
) -> None:
    mask = f"{head}{hidden}{between}{last}{behind}"
    assert last_four(mask) == (last if not behind.strip() else None)
    assert last_four(f"{head}{hidden}") is None


@given(st.text(alphabet="0123456789*xX# -/.\u2022exp\u0661", max_size=24))
def test_the_last_four_stand_at_the_end_of_the_text_behind_a_mask_or_alone(text: str) -> None:
    last = last_four(text)
    if last is not None:
        bare = text.rstrip(" .")
        assert bare.endswith(last)
        assert (
            bare[:-4].strip(" -.") == ""
            or any(sign in bare[:-4] for sign in "*xX#\u2022")
            or "---" in text
            or "///" in text
        )


@pytest.mark.parametrize(
    ("number", "kept"),
    [
        ("9999123412341234 12/2039", "****"),
        ("9999 1234 1234 1234 12/39", "****"),
        ("9999 1234 1234 1234 - 12/39", "****"),
        ("999912341234123 12/39", "****"),
        ("9999123412341234 123", "****"),
        ("9999 1234 1234 1234 exp 12/2039", "**** 1234"),
        ("9999-123412-34123", "**** 4123"),
    ],
)
def test_what_stands_behind_a_full_number_is_not_its_last_four(number: str, kept: str) -> None:
    assert masked(number) == kept
    assert last_four(kept) in (None, kept[-4:])


@given(st.from_regex(r"[0-9]{1,10}", fullmatch=True))
def test_fewer_digits_than_any_full_number_has_are_kept(digits: str) -> None:
    assert len(digits) < SHORTEST_NUMBER
    assert masked(digits) == digits


@given(st.text(max_size=40))
def test_the_last_four_are_four_ascii_digits_of_the_text_or_none(text: str) -> None:
    last = last_four(text)
    assert last is None or (last.isascii() and last.isdigit() and len(last) == 4 and last in text)
