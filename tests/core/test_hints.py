"""A hint as bytes: bounded, and the same hint again; of what is too long the least needed goes first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync.core.cards import AGREEMENTS_MAX, TOKEN_MAX, CardFacts, Token, read_card
from cardsync.core.hints import (
    ENCRYPTED_MAX,
    HINT_BYTES,
    EncryptedHint,
    as_bytes,
    from_bytes,
    in_the_clear,
    stored_hint,
)
from cardsync.errors import MalformedBody, UnusableCard

TOKEN = Token("tok-fake-0001")
TEXTS = st.text(max_size=200)
CIPHERTEXT = "c1.0123456789abcdef." + "A" * 60


@given(
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("brand", "number", "name_on_card", "pg_code", "expiry_year"), TEXTS)
    )
)
def test_a_hint_comes_back_whole_where_it_fits_and_never_with_another_token(said: dict[str, str]) -> None:
    facts = read_card({"token": TOKEN.reveal(), **said}).facts
    content = as_bytes(TOKEN, facts)
    assert len(content) <= HINT_BYTES
    token, again = from_bytes(content, in_the_clear(facts))
    assert token == TOKEN
    assert all(getattr(again, name) in (getattr(facts, name), None) for name in said)


def test_what_is_too_long_loses_the_name_before_the_gateway_that_charges_it() -> None:
    long = "\x01" * 128  # six bytes each in JSON
    facts = CardFacts(name_on_card=long, pg_name=long, brand=long, pg_code="code", expiry_month="01", is_preferred=True)
    _, kept = from_bytes(as_bytes(TOKEN, facts), in_the_clear(facts))
    assert kept.name_on_card is None
    assert (kept.pg_code, kept.expiry_month, kept.is_preferred) == ("code", "01", True)


def test_agreements_stay_in_the_clear_and_are_joined_again() -> None:
    facts = CardFacts(brand="VISA", agreements=tuple(f"agreement-{n:03}" for n in range(AGREEMENTS_MAX)))
    content = as_bytes(TOKEN, facts)
    assert b"agreement-" not in content
    assert in_the_clear(facts) == CardFacts(agreements=facts.agreements)
    assert from_bytes(content, in_the_clear(facts)) == (TOKEN, facts)


@given(st.binary(max_size=300))
def test_bytes_that_are_no_hint_are_refused_and_not_repeated(content: bytes) -> None:
    with pytest.raises(MalformedBody, match="not a hint"):
        from_bytes(content, CardFacts())


@pytest.mark.parametrize("content", [b"{}", b'{"token": 1, "facts": {}}', b'{"token": "t", "facts": []}', b'["token"]'])
def test_json_of_another_shape_is_no_hint(content: bytes) -> None:
    with pytest.raises(MalformedBody):
        from_bytes(content, CardFacts())


def test_facts_of_a_newer_release_are_passed_over() -> None:
    content = b'{"token": "tok-fake-0001", "facts": {"brand": "VISA", "of_tomorrow": 1}}'
    assert from_bytes(content, CardFacts()) == (TOKEN, CardFacts(brand="VISA"))


def test_a_stored_text_is_told_by_its_length() -> None:
    assert stored_hint("t" * TOKEN_MAX) == Token("t" * TOKEN_MAX)
    assert stored_hint(CIPHERTEXT) == EncryptedHint(CIPHERTEXT)
    assert repr(stored_hint(CIPHERTEXT)) == "EncryptedHint(…)"


@pytest.mark.parametrize("text", ["x" * 60, CIPHERTEXT + "A" * ENCRYPTED_MAX, CIPHERTEXT + " ", "c1.0123." + "A" * 60])
def test_a_long_text_that_is_not_encrypted_is_neither(text: str) -> None:
    with pytest.raises((ValueError, UnusableCard)):
        stored_hint(text)
