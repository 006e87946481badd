"""Keys of ``OTTU_WEBHOOK_KEYS``: only the two environments bind, and every other key is taken as it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cardsync.core.cards import ENVIRONMENTS, Environment
from cardsync.core.webhook_keys import BoundKey


@given(st.text(), st.sampled_from(ENVIRONMENTS))
def test_a_key_is_bound_by_what_stands_before_its_first_colon_and_kept_whole_behind_it(
    key: str, environment: Environment
) -> None:
    assert BoundKey.read(f"{environment}:{key}") == BoundKey(key, environment)


@given(st.text().filter(lambda text: not text.startswith(tuple(f"{one}:" for one in ENVIRONMENTS))))
def test_a_key_that_names_no_environment_is_plain_colons_and_all(text: str) -> None:
    assert BoundKey.read(text) == BoundKey(text)


def test_a_word_that_is_almost_an_environment_binds_nothing() -> None:
    for text in ("Production:key", "production key", " sandbox:key", "sandbox", "test:key"):
        assert BoundKey.read(text) == BoundKey(text)


def test_a_key_prints_its_environment_alone() -> None:
    assert repr(BoundKey.read("sandbox:whatever")) == "BoundKey(environment='sandbox')"
