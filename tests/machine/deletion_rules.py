"""Deletions, as the machine meets them: asked for in any way, called for, refused, stalled, given up, and tried again.

Calls that go wrong at random are one rule; the others put together what randomness alone would hardly ever meet.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from cardsync.core.deletion import GIVE_UP_SECONDS
from cardsync.dev.simulator.cards import SimCard
from tests.machine.base import MachineBase
from tests.machine.choices import (
    AGREEMENTS,
    AT,
    DELETING,
    INTERRUPTION,
    KEY,
    PLACE,
    TOKEN,
    WAY,
)
from tests.machine.interruptions import Interruption
from tests.machine.scripts import Call, Fault, Place, Script
from tests.machine.system import DELETIONS, Way

COOL_DOWN_OF_A_REFUSAL_SECONDS = 3_601.0  # registry.request_deletion (migration 0018)


class DeletionRules(MachineBase):
    """Who asks for a deletion, and what becomes of its calls."""

    @precondition(lambda self: self.system.watch.last.cards)
    @rule(which=PLACE, way=WAY, key=KEY, when_unlocked=st.booleans(), interruption=INTERRUPTION)
    def somebody_asks_for_a_deletion(
        self, which: int, way: Way, key: str | None, when_unlocked: bool, interruption: Interruption | None
    ) -> None:
        """Of any card of the registry: also of one that is under deletion, or gone."""
        cards = self.system.cards()
        card = cards[which % len(cards)]
        self.system.request(card, way, key, when_unlocked=when_unlocked, interruption=interruption)

    @precondition(lambda self: self._wished_for())
    @rule(which=PLACE, script=DELETING, looks=st.booleans(), interruption=INTERRUPTION)
    def a_worker_calls_for_a_deletion(
        self, which: int, script: Script, looks: bool, interruption: Interruption | None
    ) -> None:
        """The call's own script: how it fails may still change. The caller rings for the list."""
        deletion = self._deletion(which)
        self.system.delete(deletion.deletion_id, replace(script), interruption)
        if looks:
            self.system.reconcile(deletion.customer, Script())

    @precondition(lambda self: self._wished_for())
    @rule(which=PLACE, place=AT, another=st.booleans(), saved_again=st.booleans())
    def a_call_for_a_deletion_stalls_until_its_lease_is_over(
        self, which: int, place: Place, another: bool, saved_again: bool
    ) -> None:
        """The worst of it: Ottu takes the call when the card is gone already, and perhaps there again."""
        deletion = self._deletion(which)
        (card,) = (c for c in self.system.cards() if c.card_id == deletion.card_id)
        calls = self._call_and_stand_still(deletion, Script(stands=place))
        self.system.clock.pass_(DELETIONS.lease_seconds)
        if another:
            self.system.work()
        if saved_again:
            self._checkout("believed").save_card(*self._owner(deletion.customer), token=card.token)
        for call in calls:
            self.system.resume(call)

    @precondition(lambda self: self._wished_for())
    @rule(which=PLACE, place=AT, lease_over=st.booleans())
    def a_deletion_meets_a_list_that_is_asked_for(self, which: int, place: Place, lease_over: bool) -> None:
        """It waits for the list; once that one's lease is over it does not, and the list must not bring the card back."""
        deletion = self._deletion(which)
        calls = self._ask_and_stand_still(self._owner(deletion.customer), Script(stands=place))
        if lease_over:
            self.system.clock.pass_(DELETIONS.lease_seconds)
        self.system.delete(deletion.deletion_id, Script())
        if lease_over:
            self.system.reconcile(deletion.customer, Script())
        for call in calls:
            self.system.resume(call)

    @precondition(lambda self: self._cards())
    @rule(
        which=PLACE,
        agreement=st.sampled_from(AGREEMENTS),
        status=st.sampled_from((400, 403)),
        when_unlocked=st.sampled_from((True, True, False)),
        other=st.one_of(st.none(), TOKEN),
    )
    def a_locked_card_is_to_be_deleted(
        self, which: int, agreement: str, status: Any, when_unlocked: bool, other: str | None
    ) -> None:
        """It is refused; then perhaps another card takes the agreement over."""
        card: SimCard = self._card(which)
        owner = (card.environment, card.customer_id)
        self.system.world.knobs = self.system.world.knobs.turned(locked_status=status)
        self._checkout("believed").agree(*owner, card.token, agreement_id=agreement)
        for known in self.system.cards():
            if known.token == card.token and self._owner(known.customer) == owner:
                self.system.request(known, when_unlocked=when_unlocked)
        self.system.work()
        if other is not None:
            self._checkout("believed").save_card(*owner, token=other)
            self._checkout("believed").agree(*owner, other, agreement_id=agreement)
            self.system.work()

    @precondition(lambda self: self._wished_for())
    @rule(
        which=PLACE,
        how=st.sampled_from(("unavailable", "fault", "throttled", "credentials")),
        at=AT,
        lists_too=st.booleans(),
    )
    def a_deletion_is_tried_for_a_day(self, which: int, how: Fault, at: Place, lists_too: bool) -> None:
        deletion = self._deletion(which)
        for wait in (0.0, GIVE_UP_SECONDS / 2, GIVE_UP_SECONDS / 2):
            self.system.clock.pass_(wait)
            self.system.delete(deletion.deletion_id, Script(fault=how, at=at))
            self.system.clock.pass_(DELETIONS.lease_seconds * 2)  # longer than any closed gate of this call's
            self.system.reconcile(deletion.customer, Script(fault=how if lists_too else None))

    @precondition(lambda self: self._ended())
    @rule(which=PLACE, interruption=INTERRUPTION)
    def an_operator_replays_a_deletion(self, which: int, interruption: Interruption | None) -> None:
        ended = self._ended()
        self.system.replay(ended[which % len(ended)].deletion_id, interruption)

    def _wished_for(self) -> bool:
        """Whether a deletion is under way, or could be asked for."""
        return any(c.status in ("active", "deleting") for c in self.system.watch.last.cards)

    def _ended(self) -> list[Any]:
        return [d for d in self.system.watch.last.deletions if d.phase in ("blocked", "failed")]

    def _deletion(self, which: int) -> Any:
        """A deletion that is under way; where there is none, one that is asked for now."""
        if not self.system.open_deletions():
            active = [c for c in self.system.cards() if c.status == "active"]
            self.system.request(active[which % len(active)])
            if not self.system.open_deletions():  # Ottu refused it a moment ago: the answer was that same deletion
                self.system.clock.pass_(COOL_DOWN_OF_A_REFUSAL_SECONDS)
                self.system.request(active[which % len(active)])
        open_ = self.system.open_deletions()
        return open_[which % len(open_)]

    def _owner(self, customer: int) -> Any:
        (owner,) = ((c.environment, c.customer_id) for c in self.system.known() if c.id == customer)
        return owner

    def _call_and_stand_still(self, deletion: Any, script: Script) -> list[Call]:
        """The call for a deletion, unless it is not due, another one is under way, or calls are paused."""
        before = len(self.system.standing)
        self.system.delete(deletion.deletion_id, script)
        return self.system.standing[before:]
