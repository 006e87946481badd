"""Shoppers, notifications, workers, crashes and time in any order: whatever happens, the registry says what Ottu said.

A Hypothesis state machine on a real PostgreSQL. Invariants hold after every story; at the end of each example all becomes
quiet, no bell rings, sweeps alone find what is left, and the registry is Ottu's truth. A failing example is printed as the
steps that lead to it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from cardsync.core.repeats import signature_hash
from cardsync.dev.simulator.world import Owner
from cardsync.stories.receive import Receipt
from tests.machine.choices import (
    AGREEMENTS,
    AT,
    DRAINING,
    FACES,
    FATE,
    FAULT,
    INTERRUPTION,
    LAGS,
    ODD_ENTRIES,
    ORDERS,
    OWNER,
    PLACE,
    RECEIVING,
    SCRIPT,
    TOKEN,
    TROUBLES,
    Fate,
    Order,
)
from tests.machine.consumer import ENDINGS, Ending
from tests.machine.deletion_rules import DeletionRules
from tests.machine.interruptions import Interruption
from tests.machine.invariants import Snapshot
from tests.machine.quiet import become_quiet
from tests.machine.scripts import Call, Fault, OddEntry, Place, Script
from tests.machine.system import LISTS, System, altered, forged


class Machine(DeletionRules):
    """Ottu, the shoppers, the merchant's workers, and everything that goes wrong between them."""

    @initialize(cards=st.lists(st.tuples(OWNER, TOKEN), min_size=1, max_size=5))
    def the_merchant_has_customers_already(self, cards: list[tuple[Owner, str]]) -> None:
        for owner, token in cards:
            self._checkout("believed").save_card(*owner, token=token)

    # Shoppers.

    @rule(owner=OWNER, token=TOKEN, fate=FATE)
    def somebody_saves_a_card(self, owner: Owner, token: str, fate: Fate) -> None:
        self._checkout(fate).save_card(*owner, token=token)

    @precondition(lambda self: self._cards())
    @rule(which=PLACE, fate=FATE)
    def somebody_pays_with_a_card(self, which: int, fate: Fate) -> None:
        card = self._card(which)
        self._checkout(fate).pay(card.environment, card.customer_id, card.token)

    @precondition(lambda self: self._cards())
    @rule(which=PLACE, agreement=st.sampled_from(AGREEMENTS), fate=FATE)
    def a_card_takes_an_agreement_over_or_lets_it_go(self, which: int, agreement: str, fate: Fate) -> None:
        card = self._card(which)
        if agreement in card.agreements:
            self.system.world.end_agreement(card.environment, agreement)
        else:
            checkout = self._checkout(fate)
            checkout.agree(card.environment, card.customer_id, card.token, agreement_id=agreement)

    @precondition(lambda self: self._cards())
    @rule(which=PLACE, face=st.sampled_from(FACES))
    def a_card_changes_unseen(self, which: int, face: dict[str, Any]) -> None:
        card = self._card(which)
        owner = (card.environment, card.customer_id)
        if face:
            self.system.world.change_card(*owner, card.token, **face)
        else:
            self.system.world.prefer(*owner, card.token)

    @precondition(lambda self: self._cards())
    @rule(which=PLACE, comes_back=st.sampled_from((False, False, True)), fate=FATE)
    def a_card_is_deleted_in_ottus_own_checkout(self, which: int, comes_back: bool, fate: Fate) -> None:
        card = self._card(which)
        owner = (card.environment, card.customer_id)
        self._end_agreements_of(card)
        self.system.world.delete(*owner, card.token)
        if comes_back:
            self._checkout(fate).save_card(*owner, token=card.token)

    @precondition(lambda self: self._cards())
    @rule(which=PLACE, apart=st.sampled_from((20, 100)), order=st.sampled_from(ORDERS))
    def a_card_is_deleted_before_its_payments_are_notified(self, which: int, apart: int, order: Order) -> None:
        """Two hints of a card that no list shows any more, and the second is not taken when it should be."""
        card = self._card(which)
        owner = (card.environment, card.customer_id)
        for _ in range(2):
            self._checkout("waiting").pay(*owner, card.token)
        first, second = self.waiting[-2:]
        self._end_agreements_of(card)
        self.system.world.delete(*owner, card.token)
        self._deliver(first)
        if order != "reversed":
            self.system.work()
        self.system.clock.pass_(apart)
        self._deliver(second)
        if order == "list_first":
            self.system.reconcile_due()
        for event_id in reversed(self.system.pending()):
            self.system.process([event_id])

    # Notifications: late, in any order, doubled, forged.

    @precondition(lambda self: self.waiting or self.delivered)
    @rule(which=PLACE, interruption=RECEIVING)
    def a_notification_arrives(self, which: int, interruption: Interruption | None) -> None:
        bodies = [*reversed(self.waiting), *reversed(self.delivered)]
        self._deliver(bodies[which % len(bodies)], interruption)

    @rule(owner=OWNER, token=TOKEN, interruption=DRAINING, back=st.sampled_from((True, True, False)))
    def the_database_is_away_while_notifications_arrive(
        self, owner: Owner, token: str, interruption: Interruption | None, back: bool
    ) -> None:
        """All of them are acknowledged; they are brought in when it is back, now or much later."""
        self._checkout("waiting").save_card(*owner, token=token)
        bodies, self.waiting = self.waiting, []
        self.delivered += bodies
        self.system.outage(bodies)
        if back:
            self.system.drain(interruption)

    @precondition(lambda self: self.waiting or self.delivered)
    @rule(
        picks=st.lists(PLACE, min_size=1, max_size=2),
        copies=st.sampled_from((2, 3)),
        away=st.booleans(),
        interruption=RECEIVING,
    )
    def the_same_bodies_arrive_several_times_at_once(
        self, picks: list[int], copies: int, away: bool, interruption: Interruption | None
    ) -> None:
        """In one batch, of which a body may be known, waiting in the spool, or new; with the database or without it."""
        bodies = [*reversed(self.waiting), *reversed(self.delivered)]
        batch = [bodies[pick % len(bodies)] for pick in picks] * copies
        self._deliver_all(batch, Interruption("before_statement", 1, "away") if away else interruption)

    @precondition(lambda self: self.system.spool.waiting())
    @rule(interruption=DRAINING)
    def the_database_is_back(self, interruption: Interruption | None) -> None:
        self.system.drain(interruption)

    @precondition(lambda self: self.waiting or self.delivered)
    @rule(which=PLACE, owner=OWNER, token=TOKEN)
    def a_notification_is_forged(self, which: int, owner: Owner, token: str) -> None:
        bodies = [*reversed(self.waiting), *reversed(self.delivered)]
        body = forged(bodies[which % len(bodies)], token=token, customer_id=owner[1])
        if b'"scheme": "subscription"' in body and body not in bodies:
            self.system.refuse(body)
        else:
            self.system.receive(body)

    @precondition(lambda self: self._bodies_of_the_standard_scheme())
    @rule(which=PLACE, owner=OWNER, token=TOKEN, count=st.sampled_from((1, 3, 12)), taken=st.booleans())
    def an_adversary_alters_a_body_that_came_before(
        self, which: int, owner: Owner, token: str, count: int, taken: bool
    ) -> None:
        """Of repeats no bell rings, and what the registry says is the same after them."""
        bodies = self._bodies_of_the_standard_scheme()
        body = bodies[which % len(bodies)]
        before = self.system.watch.last
        receipts: list[Receipt] = []
        for _ in range(count):
            self.deeds += 1
            receipts += self.system.receive(altered(body, owner, token, self.deeds)) or []
        if taken:
            self.system.process([receipt.event_id for receipt in receipts])
        now = self.system.watch.last
        assert not any(receipt.to_ring for receipt in receipts), "a bell rang for a repeat"
        assert _said(now) == _said(before), "an altered body changed what the registry says"

    def _bodies_of_the_standard_scheme(self) -> list[bytes]:
        """Those that the adversary has: each was acknowledged, and waits on no disk, so that its signature is known."""
        if self.system.spool.waiting():
            return []
        known = set(self.system.received.values())
        standard = (body for body in reversed(self.delivered) if b'"scheme": "subscription"' not in body)
        return [body for body in standard if signature_hash(json.loads(body)["signature"]).hex() in known]

    # Workers.

    @precondition(lambda self: self.system.received)
    @rule(picks=st.lists(PLACE, max_size=3), interruption=INTERRUPTION)
    def a_worker_processes_events(self, picks: list[int], interruption: Interruption | None) -> None:
        """Those of a message, in its order, settled ones and doubles among them; without picks, all that are pending."""
        received = list(reversed(self.system.received))
        chosen = [received[p % len(received)] for p in picks]
        self.system.process(chosen or self.system.pending(), interruption)

    @precondition(lambda self: self.system.watch.last.customers)
    @rule(which=PLACE, script=SCRIPT, wanted=st.sampled_from((True, True, False)), interruption=INTERRUPTION)
    def a_worker_reconciles_a_customer(
        self, which: int, script: Script, wanted: bool, interruption: Interruption | None
    ) -> None:
        """Somebody who is due, if anybody is; otherwise a message that was delivered twice, or one that a reader wants."""
        known = self.system.known()
        customer = known[which % len(known)]
        if wanted and customer.id not in self.system.due():
            self.system.ask((customer.environment, customer.customer_id))
        self.system.reconcile(customer.id, replace(script), interruption)  # the call's own script: it may still change

    @precondition(lambda self: self.system.standing)
    @rule(which=PLACE, fault=FAULT, at=AT, interruption=INTERRUPTION)
    def a_call_that_stood_still_goes_on(
        self, which: int, fault: Fault | None, at: Place, interruption: Interruption | None
    ) -> None:
        call: Call = self.system.standing[which % len(self.system.standing)]
        call.script.fault, call.script.at = fault, at if call.script.stands == "before" else "after"
        self.system.resume(call, interruption)

    @precondition(lambda self: self._cards())
    @rule(which=PLACE, token=TOKEN, place=AT, fate=FATE)
    def a_card_is_saved_while_ottu_is_asked(self, which: int, token: str, place: Place, fate: Fate) -> None:
        """Evidence that comes in between a question and its answer, or right after the answer."""
        card = self._card(which)
        owner = (card.environment, card.customer_id)
        calls = self._ask_and_stand_still(owner, Script(stands=place))
        self._checkout(fate).save_card(*owner, token=token)
        for call in calls:
            self.system.resume(call)

    @rule(owner=OWNER, place=AT, pages=st.sampled_from((1, 2)), another=st.booleans())
    def a_worker_stalls_until_its_lease_is_over(self, owner: Owner, place: Place, pages: int, another: bool) -> None:
        calls = self._ask_and_stand_still(owner, Script(stands=place, pages=pages))
        self.system.clock.pass_(LISTS.lease_seconds)
        if another:
            self.system.work()
        for call in calls:
            self.system.resume(call)

    @rule()
    def workers_have_a_good_moment(self) -> None:
        self.system.work()

    @rule(after=st.sampled_from((301, 11, 0)), works=st.sampled_from((True, True, False)), interruption=INTERRUPTION)
    def a_sweep_runs(self, after: int, works: bool, interruption: Interruption | None) -> None:
        self.system.clock.pass_(after)
        self.system.sweep(interruption)
        if works:
            self.system.take_what_is_due()

    @rule(limit=st.sampled_from((1, 2, 100)), script=SCRIPT, interruption=INTERRUPTION)
    def a_worker_claims_and_asks(self, limit: int, script: Script, interruption: Interruption | None) -> None:
        """Hints are folded and tickets taken in one transaction, which may be interrupted; then each call goes its own way."""
        for ticket in self.system.claim(limit, interruption):
            self.system.look(ticket, replace(script))

    @rule(interruption=INTERRUPTION)
    def a_worker_dies_between_its_claim_and_its_calls(self, interruption: Interruption | None) -> None:
        self.system.claim(interruption=interruption)

    # The merchant.

    @rule(owner=OWNER, what=st.sampled_from(("ask", "ask", "import", "release")))
    def the_merchant_wants_something(self, owner: Owner, what: str) -> None:
        match what:
            case "ask":
                self.system.ask(owner)
            case "import":
                self.system.import_(owner)
            case _:
                self.system.release_brake()

    @rule(endings=st.lists(st.sampled_from(ENDINGS), min_size=1, max_size=3))
    def changes_go_to_an_endpoint(self, endings: list[Ending]) -> None:
        """It answers as it likes, or the worker is killed: nothing is skipped, and nothing comes out of order."""
        for ending in endings:
            self.system.consumer.turn(ending)

    # Time, and how late Ottu's list is.

    @rule(seconds=st.sampled_from((1, 4, 6, 12, 16, 25, 51, 121, 1_000)))
    def time_passes(self, seconds: int) -> None:
        self.system.clock.pass_(seconds)

    @rule(late=st.sampled_from(LAGS), lingering=st.sampled_from(LAGS[:-1]))
    def ottus_list_lags(self, late: float, lingering: float) -> None:
        world = self.system.world
        world.knobs = world.knobs.turned(list_lag_seconds=late, delete_lag_seconds=lingering)

    @rule(owner=OWNER, how=st.sampled_from(TROUBLES))
    def ottu_is_in_trouble_with_one_customer(self, owner: Owner, how: Fault | None) -> None:
        """Until it is told otherwise: refused with 403, or lists with another customer's card in them."""
        if how is None:
            self.system.ottu.troubled.pop(owner, None)
        else:
            self.system.ottu.troubled[owner] = how

    @precondition(lambda self: self._cards())
    @rule(which=PLACE, how=st.sampled_from(ODD_ENTRIES))
    def ottu_lists_one_card_oddly(self, which: int, how: OddEntry | None) -> None:
        """Until it is told otherwise: the other cards of that list are believed, and no active card is removed on its account."""
        card = self._card(which)
        where = ((card.environment, card.customer_id), card.token)
        if how is None:
            self.system.ottu.odd_cards.pop(where, None)
        else:
            self.system.ottu.odd_cards[where] = how

    @rule(passes=st.sampled_from((1, 2, 3)))
    def ottu_answers_empty_lists_to_everybody_for_a_while(self, passes: int) -> None:
        """In whatever lane it is asked, no more customers lose cards than the brake lets pass."""
        before = {card.card_id for card in self.system.watch.last.cards if card.status == "active"}
        self.system.ottu.is_mad = True
        for _ in range(passes):
            self.system.clock.pass_(301)
            self.system.sweep()
            for customer in self.system.due():
                self.system.reconcile(customer, Script())
        self.system.ottu.is_mad = False
        gone = (card for card in self.system.watch.last.cards if card.card_id in before and card.status == "removed")
        assert len({card.customer for card in gone}) <= LISTS.brake_floor, "the brake did not engage in time"

    # The end.

    def teardown(self) -> None:
        """Let it be quiet, unless something is broken already: then its own error is to be seen."""
        try:
            if sys.exception() is None:
                become_quiet(self.system)
        finally:
            self.system.end_calls()


def _said(now: Snapshot) -> tuple[object, ...]:
    """What the registry says of cards that are not merely hinted, in any order of rows."""
    links = sorted((a.environment, a.agreement_id, a.card_id) for a in now.agreements)
    return (len(now.feed), links, sorted(now.served), sorted(now.charged))


def test_whatever_happens_the_registry_says_what_ottu_said(new_system: Callable[[], System], profile: settings) -> None:
    Machine.new_system = staticmethod(new_system)
    run_state_machine_as_test(Machine, settings=profile)


def test_the_same_holds_where_the_database_is_some_milliseconds_away(
    new_far_system: Callable[[], System], profile: settings
) -> None:
    Machine.new_system = staticmethod(new_far_system)
    run_state_machine_as_test(Machine, settings=settings(profile, max_examples=max(1, profile.max_examples // 30)))
