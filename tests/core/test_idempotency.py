"""Idempotency keys: which texts are one, and when two requests are the same."""

from __future__ import annotations

import pytest

from cardsync.core.idempotency import KEY_MAX, is_key, request_hash


@pytest.mark.parametrize("text", ["a", "!", "~", '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "k" * KEY_MAX])
def test_visible_ascii_is_a_key(text: str) -> None:
    assert is_key(text)


@pytest.mark.parametrize("text", ["", " ", "a b", "a\n", "\x7f", "é", "k" * (KEY_MAX + 1)])
def test_anything_else_is_none(text: str) -> None:
    assert not is_key(text)


def test_the_order_of_a_body_s_fields_does_not_matter_and_everything_else_does() -> None:
    first = request_hash("shop", {"card_id": "1", "reason": None})
    assert len(first) == 32
    assert request_hash("shop", {"reason": None, "card_id": "1"}) == first
    others = [
        request_hash("other", {"card_id": "1", "reason": None}),
        request_hash("shop", {"card_id": "2", "reason": None}),
        request_hash("shop", {"card_id": "1", "reason": "é"}),
        request_hash("shop", {"card_id": "1"}),
    ]
    assert len({first, *others}) == 5
