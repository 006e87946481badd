"""Whether a payment succeeded, by the words of its notification."""

from __future__ import annotations

import pytest

from cardsync.core.outcomes import succeeded


@pytest.mark.parametrize(
    ("result", "state", "expected"),
    [
        ("success", "paid", True),
        ("success", "anything", True),
        ("success", "failed", True),  # the result is the outcome; a state of a verify is not documented
        ("Success", None, True),
        ("failed", "failed", False),
        ("failed", "paid", False),
        ("canceled", "canceled", False),
        ("error", "attempted", False),
        ("pending", "pending", False),
        ("cod", "cod", False),
        (" FAILED ", None, False),
        (None, "failed", False),
        (None, "canceled", False),
        (None, "expired", False),
        (None, "invalided", False),
        ("of tomorrow", "failed", False),
        (None, "paid", True),
        ("of tomorrow", "authorized", True),
        (None, None, None),
        ("", "", None),
        ("verified", "verified", None),
        (None, "attempted", None),
        (None, "created", None),
    ],
)
def test_a_payment_succeeded_or_not_by_ottus_words_and_by_others_it_is_open(
    result: str | None, state: str | None, expected: bool | None
) -> None:
    assert succeeded(result, state) is expected
