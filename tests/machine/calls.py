"""Ottu's two calls in process: they answer out of the stand-in's world, fail as told, and can be let stand still.

It keeps what was answered under which ticket (``answers``, ``deletes``): whatever the registry believes, and whatever a receipt
says, must be found there. It also watches its own callers: one call for a customer at a time, none uncounted, none while the
gate is closed, and none to delete whose intent was not written down first.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Engine, text

from cardsync.core.cards import CardFacts, Environment, ListedCard, Token
from cardsync.core.oddities import Oddity
from cardsync.dev.simulator.world import Owner, World
from cardsync.ottu import CardList, DeleteAnswer
from cardsync.ottu.listing import Listing
from tests.machine.clock import BEGAN, Clock
from tests.machine.interruptions import Crash
from tests.machine.scripts import CERTAINLY_NOT_DONE, Call, Fault, OddEntry, Script, fail, odd

A_DAY_SECONDS: Final = 86_400.0  # the budget remembers calls for at least so long
_ANSWERED: Final = {"forbidden": 403, "not_there": 404}


@dataclass(frozen=True, slots=True)
class Answer:
    """A list that Ottu gave under a ticket, whose lease it must not outlive."""

    owner: Owner
    asked_at: dt.datetime
    good_until: dt.datetime
    cards: Mapping[str, CardFacts]
    unsaid: Mapping[str, frozenset[str]]  # fields of a card that this list does not say
    oddities: tuple[Oddity, ...]


@dataclass(slots=True)
class Delete:
    """A call to delete, by the number of its ticket; ``status`` is what Ottu said, if its answer came."""

    owner: Owner
    token: str
    began: float  # seconds
    status: int | None = None


class Ottu:
    """``list_cards`` and ``delete_card`` are what the stories call; ``script`` is taken by the next call."""

    def __init__(self, world: World, engine: Engine, clock: Clock, *, lease_seconds: float) -> None:
        self.answers: dict[int, Answer] = {}
        self.deletes: dict[int, Delete] = {}
        self.calls: list[float] = []  # when each was made
        self.script = Script()
        self.caller: Call | None = None  # one that calls from a thread of its own
        self.is_mad = False  # it answers an empty list to everybody
        self.troubled: dict[Owner, Fault] = {}  # what it answers to calls for one customer, while those for others work
        self.odd_cards: dict[tuple[Owner, str], OddEntry] = {}  # how it lists one card
        self._world, self._engine, self._clock, self._lease_seconds = world, engine, clock, lease_seconds
        self.about_agreements: dict[
            tuple[str, str], set[str]
        ] = {}  # the tokens that Ottu named when asked about one alone
        self.meanwhile: Callable[[], object] = lambda: None  # what happens during the next filtered list
        self._under_way: dict[int, tuple[Owner, float]] = {}  # ticket -> whose it is, and when its lease runs out

    def be_well(self) -> None:
        """End all that lasts: madness, the trouble of customers, odd entries."""
        self.is_mad = False
        self.troubled.clear()
        self.odd_cards.clear()

    def list_cards(
        self,
        environment: Environment,
        customer_id: str,
        *,
        deadline_seconds: float,
        before_call: Callable[[], None],
    ) -> CardList:
        """Answer one list as its script says."""
        owner = (environment, customer_id)
        with self._call(owner) as (ticket, script, caller):
            answer = self._list(ticket.ticket_no, owner, script, caller, before_call)
            _, until = self._under_way[ticket.ticket_no]
        earlier = self.answers.get(ticket.ticket_no)  # one ticket may ask twice: what either list shows is there
        cards = {**(earlier.cards if earlier else {}), **{c.token.reveal(): c.facts for c in answer.cards}}
        unsaid = {**(earlier.unsaid if earlier else {}), **{c.token.reveal(): c.unsaid for c in answer.cards}}
        oddities = (*(earlier.oddities if earlier else ()), *answer.oddities)
        good_until = BEGAN + dt.timedelta(seconds=until)
        self.answers[ticket.ticket_no] = Answer(owner, ticket.asked_at, good_until, cards, unsaid, oddities)
        return answer

    def list_agreement(
        self, environment: Environment, customer_id: str, agreement_id: str, *, before_call: Callable[[], None]
    ) -> ListedCard | None:
        """Answer which card an agreement is charged to, as its script says."""
        owner = (environment, customer_id)
        cards = self._filtered(owner, before_call, agreement_id=agreement_id).cards
        assert len(cards) <= 1
        self.about_agreements.setdefault((environment, agreement_id), set()).update(c.token.reveal() for c in cards)
        return cards[0] if cards else None

    def list_gateway(
        self,
        environment: Environment,
        customer_id: str,
        pg_code: str,
        *,
        deadline_seconds: float,
        before_call: Callable[[], None],
    ) -> CardList:
        """Answer one gateway's cards, as its script says."""
        return self._filtered((environment, customer_id), before_call, pg_codes=[pg_code])

    def _filtered(self, owner: Owner, before_call: Callable[[], None], **only: Any) -> CardList:
        """One list with a filter. ``meanwhile`` happens between Ottu's looking and its answer."""
        script, self.script = self.script, Script()
        before_call()
        self._check_counted(owner)
        if script.at == "before":
            fail(script.fault)
        listing = Listing(owner[1])
        listing.take(self._world.list_cards(*owner, **only))
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        fail(script.fault)
        return CardList(listing.complete(), calls=1, oddities=listing.oddities)

    def delete_card(self, environment: Environment, customer_id: str, token: Token) -> DeleteAnswer:
        """Answer one deletion as its script says; an answer that says that nothing was done is true."""
        owner = (environment, customer_id)
        with self._call(owner) as (ticket, script, caller):
            if script.fault == "crash_unasked":
                raise Crash
            made = Delete(owner, token.reveal(), self._clock.now())
            assert ticket.ticket_no not in self.deletes, "one ticket was called with twice"
            self._check_written_down(ticket.ticket_no)
            self.deletes[ticket.ticket_no] = made
            self._check_counted(owner)
            if caller is not None and script.stands == "before":
                caller.stand_still()
            if script.fault in _ANSWERED:
                made.status = _ANSWERED[script.fault]
                return DeleteAnswer(made.status, "no reason that a list shows")
            if script.at == "before" or script.fault in CERTAINLY_NOT_DONE:
                fail(script.fault)
            status = self._world.delete(environment, customer_id, token.reveal())
            if caller is not None and script.stands == "after":
                caller.stand_still()
            fail(script.fault)
            made.status = status
            return DeleteAnswer(status, None if status in (204, 404) else "tied to an agreement")

    @contextlib.contextmanager
    def _call(self, owner: Owner) -> Iterator[tuple[Any, Script, Call | None]]:
        """One call under the customer's ticket, beside which no other may be under way."""
        script, caller = self.script, self.caller
        self.script, self.caller = Script(), None
        if script.fault is None and owner in self.troubled:
            script.fault, script.at = self.troubled[owner], "after"
        ticket, now = self._ticket(owner), self._clock.now()
        others = [until for whose, until in self._under_way.values() if whose == owner]
        assert all(until <= now for until in others), "two calls for one customer at once"
        self._under_way[ticket.ticket_no] = (owner, now + self._lease_seconds)
        try:
            yield ticket, script, caller
        finally:
            del self._under_way[ticket.ticket_no]

    def _list(
        self, number: int, owner: Owner, script: Script, caller: Call | None, before_call: Callable[[], None]
    ) -> CardList:
        if script.fault == "crash_unasked":
            raise Crash  # with the ticket taken and nothing else: nobody gives it back
        before_call()
        self._check_counted(owner)
        if caller is not None and script.stands == "before":
            caller.stand_still()
        if script.at == "before":
            fail(script.fault)
        cards = [] if self.is_mad else self._world.list_cards(*owner)
        if caller is not None and script.stands == "after":
            caller.stand_still()
        if script.at == "after":
            fail(script.fault)
        for _ in range(1, script.pages):
            before_call()  # which renews the ticket, or finds that it stands no more
            assert self._ticket(owner).ticket_no == number, "a list was read on under a ticket that stands no more"
            self._check_counted(owner)
            self._under_way[number] = (owner, self._clock.now() + self._lease_seconds)
        cards = [entry for card in cards for entry in odd(card, self.odd_cards.get((owner, card["token"])))]
        if script.fault == "anothers_card":
            cards = [*cards, {"token": "9999000000000009", "customer_id": "somebody else"}]
        listing = Listing(owner[1])
        listing.take(cards)
        listed = listing.complete()
        return CardList(listed, calls=script.pages, oddities=listing.oddities)

    def _check_counted(self, owner: Owner) -> None:
        """A call that the budget does not know of, or one through a closed gate, is a fault whatever comes of it.

        A probe alone passes the breaker while that is shut: there is one at a time.
        """
        now = self._clock.now()
        self.calls.append(now)
        with self._engine.connect() as connection:
            row = connection.execute(
                text(
                    """SELECT (SELECT coalesce(sum(calls), 0) FROM cardsync.call_minutes) AS counted,
                              coalesce(paused_until > clock_timestamp(), false) AS paused,
                              breaker_reason IS NOT NULL AND breaker_probing IS DISTINCT FROM (
                                  SELECT id FROM cardsync.customers WHERE environment = :e AND customer_id = :c
                              ) AS shut FROM cardsync.gate"""
                ),
                {"e": owner[0], "c": owner[1]},
            ).one()
        made = sum(1 for at in self.calls if at > now - A_DAY_SECONDS)
        assert row.counted >= made, "a call was made that the budget has not counted"
        assert not row.paused, "a call was made while calls are paused"
        assert not row.shut, "a call was made while the breaker is open, and it is not the probe"

    def _check_written_down(self, number: int) -> None:
        """A call that no receipt speaks of would be lost with its process."""
        with self._engine.connect() as connection:
            written = connection.execute(
                text(
                    """SELECT 1 FROM cardsync.deletions AS d JOIN cardsync.deletion_steps AS s USING (deletion_id)
                       WHERE d.phase = 'calling' AND d.since_no = :number
                         AND s.step = 'called' AND (s.detail ->> 'call_no')::bigint = :number"""
                ),
                {"number": number},
            )
            assert written.one_or_none(), "a card was asked to be deleted before that was written down"

    def _ticket(self, owner: Owner) -> Any:
        with self._engine.connect() as connection:
            return connection.execute(
                text("SELECT ticket_no, asked_at FROM cardsync.customers WHERE environment = :e AND customer_id = :c"),
                {"e": owner[0], "c": owner[1]},
            ).one()
