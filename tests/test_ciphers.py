"""Encryption at rest: what was encrypted comes back, only whole, only where it belongs, and only with its key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync import ciphers
from cardsync.ciphers import KeyRing, decrypt_hint, encrypt_hint, reencrypted
from cardsync.core.cards import CardFacts, Token
from cardsync.core.hints import ENCRYPTED_MAX
from cardsync.errors import MalformedBody, UnknownSecretKey

OLD, NEW = b"a secret of 32 bytes, the first.", b"a secret of 32 bytes, the second"
WHOSE = ("sandbox", "cust-1")
TOKEN = Token("9999000000000001")
FACTS = CardFacts(brand="VISA", is_preferred=True, agreements=("agreement-1",), name_on_card="FAKE SHOPPER")
AGREEMENTS = CardFacts(agreements=("agreement-1",))


def test_a_hint_comes_back_and_its_text_tells_nothing() -> None:
    ring = KeyRing(OLD)
    text = encrypt_hint(ring, WHOSE, TOKEN, FACTS).text
    assert decrypt_hint(ring, WHOSE, text, AGREEMENTS) == (TOKEN, FACTS)
    assert not any(word in text for word in ("9999000000000001", "FAKE", "VISA", OLD.decode()))
    assert text != encrypt_hint(ring, WHOSE, TOKEN, FACTS).text  # equal hints are not seen to be equal


def test_another_process_with_the_same_secret_reads_it() -> None:
    assert (
        decrypt_hint(KeyRing(OLD), WHOSE, encrypt_hint(KeyRing(OLD), WHOSE, TOKEN, FACTS).text, AGREEMENTS)[0] == TOKEN
    )


def test_a_ciphertext_that_was_moved_to_another_customer_does_not_open() -> None:
    ring = KeyRing(OLD)
    with pytest.raises(MalformedBody):
        decrypt_hint(ring, ("sandbox", "cust-2"), encrypt_hint(ring, WHOSE, TOKEN, FACTS).text, AGREEMENTS)


@given(place=st.integers(0, 10_000), other=st.sampled_from("Ab0-_.=é \x00"))
def test_a_ciphertext_that_was_changed_does_not_open(place: int, other: str) -> None:
    ring = KeyRing(OLD)
    text = encrypt_hint(ring, WHOSE, TOKEN, FACTS).text.rstrip("=")  # padding carries nothing
    place %= len(text) - 1  # the last character's lowest bits carry nothing either
    changed = text[:place] + other + text[place + 1 :]
    if changed != text:
        with pytest.raises((MalformedBody, UnknownSecretKey, ValueError)):
            decrypt_hint(ring, WHOSE, changed + "=" * (-len(changed.rpartition(".")[2]) % 4), AGREEMENTS)


def test_a_key_that_is_not_in_the_ring_is_named_and_one_that_is_previous_still_reads() -> None:
    text = encrypt_hint(KeyRing(OLD), WHOSE, TOKEN, FACTS).text
    with pytest.raises(UnknownSecretKey, match="CARDSYNC_PREVIOUS_SECRET_KEYS"):
        decrypt_hint(KeyRing(NEW), WHOSE, text, AGREEMENTS)
    ring = KeyRing(NEW, [OLD])
    assert decrypt_hint(ring, WHOSE, text, AGREEMENTS) == (TOKEN, FACTS)
    moved = reencrypted(ring, WHOSE, text, AGREEMENTS)
    assert moved is not None
    assert decrypt_hint(KeyRing(NEW), WHOSE, moved.text, AGREEMENTS) == (TOKEN, FACTS)
    assert reencrypted(ring, WHOSE, moved.text, AGREEMENTS) is None


def test_what_a_release_before_encryption_stored_is_read_and_encrypted_by_a_rotation() -> None:
    ring = KeyRing(OLD)
    assert decrypt_hint(ring, WHOSE, TOKEN.reveal(), FACTS) == (TOKEN, FACTS)
    moved = reencrypted(ring, WHOSE, TOKEN.reveal(), FACTS)
    assert moved is not None
    assert decrypt_hint(ring, WHOSE, moved.text, AGREEMENTS) == (TOKEN, FACTS)


words = st.none() | st.text(st.sampled_from('\x01"\\a💳م'), max_size=128)


@given(
    facts=st.builds(
        CardFacts,
        **dict.fromkeys(
            ("pg_code", "pg_name", "brand", "number", "expiry_month", "expiry_year", "name_on_card"), words
        ),
        is_expired=st.none() | st.booleans(),
    )
)
def test_the_text_is_bounded_and_always_keeps_the_token(facts: CardFacts) -> None:
    ring, token = KeyRing(OLD), Token("\x01" * 50)
    text = encrypt_hint(ring, WHOSE, token, facts).text
    assert len(text) <= ENCRYPTED_MAX
    found, said = decrypt_hint(ring, WHOSE, text, CardFacts())
    assert found == token
    assert said.is_expired == facts.is_expired
    if len(text) < ENCRYPTED_MAX // 4:
        assert said == facts


def test_neither_a_ring_nor_a_hint_prints_a_secret() -> None:
    ring = KeyRing(NEW, [OLD])
    printed = repr(ring) + repr(ring.current) + repr(encrypt_hint(ring, WHOSE, TOKEN, FACTS))
    assert "secret of" not in printed
    assert "c1." not in printed


def test_an_answer_is_opened_by_the_session_that_asked_alone() -> None:
    key = ciphers.answer_key(b"s" * 32, "salt")
    sealed = ciphers.sealed_answer(ciphers.answer_address(key), "a secret")
    assert ciphers.opened_answer(ciphers.answer_key(b"s" * 32, "salt"), sealed) == "a secret"
    for other in (ciphers.answer_key(b"t" * 32, "salt"), ciphers.answer_key(b"s" * 32, "other")):
        with pytest.raises(MalformedBody):
            ciphers.opened_answer(other, sealed)
    assert sealed != ciphers.sealed_answer(ciphers.answer_address(key), "a secret")
    for none in ("", "AAAA", "no base64 at all!"):
        with pytest.raises(MalformedBody):
            ciphers.sealed_answer(none, "a secret")
        with pytest.raises(MalformedBody):
            ciphers.opened_answer(key, none)
