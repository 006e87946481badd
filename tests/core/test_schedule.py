"""Who is next: the worst age holds, nobody starves, and a tick's work is its calls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardsync.core.change_rate import CADENCES
from cardsync.core.schedule import LINE_SHARE, WHEEL, Candidates, Waiting, choose, urgency

CALLS_A_TICK = 4
CADENCE = st.integers(0, CADENCES - 1)


class Registry:
    """A registry in small, where a tick is a second and the chosen ones have been looked at by the next."""

    def __init__(self, cadences: Mapping[int, int], newcomers: frozenset[int] = frozenset()) -> None:
        self.cadences, self.newcomers = dict(cadences), set(newcomers)
        self.looked_at = dict.fromkeys(cadences, 0)
        self.looks = dict.fromkeys(cadences, 0)
        self.worst_age, self.now, self.dealt = 0, 0, 0

    def tick(self, calls: int, dated: tuple[int, ...] = ()) -> list[int]:
        self.now += 1
        waiting = sorted(self.cadences, key=lambda c: (self.looked_at[c], c))
        ages = {c: Waiting(c, self.now - self.looked_at[c]) for c in waiting}
        candidates = Candidates(
            {
                k: [ages[c] for c in waiting if self.cadences[c] == k and c not in self.newcomers]
                for k in range(CADENCES)
            },
            [ages[c] for c in waiting if c in self.newcomers],
            dated,
        )
        chosen = choose(candidates, turn=self.dealt, limit=calls)
        self.dealt += len(chosen)
        for customer in chosen:
            self.worst_age = max(self.worst_age, self.now - self.looked_at[customer])
            self.looked_at[customer] = self.now
            self.looks[customer] += 1
            self.newcomers.discard(customer)
        return chosen


@given(st.lists(CADENCE, min_size=1, max_size=60), st.sets(st.integers(0, 59)), st.sets(st.integers(0, 59)))
def test_no_look_is_ever_older_than_a_line_at_half_of_the_calls(
    cadences: list[int], newcomers: set[int], dated: set[int]
) -> None:
    everybody = dict(enumerate(cadences))
    registry = Registry(everybody, frozenset(newcomers & everybody.keys()))
    ticks = math.ceil(len(cadences) / (CALLS_A_TICK * LINE_SHARE))
    for _ in range(4 * ticks + 2):
        registry.tick(CALLS_A_TICK, tuple(sorted(dated & everybody.keys())))
    still = max(registry.now - at for at in registry.looked_at.values())
    assert max(registry.worst_age, still) <= ticks + 1  # a tick's calls are made at its end


@settings(max_examples=30)
@given(st.lists(CADENCE, min_size=20, max_size=60))
def test_every_cadence_is_looked_at_and_a_higher_one_never_less_often(cadences: list[int]) -> None:
    registry = Registry(dict(enumerate(cadences)))
    for _ in range(100):
        registry.tick(CALLS_A_TICK)
    rates = {
        k: sum(registry.looks[c] for c, own in enumerate(cadences) if own == k) / cadences.count(k)
        for k in set(cadences)
    }
    assert min(rates.values()) > 0
    by_cadence = [rates[k] for k in sorted(rates)]
    # Within one look: those of one cadence take turns, and the last turn may be another's.
    assert all(low <= high + 1 for low, high in pairwise(by_cadence))


@given(
    st.dictionaries(CADENCE, st.lists(st.tuples(st.integers(0, 30), st.floats(0, 1e6)), max_size=12)),
    st.lists(st.integers(31, 60), unique=True, max_size=12),
    st.lists(st.integers(0, 30), unique=True, max_size=12),
    st.integers(0, 1_000),
    st.integers(0, 12),
)
def test_a_tick_chooses_no_more_than_its_calls_each_once_and_no_less_while_anybody_waits(
    lines: dict[int, list[tuple[int, float]]], new: list[int], dated: list[int], turn: int, limit: int
) -> None:
    waiting = {k: [Waiting(c, age) for c, age in sorted(line, key=lambda pair: -pair[1])] for k, line in lines.items()}
    candidates = Candidates(waiting, [Waiting(c, 1.0) for c in new], dated)
    chosen = choose(candidates, turn=turn, limit=limit)
    everybody = {c for line in lines.values() for c, _ in line} | set(new) | set(dated)
    assert len(chosen) == len(set(chosen)) == min(limit, len(everybody))
    assert set(chosen) <= everybody


def test_an_import_neither_starves_those_known_before_nor_waits_for_all_of_them() -> None:
    known, new = dict.fromkeys(range(400), 5), dict.fromkeys(range(400, 4_400), 1)
    registry = Registry(known | new, frozenset(new))
    for _ in range(100):
        registry.tick(len(WHEEL))
    calls = 100 * len(WHEEL)
    first_looks = sum(registry.looks[c] for c in new)
    assert calls / 8 <= first_looks <= calls * 7 / 8
    assert sum(registry.looks[c] for c in known) >= calls / 8


def test_whoever_is_dated_takes_an_eighth_of_the_calls_at_most_while_others_wait() -> None:
    line = [Waiting(c, 1_000.0 - c) for c in range(80)]
    chosen = choose(Candidates({3: line}, dated=list(range(100, 180))), turn=0, limit=80)
    assert sum(1 for c in chosen if c >= 100) == 10


def test_nobody_waits_while_a_call_is_left() -> None:
    assert choose(Candidates(dated=[1, 2]), turn=0, limit=5) == [1, 2]
    assert choose(Candidates(newcomers=[Waiting(3, 0.0)]), turn=1, limit=5) == [3]
    assert choose(Candidates(), turn=3, limit=5) == []


@given(st.floats(1, 1e8), CADENCE, CADENCE)
def test_a_higher_rate_never_has_a_longer_interval(age: float, one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert urgency(low, age) <= urgency(high, age)


@pytest.mark.parametrize("turn", range(8))
def test_eight_calls_in_a_row_are_shared_alike_wherever_they_begin(turn: int) -> None:
    kinds = [WHEEL[n % len(WHEEL)] for n in range(turn, turn + 8)]
    assert (kinds.count("line"), kinds.count("cadence"), kinds.count("newcomer"), kinds.count("dated")) == (4, 2, 1, 1)
