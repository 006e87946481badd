"""Shoppers who save, use and delete cards at random, by a seed.

The promise: action n of a seed is always the same, tokens and payloads included, unless something else changes the world. Each
action has its own random numbers (from the seed and its number), and its time stamp comes from its number. So a card that a test
deletes changes the next actions of its customer, and nothing else.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from random import Random
from typing import Final

from cardsync.dev.simulator.cards import Environment, SimCard
from cardsync.dev.simulator.checkout import Checkout, Send, Visit
from cardsync.dev.simulator.delivery import Delivery
from cardsync.dev.simulator.world import NoSuchCardError, Owner, World

EPOCH: Final = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)  # when every seed's run begins
MAX_CARDS: Final = 6  # of one shopper; with this many, the shopper pays instead of saving another
MAX_REMEMBERED: Final = 10_000  # payments that can be inquired about or refunded

# (what a shopper does, its weight)
_HABITS: Final[tuple[tuple[str, int], ...]] = (
    ("save", 28),
    ("pay", 24),
    ("delete", 10),
    ("fail", 8),
    ("charge", 8),
    ("agree", 6),
    ("inquire", 5),
    ("refund", 4),
    ("save_again", 3),
    ("prefer", 2),
    ("share", 2),
)
DECLINED: Final = 0.2  # of the first payments of agreements
# Customers' identifiers are the merchant's own: they can contain any character.
_ODD_NAMES: Final = ("o'brien/{n:04d}", "عميل {n:04d}", "100%&co #{n:04d}", 'say "hi"?{n:04d}')


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopperEvent:
    """One action, fit for a live line: it contains no token, and cards have their labels."""

    number: int
    environment: Environment
    customer_id: str
    action: str  # as in "saved a card"
    card: str | None  # the card's label
    session_id: str | None
    notified: bool
    at: float = field(compare=False)  # seconds since 1970, when it really happened
    delivery: Future[Delivery] | None = field(default=None, compare=False, repr=False)  # how its webhook ends


def customer_name(number: int) -> str:
    """The identifier of a shopper; every fifth has unusual characters."""
    return _ODD_NAMES[number // 5 % len(_ODD_NAMES)].format(n=number) if number % 5 == 4 else f"shopper-{number:04d}"


class Shoppers:
    """``step()`` does the next action; ``run(stop, rate)`` does them at a rate."""

    def __init__(
        self,
        world: World,
        send: Send,
        seed: int,
        *,
        customers: int = 20,
        on_event: Callable[[ShopperEvent], None] | None = None,
    ) -> None:
        self.number = 0  # of the last action
        self._world = world
        self._send = send
        self._seed = seed
        self._customers = customers
        self._on_event = on_event
        self._last: OrderedDict[Owner, Visit] = OrderedDict()
        self._lock = threading.Lock()

    def step(self) -> ShopperEvent:
        """Do the next action and return what happened."""
        with self._lock:
            self.number += 1
            draws = Random(f"{self._seed}:shopper:{self.number}")  # noqa: S311  # a replay, not a secret
            who = draws.randrange(self._customers)
            owner: Owner = ("production" if who % 4 == 3 else "sandbox", customer_name(who))
            habit = draws.choices([h for h, _ in _HABITS], [weight for _, weight in _HABITS])[0]
            checkout = Checkout(self._world, self._send, draws=draws, at=EPOCH + dt.timedelta(seconds=self.number))
            try:
                event = self._act(habit, owner, checkout, draws)
            except NoSuchCardError:  # a test deleted the card between the choice and the action
                event = self._event(owner, "came too late for a card that is gone")
        if self._on_event is not None:
            self._on_event(event)
        return event

    def run(self, stop: threading.Event, rate: float) -> None:
        """Do ``rate`` actions a second until ``stop`` is set; time lost to a slow receiver is not caught up."""
        due = time.monotonic()
        while not stop.wait(max(0.0, due - time.monotonic())):
            self.step()
            due = max(due + 1 / rate, time.monotonic() - 1)

    def _act(self, habit: str, owner: Owner, checkout: Checkout, draws: Random) -> ShopperEvent:
        cards = self._world.cards(*owner)
        if habit in ("fail", "inquire", "refund"):
            return self._without_card(habit, owner, checkout)
        if habit in ("save", "save_again", "share") or not cards:
            if len(cards) < MAX_CARDS:
                return self._save(habit, owner, checkout, draws)
            habit = "pay"
        card = draws.choice(cards)
        agreed = [agreement for c in cards for agreement in c.agreements]
        match habit:
            case "delete":
                return self._delete(owner, checkout, card)
            case "prefer":
                return self._event(owner, "preferred a card, unseen", self._world.prefer(*owner, card.token))
            case "agree":
                return self._agree(owner, checkout, card, agreed, draws)
            case "charge" if agreed:
                visit = checkout.charge_agreement(owner[0], draws.choice(agreed))
                return self._visited(owner, "was charged by agreement", visit)
        return self._visited(owner, "paid with a saved card", checkout.pay(*owner, card.token))

    def _without_card(self, habit: str, owner: Owner, checkout: Checkout) -> ShopperEvent:
        earlier = self._last.get(owner)
        if habit == "fail" or earlier is None:
            return self._visited(owner, "failed to pay", checkout.pay_without_card(*owner, result="failed"))
        if habit == "refund":
            visit = checkout.refund(earlier.purchase)
            return self._event(owner, "got a refund", None, visit)
        return self._visited(owner, "was inquired about", checkout.inquire(earlier))

    def _save(self, habit: str, owner: Owner, checkout: Checkout, draws: Random) -> ShopperEvent:
        if habit == "save_again" and (past := self._world.past_tokens(*owner)):
            return self._visited(owner, "saved a deleted card again", checkout.save_card(*owner, token=past[-1]))
        others = [o for o in self._world.owners() if o[0] == owner[0] and o != owner]
        if habit == "share" and others:
            theirs = self._world.cards(*draws.choice(others))
            if theirs:  # one physical card, two customers: Ottu may give both the same token
                visit = checkout.save_card(*owner, token=theirs[0].token)
                return self._visited(owner, "saved somebody else's card too", visit)
        return self._visited(owner, "saved a card", checkout.save_card(*owner))

    def _delete(self, owner: Owner, checkout: Checkout, card: SimCard) -> ShopperEvent:
        status = checkout.delete_card(*owner, card.token)
        done = "deleted a card, unseen" if status == 204 else "was refused to delete a locked card"
        return self._event(owner, done, card)

    def _agree(self, owner: Owner, checkout: Checkout, card: SimCard, agreed: list[str], draws: Random) -> ShopperEvent:
        takes_over = bool(agreed) and draws.random() < 0.5
        agreement_id = draws.choice(agreed) if takes_over else f"agreement-{self.number:06d}"
        if draws.random() < DECLINED:
            declined = checkout.agree(*owner, card.token, agreement_id=agreement_id, result="failed")
            return self._visited(owner, "was declined for auto-debit", declined)
        visit = checkout.agree(*owner, card.token, agreement_id=agreement_id)
        return self._visited(owner, "moved an agreement to a card" if takes_over else "agreed to auto-debit", visit)

    def _visited(self, owner: Owner, action: str, visit: Visit) -> ShopperEvent:
        self._last[owner] = visit
        self._last.move_to_end(owner)
        if len(self._last) > MAX_REMEMBERED:
            self._last.popitem(last=False)
        return self._event(owner, action, visit.card, visit)

    def _event(
        self, owner: Owner, action: str, card: SimCard | None = None, visit: Visit | None = None
    ) -> ShopperEvent:
        return ShopperEvent(
            number=self.number,
            environment=owner[0],
            customer_id=owner[1],
            action=action,
            card=card.label if card else None,
            session_id=visit.purchase.session_id if visit else None,
            notified=visit is not None and visit.delivery is not None,
            at=time.time(),
            delivery=visit.delivery if visit else None,
        )
