"""What the planner promises: all calls used, the bound kept, and the same as simulated years come to."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import schedule as simulation
from cardsync.core import change_rate, planner
from cardsync.core.change_rate import CADENCES
from cardsync.core.planner import Group
from cardsync.core.schedule import LINE_SHARE

SHORTEST = 300 / 86_400
COUNTS = st.lists(st.integers(0, 1_000_000), min_size=CADENCES, max_size=CADENCES).filter(any)
CALLS = st.floats(10, 1e6)
# Two thousand customers are few: the tenth of them makes some two thousand changes in the simulated year.
TOLERANCE = 0.10
LEARNT_TOLERANCE = 0.30


@settings(max_examples=40)
@given(COUNTS, CALLS)
def test_all_calls_are_used_and_nobody_waits_longer_than_the_bound(counts: list[int], calls: float) -> None:
    groups = planner.of_cadences(counts)
    forecast = planner.forecast(groups, calls, shortest_days=SHORTEST)
    assert forecast.oldest_days <= forecast.worst_age_days
    assert forecast.looks_a_day <= calls * 1.000_001
    if sum(counts) > calls * SHORTEST:
        assert forecast.looks_a_day == pytest.approx(calls, rel=1e-3)
    assert forecast.detect_p50_days <= forecast.detect_p95_days <= forecast.oldest_days * 1.000_001


@settings(max_examples=40)
@given(COUNTS, CALLS)
def test_a_higher_cadence_never_waits_longer_and_none_is_looked_at_sooner_than_the_shortest(
    counts: list[int], calls: float
) -> None:
    intervals = planner.intervals_for(planner.of_cadences(counts), calls, shortest_days=SHORTEST).intervals_days
    assert list(intervals) == sorted(intervals, reverse=True)
    assert intervals[-1] >= SHORTEST


@settings(max_examples=20)
@given(st.integers(1_000, 10_000_000), CALLS, st.floats(1.1, 4))
def test_a_greater_budget_finds_sooner_and_keeps_everybody_fresher(customers: int, calls: float, more: float) -> None:
    groups = planner.imagined(customers, customers / 600)
    now, then = (planner.forecast(groups, c, shortest_days=SHORTEST) for c in (calls, calls * more))
    assert then.worst_age_days < now.worst_age_days
    assert then.detect_p50_days <= now.detect_p50_days * 1.000_001
    assert then.median_age_days <= now.median_age_days * 1.000_001


def test_customers_who_are_all_alike_are_looked_at_in_a_plain_round() -> None:
    forecast = planner.forecast((Group(1_000, 4, 0.01),), 100, shortest_days=SHORTEST)
    assert forecast.oldest_days == pytest.approx(10)
    assert forecast.detect_p50_days == pytest.approx(5)
    assert forecast.worst_age_days == pytest.approx(10 / LINE_SHARE, abs=0.01)


def test_a_budget_for_everybody_all_the_time_is_not_used_up() -> None:
    forecast = planner.forecast((Group(10, 1, 0.001),), 90_000, shortest_days=SHORTEST)
    assert forecast.oldest_days == pytest.approx(SHORTEST)
    assert forecast.looks_a_day == pytest.approx(10 / SHORTEST)


@pytest.mark.parametrize("population", [simulation.POPULATIONS[0], simulation.POPULATIONS[3]], ids=lambda p: p.name)
def test_the_planner_says_what_a_simulated_year_comes_to(population: simulation.Population) -> None:
    customers, days = 2_000, population.round_days
    told = simulation.happenings(population, customers, 365.0, seed=1)
    rates = population.rates(customers)
    (year,), _ = simulation.scheduled(told, customers, days, known=rates)
    seen = year.figures()
    groups = [Group(rates.count(r), change_rate.cadence_of(r), r) for r in sorted(set(rates))]
    forecast = planner.forecast(groups, customers / days, shortest_days=SHORTEST)
    assert seen["worst_age_days"] <= forecast.worst_age_days + 1
    assert seen["worst_age_days"] == pytest.approx(forecast.oldest_days, rel=TOLERANCE)
    assert seen["detect_p50_days"] == pytest.approx(forecast.detect_p50_days, rel=TOLERANCE)
    assert seen["detect_p95_days"] == pytest.approx(forecast.detect_p95_days, rel=TOLERANCE)
    assert seen["calls_for_a_find"] == pytest.approx(forecast.looks_for_a_find, rel=TOLERANCE)


def test_what_was_learnt_in_a_year_plans_the_next() -> None:
    population, customers = simulation.POPULATIONS[0], 2_000
    told = simulation.happenings(population, customers, 730.0, seed=1)
    (_, second), cadences = simulation.scheduled(told, customers, population.round_days, years=2)
    seen = second.figures()
    forecast = planner.forecast(
        planner.of_cadences(cadences), customers / population.round_days, shortest_days=SHORTEST
    )
    assert seen["detect_p50_days"] == pytest.approx(forecast.detect_p50_days, rel=LEARNT_TOLERANCE)
    assert seen["worst_age_days"] == pytest.approx(forecast.oldest_days, rel=LEARNT_TOLERANCE)


def test_the_schedule_finds_the_changes_of_a_restless_tenth_in_half_the_time_of_a_round() -> None:
    population, customers = simulation.POPULATIONS[0], 2_000
    told = simulation.happenings(population, customers, 730.0, seed=1)
    (_, second), _ = simulation.scheduled(told, customers, population.round_days, years=2)
    (round_,) = simulation.round_robin(told, customers, population.round_days)
    assert second.figures()["detect_p50_days"] < round_.figures()["detect_p50_days"] / 2
    assert second.worst_age <= population.round_days / LINE_SHARE + 1


def test_a_comparison_gives_every_policy_the_same_happenings() -> None:
    found = simulation.compare(simulation.POPULATIONS[0], customers=400)
    runs = found["runs"]
    assert runs["round"]["calls"] == runs["scheduled, year 1"]["calls"] == runs["scheduled, known"]["calls"]
    # A schedule that visits everybody finds every change: for each of them as many calls, but those of the last round.
    assert runs["round"]["calls_for_a_change"] == pytest.approx(
        runs["scheduled, year 1"]["calls_for_a_change"], rel=0.05
    )
    assert runs["slow round"]["calls"] == pytest.approx(runs["round"]["calls"] * LINE_SHARE, rel=0.01)
    assert runs["scheduled, year 2"]["worst_age_days"] <= runs["slow round"]["worst_age_days"]
    assert runs["quick round"]["detect_p50_days"] == pytest.approx(
        runs["scheduled, year 2"]["detect_p50_days"], rel=0.15
    )
