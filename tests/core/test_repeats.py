"""A signature is recognised by its hash, and the limits on repeats fit each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cardsync.core.repeats import (
    NO_PATIENCE,
    ROWS_A_SIGNATURE,
    ROWS_SECONDS,
    STRANGERS_A_SIGNATURE,
    STRANGERS_SECONDS,
    signature_hash,
)


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_equal_signatures_alone_have_equal_hashes_which_do_not_hold_them(one: str, other: str) -> None:
    assert (signature_hash(one) == signature_hash(other)) is (one == other)
    assert len(signature_hash(one)) == 32
    assert one.encode() != signature_hash(one)


def test_known_customers_have_rows_beside_the_strangers_of_a_signature() -> None:
    assert ROWS_A_SIGNATURE >= 2 * STRANGERS_A_SIGNATURE
    assert ROWS_SECONDS == STRANGERS_SECONDS


def test_the_moment_without_patience_is_past_for_every_clock() -> None:
    assert NO_PATIENCE.timestamp() == 0
