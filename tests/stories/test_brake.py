"""The brake on removals in the stories: every lane is watched, removals stop in time, and a release is gradual and watched."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from cardsync import metrics
from cardsync.core.brake import HANDFUL
from cardsync.core.call_budget import LANES
from cardsync.core.cards import Token
from cardsync.settings import Settings
from cardsync.store import brake
from cardsync.stories.release_brake import FIRST_LOOKS, release_brake
from cardsync.stories.sweep import SweepPolicy, sweep
from tests.factories import CustomerFactory
from tests.stories.shop import Shop, listed

T1, T2 = "9999000000000001", "9999000000000002"
SWEEPS = SweepPolicy(daily_calls=90_000, look_again_seconds=10**6, lists=True)
DEFAULTS = {
    "brake_share": Settings.model_fields["removal_brake_share"].default,
    "brake_floor": Settings.model_fields["removal_brake_floor"].default,
}


@pytest.fixture
def shop(shop: Shop) -> Shop:
    """A shop with calls enough and a low floor."""
    shop.policy = replace(shop.policy, daily_calls=100_000, brake_share=0.15, brake_floor=2)
    return shop


def stock(shop: Shop, count: int, *, cards: int = 1) -> list[int]:
    """Customers with active cards, none of them due."""
    owners = [CustomerFactory(customer_id=f"cust-{n}", reconciled_at="now").id for n in range(count)]
    for owner in owners:
        for n in range(cards):
            token = Token(f"99990000{owner:04}{n:04}")
            shop.execute(
                """INSERT INTO cardsync.cards (customer, fingerprint, token, status, cause, confirmed_at)
                   VALUES (:customer, :fingerprint, :token, 'active', 'sweep', clock_timestamp())""",
                customer=owner,
                fingerprint=token.fingerprint(shop.policy.fingerprint_key, "sandbox"),
                token=token.reveal(),
            )
    return owners


def cards_of(owner: int, *numbers: int) -> Any:
    return listed(*(f"99990000{owner:04}{n:04}" for n in numbers))


def losers(shop: Shop) -> int:
    """How many customers have lost a card."""
    return int(shop.execute("SELECT count(DISTINCT customer) FROM cardsync.cards WHERE status = 'removed'")[0][0])


def is_engaged(shop: Shop) -> bool:
    with shop.worker.connect() as connection:
        return brake.is_engaged(connection)


def held(shop: Shop) -> list[int]:
    return [r.id for r in shop.execute("SELECT id FROM cardsync.customers WHERE removals_held ORDER BY id")]


def test_an_empty_list_for_everybody_takes_the_cards_of_29_customers_at_most(shop: Shop) -> None:
    shop.policy = replace(shop.policy, **DEFAULTS)
    owners = stock(shop, 35)
    for owner in owners:
        shop.reconcile(owner, lane="hint")
    assert losers(shop) == 29
    assert is_engaged(shop)
    assert held(shop) == owners[29:]


@pytest.mark.parametrize("lane", LANES)
def test_lists_of_every_lane_are_watched(shop: Shop, lane: str) -> None:
    for owner in stock(shop, 5):
        shop.reconcile(owner, lane=lane)
    assert (losers(shop), len(held(shop)), is_engaged(shop)) == (2, 3, True)


def test_lists_that_lack_a_part_of_the_cards_are_watched_too(shop: Shop) -> None:
    for owner in stock(shop, 5, cards=3):
        shop.ottu.cards = cards_of(owner, 0, 1)
        shop.reconcile(owner, lane="sweep")
    assert (losers(shop), len(held(shop))) == (2, 3)


def test_looks_that_confirm_all_cards_wear_the_excess_off(shop: Shop) -> None:
    lacking, confirming = (owners := stock(shop, 26))[:6], owners[6:]
    for owner in lacking:
        shop.ottu.cards = ()
        shop.reconcile(owner, lane="sweep")
        for other in confirming[:7]:
            shop.ottu.cards = cards_of(other, 0)
            shop.reconcile(other, lane="sweep")
    assert (losers(shop), is_engaged(shop)) == (6, False)


def test_a_customer_without_cards_confirms_nothing(shop: Shop) -> None:
    for n in range(3):
        shop.reconcile(CustomerFactory(customer_id=f"empty-{n}").id, lane="sweep")
    assert shop.execute("SELECT * FROM cardsync.brake_confirmations") == []


def test_cards_with_a_deletion_under_way_are_apart(shop: Shop) -> None:
    shop.policy = replace(shop.policy, brake_floor=0)
    (owner,) = stock(shop, 1)
    shop.execute("SELECT registry.request_deletion(card_id, 'support', NULL) FROM cardsync.cards")
    shop.reconcile(owner, lane="sweep")
    assert not is_engaged(shop)
    assert shop.execute("SELECT status FROM cardsync.cards") == [("removed",)]
    assert shop.execute("SELECT lacked FROM cardsync.brake") == [(0,)]


def test_while_it_is_engaged_cards_are_added_and_updated_and_none_is_removed(shop: Shop) -> None:
    shop.execute("UPDATE cardsync.gate SET brake_engaged_at = clock_timestamp()")
    (owner,) = stock(shop, 1, cards=2)
    shop.ottu.cards = (*cards_of(owner, 0), *listed(T2))
    assert shop.reconcile(owner, lane="sweep").outcome == "changed"
    assert sorted(shop.cards("cust-0").values()) == ["active"] * 3
    assert held(shop) == [owner]


def test_a_held_card_waits_for_a_release_and_no_longer_for_a_list_that_shows_it(shop: Shop) -> None:
    shop.execute("UPDATE cardsync.gate SET brake_engaged_at = clock_timestamp()")
    (owner,) = stock(shop, 1)
    shop.execute("UPDATE cardsync.cards SET awaited_no = 1, awaited_at = clock_timestamp() - interval '1 hour'")
    shop.reconcile(owner, lane="sweep")
    assert held(shop) == [owner]
    assert shop.execute("SELECT awaited_no, status FROM cardsync.cards") == [(None, "active")]


def test_it_engages_at_the_same_customer_however_many_workers_apply_lists_at_once(shop: Shop) -> None:
    owners = stock(shop, 16)
    shop.execute("UPDATE cardsync.customers SET due_at = clock_timestamp(), lane = 'hint'")
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(shop.reconcile, owners))
    assert (losers(shop), len(held(shop))) == (2, 14)


def test_a_look_waits_for_the_evidence_only_if_it_must_decide(shop: Shop, engine: Engine) -> None:
    one, other = stock(shop, 2)
    with engine.begin() as connection:
        connection.execute(text("SELECT 1 FROM cardsync.brake FOR UPDATE"))
        shop.ottu.cards = cards_of(one, 0)
        assert shop.reconcile(one, lane="sweep").outcome == "changed"  # it confirms, with facts that are new
        shop.execute("UPDATE cardsync.gate SET brake_engaged_at = clock_timestamp()")
        shop.ottu.cards = ()
        assert shop.reconcile(other, lane="sweep").outcome == "unchanged"  # nothing is left to decide
    assert held(shop) == [other]


def test_a_list_that_is_not_applied_leaves_no_evidence(shop: Shop) -> None:
    (owner,) = stock(shop, 1)
    shop.execute(
        """CREATE FUNCTION cardsync.fail() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'check_violation'; END $$;
           CREATE TRIGGER fail BEFORE INSERT ON cardsync.observations FOR EACH ROW
           WHEN (NEW.outcome = 'changed') EXECUTE FUNCTION cardsync.fail()"""
    )
    assert shop.reconcile(owner, lane="sweep").outcome == "failed"
    assert shop.execute("SELECT excess, lacked FROM cardsync.brake") == [(0, 0)]


def engaged(shop: Shop, *, customers: int) -> list[int]:
    """An Ottu that answered [] until the brake engaged, and then for all others; the customers whose cards are held."""
    owners = stock(shop, customers)
    for owner in owners:
        shop.reconcile(owner, lane="sweep")
    assert held(shop) == owners[2:]
    return owners[2:]


def due(shop: Shop) -> list[int]:
    return [r.id for r in shop.execute("SELECT id FROM cardsync.customers WHERE due_at IS NOT NULL ORDER BY id")]


def tick(shop: Shop, seconds: float) -> tuple[int, ...]:
    shop.execute("UPDATE cardsync.gate SET swept_at = clock_timestamp() - make_interval(secs => :s)", s=seconds)
    return sweep(shop.worker, SWEEPS, fraction=0.0)


def test_it_is_told_once_when_it_engages_and_once_when_it_is_released(shop: Shop) -> None:
    before = metrics.BRAKE_ENGAGED._value.get()
    with capture_logs() as lines:
        engaged(shop, customers=6)
    told = [line for line in lines if "brake" in line["event"]]
    assert [(t["event"], t["cards_expected"], t["cards_lacking"]) for t in told] == [("removal_brake_engaged", 1, 1)]
    assert metrics.BRAKE_ENGAGED._value.get() == before + 1
    release_brake(shop.worker, shop.policy.brake_limits)
    with capture_logs() as lines:
        tick(shop, 1)
        tick(shop, 1)
    assert [line["event"] for line in lines if "brake" in line["event"]] == ["removal_brake_released"]


def test_after_a_release_the_first_few_are_due_in_lane_sweep_and_the_others_by_and_by(shop: Shop) -> None:
    waiting = engaged(shop, customers=30)
    released = release_brake(shop.worker, shop.policy.brake_limits)
    assert (released.was_engaged, released.customers_held, released.due_now) == (True, 28, released.due_now)
    assert sorted(released.due_now) == due(shop)
    assert due(shop) == waiting[:FIRST_LOOKS]
    assert {r.lane for r in shop.execute("SELECT lane FROM cardsync.customers WHERE due_at IS NOT NULL")} == {"sweep"}
    assert 0 < len(tick(shop, 8)) < len(waiting) - FIRST_LOOKS  # the seconds' share of routine calls
    assert due(shop)[: FIRST_LOOKS + 1] == waiting[: FIRST_LOOKS + 1]


def test_held_customers_take_half_of_a_tick_while_others_wait_too(shop: Shop) -> None:
    waiting = engaged(shop, customers=30)
    others = [CustomerFactory(customer_id=f"other-{n}").id for n in range(30)]
    release_brake(shop.worker, shop.policy.brake_limits)
    rung = set(tick(shop, 10.7))
    assert abs(len(rung & set(waiting)) - len(rung & set(others))) <= 1
    assert len(rung) >= 10


def test_no_held_customer_is_looked_at_again_before_a_release(shop: Shop) -> None:
    engaged(shop, customers=6)
    assert tick(shop, 10) == ()


def test_if_the_fault_goes_on_it_engages_again_after_a_handful_of_customers(shop: Shop) -> None:
    waiting = engaged(shop, customers=12)
    shop.policy = replace(shop.policy, **DEFAULTS)
    release_brake(shop.worker, shop.policy.brake_limits)
    for owner in waiting:
        shop.reconcile(owner, lane="sweep")
    assert losers(shop) == 2 + HANDFUL
    assert is_engaged(shop)


def test_if_the_fault_is_over_everything_held_is_confirmed(shop: Shop) -> None:
    waiting = engaged(shop, customers=12)
    release_brake(shop.worker, shop.policy.brake_limits)
    for owner in waiting:
        shop.ottu.cards = cards_of(owner, 0)
        shop.reconcile(owner, lane="sweep")
    assert (losers(shop), held(shop), is_engaged(shop)) == (2, [], False)


def test_an_operator_can_vouch_for_a_number_of_held_customers_and_for_no_others(shop: Shop) -> None:
    waiting = engaged(shop, customers=9)
    shop.policy = replace(shop.policy, brake_floor=0)
    release_brake(shop.worker, shop.policy.brake_limits, accept=3)
    for owner in waiting[:3]:
        shop.reconcile(owner, lane="sweep")
    assert (losers(shop), is_engaged(shop)) == (2 + 3, False)
    shop.reconcile(waiting[3], lane="sweep")
    assert (losers(shop), is_engaged(shop)) == (2 + 3, True)
    release_brake(shop.worker, shop.policy.brake_limits, accept=100)
    shop.execute("UPDATE cardsync.customers SET removals_held = false WHERE id = :id", id=waiting[4])
    shop.reconcile(waiting[4], lane="sweep")
    assert (losers(shop), is_engaged(shop)) == (2 + 3, True)


def test_a_release_waits_for_no_customer_that_is_locked(shop: Shop, engine: Engine) -> None:
    waiting = engaged(shop, customers=6)
    with engine.begin() as connection:
        connection.execute(text("SELECT 1 FROM cardsync.customers WHERE id = :id FOR UPDATE"), {"id": waiting[0]})
        released = release_brake(shop.worker, shop.policy.brake_limits)
    assert sorted(released.due_now) == waiting[1:]


def test_a_brake_that_is_off_is_released_in_vain(shop: Shop) -> None:
    (owner,) = stock(shop, 1)
    shop.reconcile(owner, lane="sweep")
    before = shop.execute("SELECT * FROM cardsync.brake")
    assert not release_brake(shop.worker, shop.policy.brake_limits).was_engaged
    assert shop.execute("SELECT * FROM cardsync.brake") == before


def test_it_shows_which_list_engaged_it_and_which_customers_it_holds_or_lost_cards(shop: Shop) -> None:
    owners = stock(shop, 5, cards=2)
    for owner in owners:
        shop.reconcile(owner, lane="sweep")
    with shop.worker.connect() as connection:
        state = brake.state(connection, shop.policy.brake_limits)
    assert state.engaged_at is not None
    assert state.example is not None
    assert (state.example["customer"], state.example["expected"], state.example["lacked"]) == (owners[2], 2, 2)
    assert [one["customer"] for one in state.held] == owners[2:]
    assert [one["customer"] for one in state.lost] == owners[:2]
    assert (state.customers_held, state.looks_lacking, state.looks_confirmed) == (3, 2, 0)


def test_a_sweep_reads_no_card_so_that_a_huge_registry_is_swept_like_a_small_one(shop: Shop, engine: Engine) -> None:
    waiting = CustomerFactory(customer_id="newcomer").id
    with engine.begin() as connection:
        connection.execute(text("LOCK TABLE cardsync.cards IN ACCESS EXCLUSIVE MODE"))
        assert tick(shop, 10) == (waiting,)
