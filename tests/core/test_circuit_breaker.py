"""The breaker: what opens it and what does not, one probe at a time, and that any success closes it."""

from __future__ import annotations

import datetime as dt
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync.core.circuit_breaker import (
    CLOSED,
    FIRST_PROBE_SECONDS,
    FORGET_SECONDS,
    LONGEST_PROBE_SECONDS,
    LONGEST_SHUT_SECONDS,
    ODD_CUSTOMERS_IN_A_ROW,
    Breaker,
    Word,
    heard,
    let_through,
    seconds_to_wait,
)

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
CALL_SECONDS = 15.0
CUSTOMERS = st.integers(1, 5)
WORDS: st.SearchStrategy[Word] = st.sampled_from(get_args(Word))
STEPS = st.lists(st.tuples(st.floats(0, 40), CUSTOMERS, WORDS, st.booleans()), max_size=80)


def after(seconds: float) -> dt.datetime:
    return NOW + dt.timedelta(seconds=seconds)


def told(*steps: tuple[Word, int], breaker: Breaker = CLOSED, at: float = 0.0) -> Breaker:
    for word, who in steps:
        breaker = heard(breaker, word, who, after(at))
    return breaker


def wait(breaker: Breaker, at: float, who: int = 9, *, may_probe: bool = True) -> float:
    return seconds_to_wait(breaker, who, after(at), may_probe=may_probe)


DOWN = told(("failed", 1), ("failed", 2), ("failed", 3))
REFUSED = told(("credentials_refused", 1))
ODD = told(*[("odd", who) for who in range(1, ODD_CUSTOMERS_IN_A_ROW + 1)])


def test_it_opens_when_several_customers_fail_in_a_row() -> None:
    assert told(("failed", 1), ("failed", 2)).reason is None
    assert DOWN.reason == "down"


@given(st.integers(1, 1_000), st.sampled_from(["failed", "odd"]))
def test_one_customer_that_always_fails_stops_no_other(times: int, word: Word) -> None:
    assert told(*[(word, 1)] * times).reason is None


def test_odd_lists_of_many_customers_in_a_row_open_it_and_of_fewer_do_not() -> None:
    assert told(*[("odd", who) for who in range(1, ODD_CUSTOMERS_IN_A_ROW)]).reason is None
    assert ODD.reason == "down"


def test_with_one_customer_in_ten_odd_for_ever_it_never_opens() -> None:
    words: list[tuple[Word, int]] = [("odd" if n % 10 < 1 else "answered", n) for n in range(1_000)]
    breaker = CLOSED
    for step in words:
        breaker = told(step, breaker=breaker)
        assert breaker.reason is None


@given(st.sampled_from(["rejected", "throttled", "failed"]))
def test_only_a_success_ends_the_row_of_odd_lists(word: Word) -> None:
    row = told(*[("odd", who) for who in range(2, ODD_CUSTOMERS_IN_A_ROW + 1)])
    assert told((word, 50), ("odd", 1), breaker=row).reason == "down"
    assert told(("answered", 50), ("odd", 1), breaker=row).reason is None


@given(st.sampled_from(["answered", "rejected", "throttled", "odd"]))
def test_any_answer_between_begins_the_row_of_failures_again(word: Word) -> None:
    assert told(("failed", 1), ("failed", 2), (word, 4), ("failed", 3)).reason is None


def test_what_failed_long_ago_says_nothing_of_now() -> None:
    before = told(("failed", 1), ("failed", 2))
    assert told(("failed", 3), breaker=before, at=FORGET_SECONDS).failing == (3,)


def test_refused_credentials_open_it_at_once() -> None:
    assert REFUSED.reason == "credentials"


@pytest.mark.parametrize("open_breaker", [DOWN, REFUSED, ODD])
def test_after_a_while_one_call_alone_is_let_through(open_breaker: Breaker) -> None:
    assert wait(open_breaker, 0) == FIRST_PROBE_SECONDS
    assert wait(open_breaker, FIRST_PROBE_SECONDS) == 0
    probed = let_through(open_breaker, 9, after(FIRST_PROBE_SECONDS), call_seconds=CALL_SECONDS)
    assert wait(probed, FIRST_PROBE_SECONDS, who=9) == 0  # its further pages
    assert 0 < wait(probed, FIRST_PROBE_SECONDS, who=8) < CALL_SECONDS
    assert wait(probed, FIRST_PROBE_SECONDS + CALL_SECONDS, who=8) == 0  # its process died


@pytest.mark.parametrize("open_breaker", [DOWN, REFUSED, ODD])
def test_a_deletion_is_never_a_probe(open_breaker: Breaker) -> None:
    assert wait(open_breaker, 10_000, may_probe=False) > 0
    probed = let_through(open_breaker, 9, after(5), call_seconds=CALL_SECONDS)
    assert wait(probed, 5, who=9, may_probe=False) > 0


@given(STEPS)
def test_there_is_one_probe_at_a_time_and_its_waits_are_bounded(steps: list[tuple[float, int, Word, bool]]) -> None:
    """For any caller, in whatever order calls end: no second call begins while a probe is under way."""
    breaker, at = CLOSED, 0.0
    under_way: dict[int, float] = {}  # calls that were let through, and when they will have ended at the latest
    for pause, who, word, asks in steps:
        at += pause
        if asks:
            waits = wait(breaker, at, who)
            assert waits <= max(CALL_SECONDS, LONGEST_PROBE_SECONDS)
            if waits == 0 and who not in under_way:
                if breaker.reason is not None and breaker.probing not in (None, who):
                    assert under_way.get(breaker.probing or 0, 0) <= at
                breaker = let_through(breaker, who, after(at), call_seconds=CALL_SECONDS)
                under_way[who] = at + CALL_SECONDS
        elif who in under_way and under_way.pop(who) > at:
            breaker = told((word, who), breaker=breaker, at=at)
            assert word != "answered" or breaker == CLOSED


@given(st.integers(0, 50))
def test_waits_between_probes_grow_and_are_bounded(probes: int) -> None:
    breaker, at, waits = DOWN, 0.0, [FIRST_PROBE_SECONDS]
    for _ in range(probes):
        at += wait(breaker, at)
        breaker = let_through(breaker, 9, after(at), call_seconds=CALL_SECONDS)
        breaker = told(("failed", 9), breaker=breaker, at=at)
        waits.append(wait(breaker, at))
    assert waits == sorted(waits)
    assert waits[-1] <= LONGEST_PROBE_SECONDS


@pytest.mark.parametrize("open_breaker", [DOWN, REFUSED, ODD])
def test_success_of_any_call_closes_it(open_breaker: Breaker) -> None:
    assert told(("answered", 7), breaker=open_breaker) == CLOSED


@given(st.sampled_from([w for w in get_args(Word) if w != "answered"]), st.sampled_from([DOWN, REFUSED, ODD]))
def test_what_else_ends_while_it_is_open_is_a_word_of_the_past(word: Word, open_breaker: Breaker) -> None:
    probed = let_through(open_breaker, 9, after(5), call_seconds=CALL_SECONDS)
    assert told((word, 7), breaker=probed, at=6) == probed


def probe(open_breaker: Breaker, word: Word) -> Breaker:
    probed = let_through(open_breaker, 9, after(5), call_seconds=CALL_SECONDS)
    return told((word, 9), breaker=probed, at=6)


def test_a_probe_that_is_rejected_shows_that_ottu_is_there_and_nothing_of_our_credentials() -> None:
    assert probe(DOWN, "rejected") == probe(DOWN, "throttled") == CLOSED
    assert probe(REFUSED, "rejected").reason == probe(REFUSED, "throttled").reason == "credentials"


def test_a_probe_with_an_odd_list_shows_that_ottu_is_there_unless_odd_lists_are_the_trouble() -> None:
    assert probe(DOWN, "odd").reason is None
    assert probe(DOWN, "odd").odd == (9,)
    assert probe(REFUSED, "odd").reason == "credentials"
    assert probe(ODD, "odd").reason == probe(ODD, "rejected").reason == probe(ODD, "throttled").reason == "down"
    assert probe(ODD, "answered") == CLOSED


def test_a_probe_tells_one_reason_from_the_other() -> None:
    assert probe(DOWN, "credentials_refused").reason == "credentials"
    assert probe(REFUSED, "failed").reason == "down"
    assert probe(REFUSED, "failed").probing is None


def test_a_moment_that_was_written_before_the_clock_was_set_back_holds_nobody_up() -> None:
    assert wait(DOWN, -LONGEST_SHUT_SECONDS - 1) == 0
