"""Ottu's list endpoint in process: answers out of the stand-in's world, fails as told, and lets a call stand still.

It keeps what was answered under which ticket (``answers``): whatever the registry believes must be found there. It also
watches its own callers: one call for a customer at a time, none uncounted, none while the gate is closed.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from cardsync.core.cards import CardFacts, Environment
from cardsync.dev.simulator.world import Owner, World
from cardsync.errors import (
    CredentialsRefused,
    OttuFault,
    OttuRejected,
    OttuThrottled,
    OttuUnavailable,
)
from cardsync.ottu import CardList
from cardsync.ottu.listing import Listing
from cardsync.reconcile import Result
from tests.machine.clock import BEGAN, Clock
from tests.machine.interruptions import Crash

DEADLINE_SECONDS: Final = 60  # for a thread to stand still or end: only a bug of the machine's takes so long

Place = Literal["before", "after"]  # Ottu makes up its answer
Fault = Literal[
    "unavailable",
    "fault",
    "throttled",
    "throttled_long",
    "credentials",
    "rejected",
    "anothers_card",
    "crash",
    "crash_unasked",
]
_ERRORS: Final[Mapping[str, Callable[[], Exception]]] = {
    "unavailable": lambda: OttuUnavailable("no answer"),
    "fault": lambda: OttuFault("503"),
    "throttled": lambda: OttuThrottled("429"),
    "throttled_long": lambda: OttuThrottled("429", retry_after_seconds=30),
    "credentials": lambda: CredentialsRefused("401"),
    "rejected": lambda: OttuRejected("400", status_code=400),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A list that Ottu gave under a ticket, whose lease it must not outlive."""

    owner: Owner
    asked_at: dt.datetime
    good_until: dt.datetime
    cards: Mapping[str, CardFacts]


@dataclass(slots=True)
class Script:
    """What becomes of the next call: where it stands still, and how it fails, before or after Ottu made up its answer."""

    stands: Place | None = None
    fault: Fault | None = None
    at: Place = "before"
    pages: int = 1


class Ottu:
    """``list_cards`` is what the story calls; ``script`` is taken by the next call."""

    def __init__(self, world: World, engine: Engine, clock: Clock, *, lease_seconds: float) -> None:
        self.answers: dict[int, Answer] = {}
        self.calls = 0
        self.script = Script()
        self.caller: Call | None = None  # whoever calls from a thread of its own
        self._world, self._engine, self._clock, self._lease_seconds = world, engine, clock, lease_seconds
        self._under_way: dict[int, tuple[Owner, float]] = {}  # ticket -> whose it is, and when its lease runs out

    def list_cards(
        self,
        environment: Environment,
        customer_id: str,
        *,
        deadline_seconds: float,
        before_call: Callable[[], None],
    ) -> CardList:
        """Answer one call as its script says."""
        owner, script, caller = (environment, customer_id), self.script, self.caller
        self.script, self.caller = Script(), None
        ticket = self._ticket(owner)
        now = self._clock.now()
        others = [until for whose, until in self._under_way.values() if whose == owner]
        assert all(until <= now for until in others), "two calls for one customer at once"
        self._under_way[ticket.ticket_no] = (owner, now + self._lease_seconds)
        try:
            answer = self._answer(ticket.ticket_no, owner, script, caller, before_call)
        finally:
            _, until = self._under_way.pop(ticket.ticket_no)
        earlier = self.answers.get(ticket.ticket_no)  # one ticket may ask twice: what either list shows is there
        cards = {**(earlier.cards if earlier else {}), **{c.token.reveal(): c.facts for c in answer.cards}}
        good_until = BEGAN + dt.timedelta(seconds=until)
        self.answers[ticket.ticket_no] = Answer(owner, ticket.asked_at, good_until, cards)
        return answer

    def _answer(
        self, number: int, owner: Owner, script: Script, caller: Call | None, before_call: Callable[[], None]
    ) -> CardList:
        if script.fault == "crash_unasked":
            raise Crash  # with the ticket taken and nothing else: nobody gives it back
        before_call()
        self._check_counted()
        if caller is not None and script.stands == "before":
            caller.stand_still()
        if script.at == "before":
            _fail(script.fault)
        cards = self._world.list_cards(*owner)
        if caller is not None and script.stands == "after":
            caller.stand_still()
        if script.at == "after":
            _fail(script.fault)
        for _ in range(1, script.pages):
            before_call()  # which renews the ticket, or finds that it stands no more
            assert self._ticket(owner).ticket_no == number, "a list was read on under a ticket that stands no more"
            self._check_counted()
            self._under_way[number] = (owner, self._clock.now() + self._lease_seconds)
        if script.fault == "anothers_card":
            cards = [*cards, {"token": "9999000000000009", "customer_id": "somebody else"}]
        listing = Listing(owner[1])
        listing.take(cards)
        return CardList(listing.complete(), calls=script.pages)

    def _check_counted(self) -> None:
        """A call that the budget does not know of, or one through a closed gate, is a fault whatever comes of it."""
        self.calls += 1
        with self._engine.connect() as connection:
            row = connection.execute(
                text(
                    """SELECT (SELECT coalesce(sum(calls), 0) FROM cardsync.call_minutes) AS counted,
                              coalesce(paused_until > clock_timestamp(), false) AS closed FROM cardsync.gate"""
                )
            ).one()
        assert row.counted >= self.calls, "a call was made that the budget has not counted"
        assert not row.closed, "a call was made while calls are paused"

    def _ticket(self, owner: Owner) -> Any:
        with self._engine.connect() as connection:
            return connection.execute(
                text("SELECT ticket_no, asked_at FROM cardsync.customers WHERE environment = :e AND customer_id = :c"),
                {"e": owner[0], "c": owner[1]},
            ).one()


def _fail(fault: Fault | None) -> None:
    if fault == "crash":
        raise Crash
    if fault is not None and fault in _ERRORS:
        raise _ERRORS[fault]()


@dataclass(slots=True)
class Call:
    """A reconciliation in a thread of its own, which runs only while the machine waits for it: one step at a time.

    ``script`` is the call's own: how it fails may still be decided while it stands still.
    """

    work: Callable[[], Result]
    script: Script
    standing: bool = False
    result: Result | None = None
    error: BaseException | None = None
    _moved: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Run until the call stands still or the story ends; raises what no process survives unseen."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._wait()

    def resume(self) -> None:
        """Let a call that stands still go on to its end."""
        self._go.release()
        self._wait()

    def stand_still(self) -> None:
        """Called at Ottu's: wait until the machine lets the call go on."""
        self.standing = True
        self._moved.release()
        assert self._go.acquire(timeout=10 * DEADLINE_SECONDS), "nobody let the call go on"
        self.standing = False

    def _run(self) -> None:
        try:
            self.result = self.work()
        except BaseException as error:  # noqa: BLE001  # the machine looks at it, in its own thread
            self.error = error
        self._moved.release()

    def _wait(self) -> None:
        assert self._moved.acquire(timeout=DEADLINE_SECONDS), "a call neither stood still nor ended"
        if self.standing or self._thread is None:
            return
        self._thread.join(DEADLINE_SECONDS)
        if self.error is not None and not isinstance(self.error, Crash | SQLAlchemyError):
            raise self.error
