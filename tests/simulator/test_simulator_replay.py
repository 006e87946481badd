"""The seed: the same one replays actions, tokens and payloads exactly; what happens from outside stays local."""

from __future__ import annotations

from cardsync.dev.simulator import Knobs
from cardsync.dev.simulator.faults import Faults
from cardsync.dev.simulator.payloads import FAKE_PERSONAL_DATA, body
from cardsync.dev.simulator.shoppers import Shoppers
from cardsync.dev.simulator.world import World


def a_run(seed, steps=400, after_each=None):
    world = World(Knobs(), lambda: 0.0, seed)
    sent: list[bytes] = []
    shoppers = Shoppers(world, lambda event, label: sent.append(body(event)), seed, customers=10)
    events = []
    for _ in range(steps):
        events.append(shoppers.step())
        if after_each:
            after_each(world, shoppers.number)
    return events, sent, world


def test_the_same_seed_replays_actions_tokens_and_payloads():
    first, second = a_run(7), a_run(7)
    assert first[0] == second[0]
    assert first[1] == second[1]
    assert first[2].snapshot() == second[2].snapshot()


def test_another_seed_is_another_run():
    assert a_run(7)[1] != a_run(8)[1]


def test_every_habit_occurs():
    assert {event.action for event in a_run(7, 1_500)[0]} == {
        "saved a card",
        "saved a deleted card again",
        "saved somebody else's card too",
        "paid with a saved card",
        "failed to pay",
        "deleted a card, unseen",
        "was refused to delete a locked card",
        "agreed to auto-debit",
        "moved an agreement to a card",
        "was declined for auto-debit",
        "was charged by agreement",
        "was inquired about",
        "got a refund",
        "preferred a card, unseen",
    }


def test_a_deletion_from_outside_leaves_who_acts_when_as_it_was():
    def delete_one(world, number):
        if number == 50:
            owner = next(o for o in world.owners() for c in world.cards(*o) if not c.agreements)
            token = next(c.token for c in world.cards(*owner) if not c.agreements)
            assert world.delete(*owner, token) == 204

    undisturbed, disturbed = a_run(7)[0], a_run(7, after_each=delete_one)[0]
    assert [(e.number, e.customer_id) for e in undisturbed] == [(e.number, e.customer_id) for e in disturbed]


def test_events_hold_no_token_and_payloads_hold_the_invented_personal_data():
    events, sent, world = a_run(7)
    tokens = {t for owner in world.owners() for t in world.truth(*owner)}
    assert tokens
    assert all(len(t) == 16 and t.startswith("9999") for t in tokens)
    said = "\n".join(map(str, events))
    assert not any(token in said for token in tokens)
    payments = [b.decode() for b in sent if b'"operation"' not in b]
    assert all(text in payment for payment in payments for text in FAKE_PERSONAL_DATA)


def test_customers_have_odd_names_too():
    names = {event.customer_id for event in a_run(7)[0]}
    assert any("/" in name for name in names)
    assert any(not name.isascii() for name in names)


def test_faults_by_chance_are_replayed():
    knobs = Knobs(error_rate=0.2, hang_rate=0.1, invalid_rate=0.3, transient_404_rate=0.5)
    runs = []
    for _ in range(2):
        faults = Faults(3)
        runs.append([faults.next(e, knobs) for _ in range(100) for e in ("list", "delete")])
    assert runs[0] == runs[1]
    assert set(runs[0][::2]) == {"none", "error", "hang", "invalid"}
    assert set(runs[0][1::2]) == {"none", "error", "hang", "transient_404"}
