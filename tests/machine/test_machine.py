"""Shoppers, notifications, workers, crashes and time in any order: whatever happens, the registry says what Ottu said.

A Hypothesis state machine on a real PostgreSQL. Invariants hold after every story; at the end of each example all becomes
quiet, no bell rings, sweeps alone find what is left, and the registry is Ottu's truth. A failing example is printed as the
steps that lead to it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from cardsync.dev.simulator.world import Owner
from tests.machine.choices import (
    AGREEMENTS,
    AT,
    DRAINING,
    FACES,
    FATE,
    FAULT,
    INTERRUPTION,
    LAGS,
    ORDERS,
    OWNER,
    PLACE,
    RECEIVING,
    SCRIPT,
    TOKEN,
    Fate,
    Order,
)
from tests.machine.deletion_rules import DeletionRules
from tests.machine.interruptions import Interruption
from tests.machine.quiet import become_quiet
from tests.machine.scripts import Call, Fault, Place, Script
from tests.machine.system import LISTS, System, forged


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
        self.system.world.delete_silently(*owner, card.token)
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
        self.system.world.delete_silently(*owner, card.token)
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
        """Somebody who is due, if anybody is; otherwise a message that was delivered twice, or one whom a reader wants."""
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
        due = self.system.sweep(interruption)
        if works:
            self.system.process(due.event_ids)
            for deletion_id in due.deletions:
                self.system.delete(deletion_id, Script())
            for customer in due.customers:
                self.system.reconcile(customer, Script())

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

    # Time, and how late Ottu's list is.

    @rule(seconds=st.sampled_from((1, 4, 6, 12, 16, 25, 51, 121, 1_000)))
    def time_passes(self, seconds: int) -> None:
        self.system.clock.pass_(seconds)

    @rule(late=st.sampled_from(LAGS), lingering=st.sampled_from(LAGS[:-1]))
    def ottus_list_lags(self, late: float, lingering: float) -> None:
        world = self.system.world
        world.knobs = world.knobs.turned(list_lag_seconds=late, delete_lag_seconds=lingering)

    # The end.

    def teardown(self) -> None:
        """Let it be quiet, unless something is broken already: then its own error is to be seen."""
        try:
            if sys.exception() is None:
                become_quiet(self.system)
        finally:
            self.system.end_calls()


def test_whatever_happens_the_registry_says_what_ottu_said(new_system: Callable[[], System], profile: settings) -> None:
    Machine.new_system = staticmethod(new_system)
    run_state_machine_as_test(Machine, settings=profile)
