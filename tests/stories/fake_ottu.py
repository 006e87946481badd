"""Ottu's two calls in process, over the stand-in's world: with faults to order, points to stand still at, and time in hand.

Time passes by shifting what is stored back, and the world's clock on: no test sleeps.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Engine, text

from cardsync.core.cards import Environment, Token
from cardsync.dev.simulator.knobs import Knobs
from cardsync.dev.simulator.world import World
from cardsync.ottu import CardList, DeleteAnswer
from cardsync.ottu.listing import Listing
from cardsync.store.deletions import receipts, requests
from cardsync.store.deletions.requests import Deletion
from cardsync.stories.apply_queue import ApplyQueue
from cardsync.stories.claim import claim_deletions
from cardsync.stories.delete import DeletePolicy, delete
from cardsync.stories.delete import Result as DeleteResult
from cardsync.stories.reconcile import CountedTicket, Result, look, reconcile
from cardsync.stories.sweep import SweepPolicy, sweep
from tests.factories import RING
from tests.stories.shop import POLICY, Shop

CUSTOMER = "cust-1"
DELETE_POLICY = DeletePolicy(RING, daily_calls=1_000, call_seconds=10.0)
SWEEP_POLICY = SweepPolicy(daily_calls=1_000, look_again_seconds=10_000_000, lists=True)
DEADLINE_SECONDS = 60.0  # for a thread to come to a point; only a bug takes so long
ROUNDS = 200

Call = Literal["list", "delete"]


class Killed(BaseException):
    """The process ends here: nobody catches it, as nobody catches SIGKILL."""


@dataclass
class Fault:
    """What becomes of one call: ``error`` is raised before or after Ottu has done what it was asked."""

    error: BaseException
    after: bool = False


class Point:
    """A place in a call where its thread stands still until it is let go."""

    def __init__(self) -> None:
        self._reached, self._released = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self._reached.set()
        assert self._released.wait(DEADLINE_SECONDS)

    def wait(self) -> None:
        """Wait until the thread stands here."""
        assert self._reached.wait(DEADLINE_SECONDS)

    def release(self) -> None:
        """Let it go on."""
        self._released.set()


@dataclass
class Desk:
    """What the stories call. ``before`` and ``after`` run once each, around what Ottu does."""

    now: float = 1_000.0
    knobs: Knobs = field(default_factory=Knobs)
    statuses: list[int] = field(default_factory=list)  # of the deletions
    lists: int = 0
    faults: dict[Call, deque[Fault | int]] = field(default_factory=lambda: {"list": deque(), "delete": deque()})
    always: dict[Call, Callable[[], BaseException] | None] = field(default_factory=dict)
    before: dict[Call, Callable[[], None]] = field(default_factory=dict)
    after: dict[Call, Callable[[], None]] = field(default_factory=dict)
    answer: Callable[[list[dict[str, Any]]], Any] = lambda cards: cards  # what Ottu makes of its cards in a list

    def __post_init__(self) -> None:
        self.world = World(self.knobs, lambda: self.now, seed=1)

    def list_cards(
        self, environment: Environment, customer_id: str, *, deadline_seconds: float, before_call: Callable[[], None]
    ) -> CardList:
        before_call()
        self.lists += 1
        self._at("list", self.before)
        fault = self._fault("list", after=False)
        listing = Listing(customer_id)
        listing.take(self.answer(self.world.list_cards(environment, customer_id)))
        self._at("list", self.after)
        self._raise(fault)
        cards = listing.complete()
        return CardList(cards, calls=1, oddities=listing.oddities)

    def delete_card(self, environment: Environment, customer_id: str, token: Token) -> DeleteAnswer:
        self._at("delete", self.before)
        fault = self._fault("delete", after=False)
        status = fault if isinstance(fault, int) else self.world.delete(environment, customer_id, token.reveal())
        self.statuses.append(status)
        self._at("delete", self.after)
        self._raise(fault)
        return DeleteAnswer(status, None if status in (204, 404) else "The card is tied to an agreement.")

    def _fault(self, call: Call, *, after: bool) -> Fault | int | None:
        always = self.always.get(call)
        if always is not None:
            raise always()
        fault = self.faults[call].popleft() if self.faults[call] else None
        if isinstance(fault, Fault) and fault.after is after:
            raise fault.error
        return fault

    def _raise(self, fault: Fault | int | None) -> None:
        if isinstance(fault, Fault):
            raise fault.error

    def _at(self, call: Call, hooks: dict[Call, Callable[[], None]]) -> None:
        hook = hooks.pop(call, None)
        if hook is not None:
            hook()

    @property
    def deleted(self) -> int:
        """How many deletions succeeded."""
        return self.statuses.count(204)


_LATER = """
    UPDATE cardsync.deletions SET due_at = due_at - {s}, rung_at = rung_at - {s}, called_at = called_at - {s},
        tried_since = tried_since - {s};
    UPDATE cardsync.customers SET due_at = due_at - {s}, rung_at = rung_at - {s}, lease_until = lease_until - {s};
    UPDATE cardsync.cards SET awaited_at = awaited_at - {s} WHERE awaited_at IS NOT NULL;
    UPDATE cardsync.observations SET asked_at = asked_at - {s};
    UPDATE cardsync.gate SET paused_until = paused_until - {s}, pace_since = pace_since - {s}, pace_next_at = pace_next_at - {s},
        breaker_opened_at = breaker_opened_at - {s}, breaker_shut_until = breaker_shut_until - {s},
        breaker_failed_at = breaker_failed_at - {s}
"""


class DeletingShop(Shop):
    """A shop at whose desk cards are deleted."""

    desk: Desk

    def __init__(self, engine: Engine, ingest: Engine, web: Engine, worker: Engine) -> None:
        super().__init__(engine, ingest, web, worker)
        self.desk = Desk()
        self.queue = ApplyQueue(worker, POLICY)

    def stock(self, *tokens: str, customer_id: str = CUSTOMER, **facts: Any) -> list[uuid.UUID]:
        """Cards at Ottu that a list has made active here."""
        for token in tokens:
            self.desk.world.save_card("sandbox", customer_id, token=token, **facts)
            self.hint(customer_id, token, session_id=uuid.uuid4().hex)
        self.look(self.customer(customer_id).id)
        return [self.card(token, customer_id).card_id for token in tokens]

    def card(self, token: str, customer_id: str = CUSTOMER) -> Any:
        """The row of a card, by its token's fingerprint."""
        fingerprint = Token(token).fingerprint(self.policy.fingerprint_key, "sandbox")
        return self.execute(
            """SELECT c.* FROM cardsync.cards AS c JOIN cardsync.customers AS o ON o.id = c.customer
               WHERE c.fingerprint = :fingerprint AND o.customer_id = :id""",
            fingerprint=fingerprint,
            id=customer_id,
        )[0]

    def ask(self, card_id: uuid.UUID, **wish: Any) -> uuid.UUID:
        """Somebody asks for a deletion."""
        with self.web.begin() as connection:
            return requests.request(connection, card_id=card_id, **{"requested_by": "support", **wish}).deletion_id

    def show(self, deletion_id: uuid.UUID) -> Deletion:
        """The deletion as its asker sees it."""
        with self.web.connect() as connection:
            shown = requests.show(connection, deletion_id)
        assert shown is not None
        return shown

    def steps(self, deletion_id: uuid.UUID) -> list[str]:
        """The names of the receipt's steps."""
        with self.web.connect() as connection:
            return [step.step for step in receipts.steps(connection, deletion_id)]

    def details(self, deletion_id: uuid.UUID, step: str) -> list[Any]:
        """What the receipt says at such steps."""
        with self.engine.connect() as connection:
            return [s.detail for s in receipts.steps(connection, deletion_id) if s.step == step]

    def delete(self, deletion_id: uuid.UUID) -> DeleteResult:
        """A worker takes a message that names this deletion."""
        return delete(self.worker, self.desk, deletion_id, DELETE_POLICY, jitter=0.5)

    def look(self, customer: int | None = None) -> Result:
        """A worker takes a message that names this customer."""
        which = self.customer().id if customer is None else customer
        return reconcile(self.worker, self.desk, which, POLICY, jitter=0.5)

    def make_due(self, customer_id: str = CUSTOMER) -> None:
        """Let a look at the customer be due, as a sweep does."""
        self.execute(
            """UPDATE cardsync.customers SET due_at = clock_timestamp(), lane = 'sweep'
               WHERE customer_id = :id AND due_at IS NULL""",
            id=customer_id,
        )

    def reconcile_now(self, customer_id: str = CUSTOMER) -> Result:
        """A sweep's turn comes, and its look is taken."""
        self.make_due(customer_id)
        return self.look(self.customer(customer_id).id)

    def sweep(self) -> tuple[int, ...]:
        """Beat's tick comes."""
        return sweep(self.worker, SWEEP_POLICY, fraction=0.0)

    def ask_about(self, claimed: CountedTicket) -> Result:
        """A worker's thread asks about a claimed customer."""
        return look(self.worker, self.desk, claimed, POLICY, jitter=0.5, queue=self.queue)

    def later(self, seconds: float) -> None:
        """Let time pass, for Ottu and for us."""
        self.desk.now += seconds
        with self.engine.begin() as connection:
            for statement in _LATER.split(";"):
                connection.execute(text(statement.format(s="make_interval(secs => :seconds)")), {"seconds": seconds})

    def work(self) -> None:
        """Workers claim and do what is due, until nothing is due now."""
        for _ in range(ROUNDS):
            self.execute("UPDATE cardsync.deletions SET rung_at = NULL WHERE rung_at IS NOT NULL")
            deletions = claim_deletions(self.worker, POLICY, limit=100).deletion_ids
            for deletion_id in deletions:
                self.delete(deletion_id)
            claimed = self.claim(policy=POLICY)
            if not claimed and not deletions:
                return
            for one in claimed:
                self.ask_about(one)
        raise AssertionError("work does not come to an end")

    def work_for(self, seconds: float, *, step: float = 1.0) -> None:
        """So much time, with work at every step of it."""
        self.work()
        for _ in range(int(seconds / step)):
            self.later(step)
            self.work()

    def everything(self) -> str:
        """All tables of the database as one text."""
        tables = self.execute(
            """SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables
               WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"""
        )
        return "\n".join(r[0] for t in tables for r in self.execute(f"SELECT to_jsonb(t)::text FROM {t.name} AS t"))
