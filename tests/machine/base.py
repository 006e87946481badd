"""What every rule of the machine works with: the system, the notifications under way, visits to the shop, cards to choose."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine

from cardsync.dev.simulator import payloads as ottus
from cardsync.dev.simulator.cards import SimCard
from cardsync.dev.simulator.checkout import Checkout
from cardsync.dev.simulator.knobs import Scheme
from cardsync.dev.simulator.world import Owner
from tests import payloads
from tests.machine.choices import OWNERS, Fate
from tests.machine.clock import BEGAN
from tests.machine.interruptions import Interruption
from tests.machine.scripts import Call, Script
from tests.machine.system import System


class MachineBase(RuleBasedStateMachine):
    """A machine without rules of its own."""

    new_system: Callable[[], System]

    def __init__(self) -> None:
        super().__init__()
        self.system = self.new_system()
        self.waiting: list[bytes] = []  # notifications that Ottu has still to deliver
        self.delivered: list[bytes] = []
        self.deeds = 0

    def _cards(self) -> list[SimCard]:
        world = self.system.world
        return [card for owner in OWNERS for card in world.cards(*owner)]

    def _card(self, which: int) -> SimCard:
        cards = self._cards()
        return cards[which % len(cards)]

    def _end_agreements_of(self, card: SimCard) -> None:
        for agreement in card.agreements:  # they would lock it
            self.system.world.end_agreement(card.environment, agreement)

    def _ask_and_stand_still(self, owner: Owner, script: Script) -> list[Call]:
        """The call about a customer, unless another one is under way or calls are paused."""
        self.system.ask(owner)
        (customer,) = (c.id for c in self.system.known() if (c.environment, c.customer_id) == owner)
        before = len(self.system.standing)
        self.system.reconcile(customer, script)
        return self.system.standing[before:]

    def _checkout(self, fate: Fate) -> Checkout:
        """One visit; each has a randomness of its own, so that no two notifications are the same."""
        self.deeds += 1

        def send(event: dict[str, Any], _deed: str) -> None:
            # Every third is signed the other way, and says so, for a forger.
            scheme: Scheme = "subscription" if self.deeds % 3 == 0 else "standard"
            body = ottus.body(ottus.sign({**event, "scheme": scheme}, payloads.KEY, scheme))
            if fate == "dropped":
                return
            self.waiting.append(body)
            if fate != "waiting":
                self._deliver(body)
            if fate == "processed":
                self.system.process(self.system.pending())
            if fate == "believed":
                self.system.work()

        moment = BEGAN + dt.timedelta(seconds=self.system.clock.now())
        return Checkout(self.system.world, send, draws=Random(self.deeds), at=moment)  # noqa: S311  # a replay

    def _deliver(self, body: bytes, interruption: Interruption | None = None) -> None:
        self._deliver_all([body], interruption)

    def _deliver_all(self, bodies: Sequence[bytes], interruption: Interruption | None = None) -> None:
        self.system.receive(*bodies, interruption=interruption)
        for body in [body for body in dict.fromkeys(bodies) if body in self.waiting]:
            self.waiting.remove(body)
            self.delivered.append(body)
