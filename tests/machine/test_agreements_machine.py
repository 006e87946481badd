"""Agreements and single gateways: payments, charges, days and readers in any order. A model says when each charge is expected.

At every moment: the next charge of an agreement is the model's, which is never in the past; its card will be looked at before
that; an agreement has one card at most, which a list or Ottu's own answer named; and no filtered list changes a card. At the
end all becomes quiet, and the registry is Ottu's truth.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import text

from cardsync import db
from cardsync.core.change_rate import BEFORE_A_CHARGE
from cardsync.core.repeats import APART_SECONDS
from cardsync.dev.simulator.cards import SimCard
from cardsync.dev.simulator.payloads import Result
from cardsync.dev.simulator.world import Owner
from cardsync.store import agreement_asks, freshness, gateway_asks
from cardsync.stories.ask_agreement import ask_agreements
from cardsync.stories.ask_gateway import ask_gateway, claim_gateways
from cardsync.stories.filtered_lists import FilteredListPolicy
from cardsync.stories.note_charge import note_charge
from tests.factories import SECRET
from tests.machine.base import MachineBase
from tests.machine.choices import OWNER, OWNERS, PLACE, TOKEN, Fate
from tests.machine.clock import BEGAN
from tests.machine.quiet import become_quiet
from tests.machine.scripts import Fault, Script
from tests.machine.system import JITTER, LISTS, System

GATEWAYS: Final = ("gateway-one", "gateway-two")
AGREEMENTS_OF_ONE: Final = 2
HOUR: Final = 3_600
TERMS: Final = {"expiry_date": "31/12/2098"}
ENDLESS: Final = 100_000
CYCLES: Final = (ENDLESS, 2, 1, 5)  # of an agreement: its last one comes within the days that pass here, or never
FILTERED: Final = FilteredListPolicy(SECRET, LISTS.daily_calls, LISTS.call_seconds)
NO_SUCCESS: Final[tuple[Result, ...]] = ("failed", "canceled", "error", "pending")
FAULTS: Final[tuple[Fault | None, ...]] = (None, None, None, "unavailable", "crash", "throttled")

# The view as it is shipped, bound to the machine's clock: what was made before went by the real one.
_VIEW_OF_THE_CLOCK: Final = """
    DO $$
    DECLARE
        definition text;
    BEGIN
        SET LOCAL search_path = pg_catalog;
        definition := pg_get_viewdef('registry.agreements'::regclass);
        SET LOCAL search_path = machine, pg_catalog;
        EXECUTE 'CREATE OR REPLACE VIEW machine.agreements AS ' || definition;
    END $$;
"""
_SHOWN: Final = text("""
    SELECT v.environment, v.agreement_id, v.next_charge_at, o.due_at, o.look_by, o.lease_until > clock_timestamp() AS asked
    FROM machine.agreements AS v JOIN cardsync.known_agreements AS k USING (environment, agreement_id)
    JOIN cardsync.customers AS o ON o.id = k.customer
""")
_WITHOUT_CARD: Final = text("""
    SELECT environment, agreement_id FROM cardsync.known_agreements WHERE without_card_since < 'infinity'
""")
_WITH_CALENDAR: Final = text("""
    SELECT environment, agreement_id FROM cardsync.known_agreements WHERE expected_at IS NOT NULL OR charges <> '{}'
""")
_WANT_ALL: Final = text("UPDATE cardsync.known_agreements SET due_at = clock_timestamp(), lane = 'retry'")
_LINKS: Final = text("""
    SELECT a.environment, a.agreement_id, c.token, c.status, a.agreement_id = ANY(c.agreements) AS claimed
    FROM cardsync.agreements AS a JOIN cardsync.cards AS c USING (card_id)
""")


@dataclass(slots=True)
class Calendar:
    """The model of one agreement: a charge in each cycle up to the last, the known charges, and what billing told of the next."""

    days: int
    last: dt.datetime | None
    charges: list[dt.datetime] = field(default_factory=list)
    told: dt.datetime | None = None

    def agree(self, days: int, cycles: int, at: dt.datetime) -> None:
        """The first payment: its terms are those that count now, and it is a charge. A day is left for the last one to come."""
        self.days = days
        midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
        self.last = None if cycles == ENDLESS else midnight + dt.timedelta(days=days * cycles + 1)
        self.charges.append(at)

    def next(self, after: dt.datetime) -> dt.datetime | None:
        """The first charge to expect after a moment: a whole number of cycles after all that is known."""
        if self.told is not None and self.told > after:
            return self.told
        found = max([*self.charges, *([self.told] if self.told else [])])
        while True:
            found += dt.timedelta(days=self.days)
            if found > after:
                return found if self.last is None or found <= self.last else None

    def hear(self, charged_at: dt.datetime | None, told: dt.datetime | None) -> None:
        """Billing tells of a charge, or of the next one."""
        if told is None and self.told and charged_at and charged_at >= self.told - BEFORE_A_CHARGE:
            self.told = None
        self.told = told or self.told
        self.charges += [charged_at] if charged_at else []


class Machine(MachineBase):
    """Ottu, shoppers, billing, readers and workers."""

    @initialize(
        cards=st.lists(st.tuples(OWNER, TOKEN, st.sampled_from(GATEWAYS)), min_size=1, max_size=4),
        days=st.sampled_from((30, 7)),
        cycles=st.sampled_from(CYCLES),
    )
    def the_merchant_has_customers_already(self, cards: list[tuple[Owner, str, str]], days: int, cycles: int) -> None:
        with self.system.observer.connect() as connection:
            connection.exec_driver_sql(_VIEW_OF_THE_CLOCK)
        self.system.watch.links_by_lists = False
        self.calendars: dict[tuple[str, str], Calendar] = {}
        self.made: set[tuple[str, str]] = set()  # the agreements that Ottu has, or had
        for owner, token, pg_code in cards:
            self._checkout("believed").save_card(*owner, token=token, pg_code=pg_code)
        self._agree(self._card(0), n=1, days=days, cycles=cycles, fate="believed")

    @property
    def now(self) -> dt.datetime:
        return BEGAN + dt.timedelta(seconds=self.system.clock.now())

    # Shoppers.

    @rule(owner=OWNER, token=TOKEN, pg_code=st.sampled_from(GATEWAYS), fate=st.sampled_from(("processed", "dropped")))
    def somebody_saves_a_card(self, owner: Owner, token: str, pg_code: str, fate: Fate) -> None:
        self._checkout(fate).save_card(*owner, token=token, pg_code=pg_code)

    @precondition(lambda self: self._cards())
    @rule(
        which=PLACE,
        n=st.integers(1, AGREEMENTS_OF_ONE),
        days=st.sampled_from((30, 7, 1)),
        cycles=st.sampled_from(CYCLES),
        fate=st.sampled_from(("processed", "processed", "believed", "dropped")),
    )
    def somebody_agrees_to_be_charged(self, which: int, n: int, days: int, cycles: int, fate: Fate) -> None:
        self._agree(self._card(which), n=n, days=days, cycles=cycles, fate=fate)

    @precondition(lambda self: self._cards())
    @rule(
        which=PLACE,
        n=st.integers(1, AGREEMENTS_OF_ONE),
        days=st.sampled_from((30, 7, 1)),
        fate=st.sampled_from(("processed", "believed")),
        result=st.sampled_from(NO_SUCCESS),
    )
    def a_first_payment_does_not_succeed(self, which: int, n: int, days: int, fate: Fate, result: Result) -> None:
        """It is notified, and nothing follows for the agreement that it names: not for the model either."""
        self._agree(self._card(which), n=n, days=days, cycles=1, fate=fate, result=result)

    def _agree(self, card: SimCard, *, n: int, days: int, cycles: int, fate: Fate, result: Result = "success") -> None:
        """An agreement is one customer's; another card of that customer may take it over."""
        owner = (card.environment, card.customer_id)
        agreement_id = f"agreement {n} of {OWNERS.index(owner)}"
        terms = {**TERMS, "cycle_interval_days": days, "total_cycles": cycles}
        self._checkout(fate).agree(*owner, card.token, agreement_id=agreement_id, result=result, **terms)
        if result == "success":
            self.made.add((card.environment, agreement_id))
        if result == "success" and fate != "dropped":
            calendar = self.calendars.setdefault((card.environment, agreement_id), Calendar(days, None))
            calendar.agree(days, cycles, self.now)

    @precondition(lambda self: self._cards())
    @rule(which=PLACE)
    def a_card_is_deleted_in_ottus_own_checkout(self, which: int) -> None:
        card = self._card(which)
        self._end_agreements_of(card)
        self.system.world.delete(card.environment, card.customer_id, card.token)

    @rule(how=st.sampled_from(("serving", "former_too", "none")))
    def ottus_lists_show_agreements_otherwise(self, how: Any) -> None:
        self.system.world.knobs = self.system.world.knobs.turned(listed_agreements=how)

    # Billing.

    @precondition(lambda self: self.calendars)
    @rule(
        which=PLACE,
        charged_hours_ago=st.sampled_from((None, 0, 5, 100)),
        next_in_hours=st.sampled_from((20, 24 * 9, None, 1)),
    )
    def billing_tells_of_a_charge(self, which: int, charged_hours_ago: int | None, next_in_hours: int | None) -> None:
        places = sorted(self.calendars)
        environment, agreement_id = places[which % len(places)]
        charged_at = None if charged_hours_ago is None else self.now - dt.timedelta(hours=charged_hours_ago)
        told = None if next_in_hours is None else self.now + dt.timedelta(hours=next_in_hours)
        calendar = self.calendars[environment, agreement_id]
        with self.system._checked(None), self.system.web.begin() as connection:
            noted = note_charge(
                connection,
                environment,  # type: ignore[arg-type]
                agreement_id,
                charged_at=charged_at,
                next_charge_at=told,
                lists=True,
                now=db.moment(connection),
            )
            calendar.hear(charged_at, told)
            assert noted.next_charge_at == calendar.next(self.now)

    # Readers, and workers who ask with a filter.

    @precondition(lambda self: self.system.watch.last.customers)
    @rule(
        owner=OWNER,
        n=st.integers(1, AGREEMENTS_OF_ONE),
        fault=st.sampled_from(FAULTS),
        meanwhile=st.sampled_from(("nothing", "nothing", "a list", "a deletion")),
    )
    def a_reader_asks_about_an_agreement(self, owner: Owner, n: int, fault: Fault | None, meanwhile: str) -> None:
        agreement_id = f"agreement {n} of {OWNERS.index(owner)}"
        before = self._others()
        with self.system._checked(None), self.system.web.begin() as connection:
            customer = freshness.meet(connection, *owner).customer
            agreement_asks.meet(connection, owner[0], agreement_id, customer)
            agreement_asks.want_now(connection, owner[0], agreement_id)
        self._during_the_call(owner, fault, meanwhile)
        with self.system._checked(None):
            ask_agreements(self.system.worker, self.system.ottu, FILTERED, jitter=JITTER)  # type: ignore[arg-type]
        assert meanwhile == "a list" or self._others() == before, "an answer about an agreement changed a card"

    @precondition(lambda self: self.system.watch.last.customers)
    @rule(
        which=PLACE,
        pg_code=st.sampled_from(GATEWAYS),
        fault=st.sampled_from(FAULTS),
        meanwhile=st.sampled_from(("nothing", "nothing", "a list", "a deletion")),
    )
    def a_reader_asks_for_one_gateway(self, which: int, pg_code: str, fault: Fault | None, meanwhile: str) -> None:
        known = self.system.known()
        customer = known[which % len(known)]
        owner = (customer.environment, customer.customer_id)
        before, truth = self._others(), self._of_gateway(owner, pg_code)
        with self.system._checked(None), self.system.web.begin() as connection:
            answer = gateway_asks.want(connection, customer.id, pg_code, since=self.now)
        self._during_the_call(owner, fault, meanwhile)
        tickets = claim_gateways(self.system.worker, FILTERED, limit=5)
        for ticket in tickets:
            with self.system._checked(None):
                outcome = ask_gateway(self.system.worker, self.system.ottu, ticket, FILTERED, jitter=JITTER)  # type: ignore[arg-type]
                mine = ticket.customer == customer.id and ticket.pg_code == pg_code
                if outcome == "agrees" and answer == "asked" and mine:
                    assert self._known_of_gateway(customer.id, pg_code) == truth, (
                        "what is known was called fresh, and is not"
                    )
        assert meanwhile == "a list" or self._others() == before, "an answer about a gateway changed a card"

    def _during_the_call(self, owner: Owner, fault: Fault | None, meanwhile: str) -> None:
        self.system.ottu.script = Script(fault=fault, at="after")

        def happens() -> None:
            if meanwhile == "a list":
                self.system.ask(owner)
                self.system.reconcile_due()
            elif meanwhile == "a deletion":
                for card in self.system.world.cards(*owner)[:1]:
                    self._end_agreements_of(card)
                    self.system.world.delete(*owner, card.token)

        self.system.ottu.meanwhile = happens

    def _others(self) -> tuple[object, ...]:
        """All that a filtered list must not change."""
        now = self.system.watch.last
        cards = sorted((c.card_id, c.status, str(c)) for c in now.cards)
        return (cards, len(now.feed), sorted((c.id, c.applied_no) for c in now.customers if c.applied_no))

    def _of_gateway(self, owner: Owner, pg_code: str) -> set[str]:
        return {card.token for card in self.system.world.cards(*owner) if card.pg_code == pg_code}

    def _known_of_gateway(self, customer: int, pg_code: str) -> set[str]:
        cards = (c for c in self.system.watch.last.cards if c.customer == customer and c.pg_code == pg_code)
        return {card.token for card in cards if card.status == "active"}

    # Workers, and time.

    @rule()
    def workers_have_a_good_moment(self) -> None:
        self.system.work()

    @rule(hours=st.sampled_from((0, 1, 11, 13, 24, 24 * 6, 24 * 31)), works=st.booleans())
    def time_passes(self, hours: int, works: bool) -> None:
        self.system.clock.pass_(hours * HOUR + APART_SECONDS)
        self.system.sweep()
        if works:
            self.system.take_what_is_due()

    @rule(days=st.sampled_from((8, 31)))
    def days_pass_without_a_look(self, days: int) -> None:
        self.system.clock.pass_(days * 24 * HOUR)

    # What holds at every moment.

    @invariant()
    def the_next_charge_is_the_models_and_a_look_comes_before_it(self) -> None:
        with self.system.observer.connect() as connection:
            shown = {(row.environment, row.agreement_id): row for row in connection.execute(_SHOWN)}
        for key, calendar in getattr(self, "calendars", {}).items():
            row = shown[key]
            expected = {calendar.next(self.now), calendar.next(self.now - dt.timedelta(microseconds=1))}
            assert row.next_charge_at in expected, "the next charge is another one, or in the past"
            charge = calendar.next(self.now + BEFORE_A_CHARGE)
            is_planned = charge is None or (row.look_by is not None and row.look_by <= charge - BEFORE_A_CHARGE)
            assert is_planned or row.due_at is not None or row.asked, "no look comes before the next charge"

    @invariant()
    def what_never_was_an_agreement_has_no_calendar_and_is_at_no_risk(self) -> None:
        with self.system.observer.connect() as connection:
            at_risk = {(row.environment, row.agreement_id) for row in connection.execute(_WITHOUT_CARD)}
            charged = {(row.environment, row.agreement_id) for row in connection.execute(_WITH_CALENDAR)}
        assert at_risk <= getattr(self, "made", set()), "an agreement that Ottu never had is at risk"
        assert charged <= getattr(self, "calendars", {}).keys(), "a charge is expected that nothing told of"

    @invariant()
    def an_agreement_has_one_card_which_a_list_or_an_answer_named(self) -> None:
        with self.system.observer.connect() as connection:
            links = connection.execute(_LINKS).all()
        named = self.system.ottu.about_agreements
        assert len({(link.environment, link.agreement_id) for link in links}) == len(links)
        for link in links:
            assert link.status in ("active", "deleting"), "an agreement is charged to a card that is gone"
            said = named.get((link.environment, link.agreement_id), set())
            assert link.claimed or link.token in said, "an agreement is charged to a card that nothing named"

    def teardown(self) -> None:
        """Let it be quiet, unless something is broken already: then its own error is to be seen."""
        if sys.exception() is None:
            self.system.world.knobs = self.system.world.knobs.turned(listed_agreements="serving")
            self.system.ottu.meanwhile = lambda: None
            self._ask_about_all_agreements()
            become_quiet(self.system)

    def _ask_about_all_agreements(self) -> None:
        """A list in which no card claims an agreement is no word against Ottu's own answer: that is asked for once more."""
        for _ in range(3):  # a call may find the breaker open, or a card that the next list has to show first
            self.system.clock.pass_(1_000)
            for customer in self.system.known():  # one that only readers named is in no line of routine looks
                self.system.ask((customer.environment, customer.customer_id))
            self.system.sweep()
            self.system.take_what_is_due()
            with self.system._checked(None), self.system.worker.begin() as connection:
                connection.execute(_WANT_ALL)
            with self.system._checked(None):
                while ask_agreements(self.system.worker, self.system.ottu, FILTERED, jitter=JITTER):  # type: ignore[arg-type]
                    pass


def test_agreements_are_charged_to_one_card_which_is_looked_at_before_each_charge(
    new_system: Callable[[], System], profile: settings
) -> None:
    Machine.new_system = staticmethod(new_system)
    run_state_machine_as_test(Machine, settings=settings(profile, max_examples=max(1, profile.max_examples // 4)))
