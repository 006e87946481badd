"""Odd lists: several oddities mean what the strictest allows, and an unknown one means nothing good."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cardsync.core.oddities import (
    HIDING,
    ODDITIES,
    TABLE,
    Oddity,
    may_remove,
    may_remove_by_name,
    proves_alone,
    said,
)

SOME = st.lists(st.sampled_from(ODDITIES))


def test_the_table_has_each_oddity_once_and_a_clean_list_allows_all() -> None:
    assert set(TABLE) == set(ODDITIES)
    assert may_remove(())
    assert proves_alone(())


@given(SOME, st.sampled_from(ODDITIES))
def test_one_more_oddity_never_allows_more(oddities: list[Oddity], more: Oddity) -> None:
    assert may_remove([*oddities, more]) <= may_remove(oddities)
    assert proves_alone([*oddities, more]) <= proves_alone(oddities)


def test_what_removes_an_active_card_also_proves_a_deletion_and_hides_none() -> None:
    for meaning in TABLE.values():
        assert meaning.proves or not meaning.removes
        assert not (meaning.removes and meaning.hides)
    assert set(HIDING) == {oddity for oddity in ODDITIES if TABLE[oddity].hides}


@given(SOME)
def test_stored_names_mean_the_same(oddities: list[Oddity]) -> None:
    assert may_remove_by_name(oddities) == may_remove(oddities)


@given(SOME)
def test_an_oddity_of_a_newer_version_is_taken_for_the_strictest_and_named(oddities: list[Oddity]) -> None:
    names = [*oddities, "of_tomorrow"]
    assert not may_remove_by_name(names)
    assert said(names).endswith("of_tomorrow")
