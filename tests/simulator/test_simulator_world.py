"""The world: what is true, what shows, what is locked. Pure: the clock is a number that the test moves."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardsync.dev.simulator import Knobs
from cardsync.dev.simulator.world import NoSuchCardError, World

OWNER = ("sandbox", "customer 1/ü%")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def a_world(**knobs: object) -> tuple[World, Clock]:
    clock = Clock()
    return World(Knobs(**knobs), clock, seed=1), clock


def shown(world: World, owner: tuple[str, str] = OWNER) -> set[str]:
    return {card["token"] for card in world.list_cards(*owner)}


def test_a_new_card_shows_after_its_lag_and_is_true_at_once():
    world, clock = a_world(list_lag_seconds=5)
    token = world.save_card(*OWNER).token
    assert world.truth(*OWNER) == {token}
    assert shown(world) == set()
    clock.now += 5
    assert shown(world) == {token}


def test_lags_that_are_ended_hide_and_show_nothing_more():
    world, _ = a_world(list_lag_seconds=5, delete_lag_seconds=5)
    gone = world.save_card(*OWNER)
    world.end_lags()
    kept = world.save_card(*OWNER)
    world.delete(*OWNER, gone.token)
    assert shown(world) == {gone.token}
    world.end_lags()
    assert shown(world) == {kept.token}


def test_a_deleted_card_shows_until_its_lag_is_over_and_is_gone_at_once():
    world, clock = a_world(delete_lag_seconds=5)
    token = world.save_card(*OWNER).token
    assert world.delete(*OWNER, token) == 204
    assert world.truth(*OWNER) == set()
    assert shown(world) == {token}
    assert world.delete(*OWNER, token) == 404
    clock.now += 5
    assert shown(world) == set()


@pytest.mark.parametrize("status", [400, 403])
def test_a_card_that_serves_an_agreement_is_locked_until_another_takes_over(status):
    world, _ = a_world(locked_status=status)
    first, second = world.save_card(*OWNER), world.save_card(*OWNER)
    world.pay(*OWNER, first.token, agreement_id="A")
    assert world.delete(*OWNER, first.token) == status
    assert [c["token"] for c in world.list_cards(*OWNER, agreement_id="A")] == [first.token]
    world.pay(*OWNER, second.token, agreement_id="A")
    assert [c["token"] for c in world.list_cards(*OWNER, agreement_id="A")] == [second.token]
    assert [c["agreements"] for c in world.list_cards(*OWNER)] == [[], ["A"]]
    assert world.delete(*OWNER, first.token) == 204
    assert world.delete(*OWNER, second.token) == status


def test_a_card_whose_agreement_ended_can_be_deleted():
    world, _ = a_world()
    card = world.save_card(*OWNER)
    world.pay(*OWNER, card.token, agreement_id="A")
    world.end_agreement("sandbox", "A")
    assert world.delete(*OWNER, card.token) == 204


def test_a_card_that_is_paid_for_twice_by_one_agreement_names_it_once():
    world, _ = a_world()
    card = world.save_card(*OWNER)
    for _ in range(2):
        world.pay(*OWNER, card.token, agreement_id="A")
    assert world.cards(*OWNER)[0].agreements == ("A",)


def test_a_token_of_two_customers_is_two_cards():
    world, _ = a_world()
    other = ("sandbox", "customer 2")
    token = world.save_card(*OWNER).token
    world.save_card(*other, token=token)
    assert world.delete(*OWNER, token) == 204
    assert world.truth(*other) == {token}


def test_environments_do_not_mix():
    world, _ = a_world()
    world.save_card("production", OWNER[1])
    assert shown(world) == set()


def test_a_deleted_card_that_is_saved_again_is_a_new_life_with_the_old_token():
    world, _ = a_world()
    first = world.save_card(*OWNER)
    world.delete(*OWNER, first.token)
    assert world.past_tokens(*OWNER) == [first.token]
    again = world.save_card(*OWNER, token=first.token)
    assert (again.token, again.label) == (first.token, "card-0002")
    assert world.past_tokens(*OWNER) == []


def test_paying_with_a_card_that_is_gone_fails():
    world, _ = a_world()
    card = world.save_card(*OWNER)
    world.delete(*OWNER, card.token)
    with pytest.raises(NoSuchCardError):
        world.pay(*OWNER, card.token)


def test_gateway_codes_filter_the_list():
    world, _ = a_world()
    world.save_card(*OWNER, pg_code="one")
    world.save_card(*OWNER, pg_code="two")
    assert [c["pg_code"] for c in world.list_cards(*OWNER, pg_codes=["two"])] == ["two"]


def test_one_card_is_preferred():
    world, _ = a_world()
    first, second = world.save_card(*OWNER), world.save_card(*OWNER)
    assert [c.is_preferred for c in world.cards(*OWNER)] == [True, False]
    world.prefer(*OWNER, second.token)
    assert [c.is_preferred for c in world.cards(*OWNER)] == [False, True]
    assert first.token not in repr(first)


@pytest.mark.parametrize("fact", ["colour", "agreements", "label"])
def test_what_is_no_fact_of_a_card_is_refused(fact):
    world, _ = a_world()
    with pytest.raises(TypeError):
        world.save_card(*OWNER, **{fact: "x"})
    assert world.truth(*OWNER) == set()


def test_a_restored_world_is_the_same_truth():
    world, clock = a_world(list_lag_seconds=9)
    kept, gone = world.save_card(*OWNER), world.save_card(*OWNER)
    world.pay(*OWNER, kept.token, agreement_id="A")
    world.delete(*OWNER, gone.token)
    other = World(Knobs(), clock, seed=1)
    other.restore(world.snapshot())
    assert other.truth(*OWNER) == {kept.token}
    assert other.agreement_card("sandbox", "A") == world.agreement_card("sandbox", "A")
    assert other.past_tokens(*OWNER) == [gone.token]
    assert other.save_card(*OWNER).label == "card-0003"


actions = st.lists(
    st.tuples(st.sampled_from(["save", "save_again", "delete", "agree", "end", "wait"]), st.integers(0, 4)),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(actions, st.sampled_from([0, 3]), st.sampled_from([0, 3]))
def test_after_all_lags_the_list_is_the_truth_and_no_agreement_hangs_in_the_air(steps, list_lag, delete_lag):
    world, clock = a_world(list_lag_seconds=list_lag, delete_lag_seconds=delete_lag)
    for action, n in steps:
        tokens = sorted(world.truth(*OWNER))
        if action == "save":
            world.save_card(*OWNER)
        elif action == "save_again" and world.past_tokens(*OWNER):
            world.save_card(*OWNER, token=world.past_tokens(*OWNER)[0])
        elif action == "wait":
            clock.now += n
        elif action == "end":
            world.end_agreement("sandbox", f"A{n}")
        elif tokens and action == "delete":
            world.delete(*OWNER, tokens[n % len(tokens)])
        elif tokens and action == "agree":
            world.pay(*OWNER, tokens[n % len(tokens)], agreement_id=f"A{n}")
    clock.now += 10
    assert shown(world) == world.truth(*OWNER)
    for card in world.cards(*OWNER):
        for agreement_id in card.agreements:
            assert world.agreement_card("sandbox", agreement_id) == card
