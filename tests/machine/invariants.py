"""What must be true of the whole system: at every moment, from one moment to the next, and when all is quiet.

Three doors: ``check_moment`` looks at one snapshot alone, ``Watch`` follows a database from snapshot to snapshot and knows what
Ottu answered, ``converged.check_converged`` compares the registry with Ottu's truth. All raise ``AssertionError``, and show no
token.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import SimpleNamespace
from typing import Any, Final

from sqlalchemy import Connection, text

from cardsync.core.cards import CardFacts, Environment
from cardsync.core.deletion import OPEN
from cardsync.core.oddities import may_remove
from tests.machine.calls import Answer, Delete
from tests.machine.receipts import ReceiptsWatch, check_deletions

Owner = tuple[Environment, str]  # a customer, by the merchant's own identifier

_FACTS: Final = tuple(f.name for f in fields(CardFacts))
_AFTER: Final[Mapping[str, Mapping[str | None, str]]] = {  # change -> status before -> status after
    "added": {None: "active"},
    "updated": {"active": "active", "deleting": "deleting"},
    "deleting": {"active": "deleting"},
    "restored": {"deleting": "active"},
    "removed": {"active": "removed", "deleting": "removed"},
    "returned": {"removed": "active"},
}

_NEVER: Final = dt.datetime.min.replace(tzinfo=dt.UTC)

# One statement sees one moment, also while others write.
_SNAPSHOT: Final = text("""
    SELECT
        clock_timestamp() AS at,
        (SELECT coalesce(json_agg(c), '[]') FROM cardsync.customers AS c) AS customers,
        (SELECT coalesce(json_agg(c), '[]') FROM cardsync.cards AS c) AS cards,
        (SELECT coalesce(json_agg(e), '[]') FROM cardsync.events AS e) AS events,
        (SELECT coalesce(json_agg(c ORDER BY seq), '[]') FROM cardsync.card_changes AS c) AS feed,
        (SELECT coalesce(json_agg(a), '[]') FROM cardsync.agreements AS a) AS agreements,
        (SELECT coalesce(json_agg(d ORDER BY since_no), '[]') FROM cardsync.deletions AS d) AS deletions,
        (SELECT coalesce(json_agg(k), '[]') FROM cardsync.deletion_keys AS k) AS keys,
        (SELECT coalesce(json_agg(s ORDER BY step_no), '[]') FROM (
            SELECT c.step_no, s.* FROM cardsync.deletion_steps AS s LEFT JOIN cardsync.receipt_chain AS c USING (step_id)
        ) AS s) AS steps,
        (SELECT coalesce(json_agg(card_id), '[]') FROM registry.card_tokens) AS served,
        (SELECT coalesce(json_agg(card_id), '[]') FROM registry.active_cards) AS charged
""")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is committed; each row has its columns as attributes, identifiers and times as texts."""

    at: dt.datetime
    customers: Sequence[Any]
    cards: Sequence[Any]
    events: Sequence[Any]
    feed: Sequence[Any]
    agreements: Sequence[Any]
    deletions: Sequence[Any]
    keys: Sequence[Any]
    steps: Sequence[Any]
    served: Sequence[str]
    charged: Sequence[str]

    @classmethod
    def of(cls, connection: Connection) -> Snapshot:
        """Read all of it: for small databases."""
        row = connection.execute(_SNAPSHOT).one()
        tables = (row.customers, row.cards, row.events, row.feed, row.agreements, row.deletions, row.keys, row.steps)
        customers, cards, events, feed, agreements, *of_deletions = (
            [SimpleNamespace(**r) for r in table] for table in tables
        )
        deletions, keys, steps = of_deletions
        return cls(row.at, customers, cards, events, feed, agreements, deletions, keys, steps, row.served, row.charged)


def check_moment(now: Snapshot) -> None:
    """What holds at any moment, whatever is under way."""
    check_feed(now)
    check_tokens(now)
    check_work_is_not_lost(now)
    check_deletions(now)


def check_feed(now: Snapshot) -> None:
    """The feed has no gaps, and who folds it from its beginning knows the status of every card."""
    statuses: dict[str, str] = {}
    for expected, row in enumerate(now.feed, start=1):
        assert row.seq == expected, f"the feed jumps to {row.seq} after {expected - 1}"
        before = statuses.get(row.card_id)
        assert before in _AFTER[row.change], f"{row.change} after {before}"
        statuses[row.card_id] = _AFTER[row.change][before]
    cards = {c.card_id: c.status for c in now.cards if c.status != "unconfirmed"}
    assert statuses == cards, "the feed tells another story than the cards"


def check_tokens(now: Snapshot) -> None:
    """Tokens are there of living cards alone, served of active ones alone; settled events and the dead hold none."""
    for card in now.cards:
        assert (card.token is None) == (card.status == "removed"), f"a token where the card is {card.status}, or none"
    active = {c.card_id for c in now.cards if c.status == "active"}
    assert set(now.served) == active, "tokens are served of other cards than the active ones"
    assert set(now.charged) <= active, "a card may be charged that is not active"
    for event in now.events:
        open_ = event.status in ("pending", "failed")
        assert open_ or (event.token is None and event.facts is None), "a settled event holds a token"


def check_work_is_not_lost(now: Snapshot) -> None:
    """Whatever waits for something is due at some time: no bell is needed for it to be found again."""
    waiting = {c.customer for c in now.cards if c.awaited_no is not None}
    for customer in now.customers:
        evidence_no = max(customer.dirty_no, customer.repeat_no)
        waits = customer.dirty_since or customer.ticket_no or evidence_no > customer.applied_no
        assert customer.due_at or not (waits or customer.id in waiting), f"customer {customer.id} waits and is not due"


@dataclass(slots=True)
class Watch:
    """Follows a database from look to look. Look after every story: one applied list for a customer between two looks."""

    answers: Mapping[int, Answer]  # what Ottu listed, by the number of the ticket
    confirm_seconds: float
    deletes: Mapping[int, Delete]
    links_by_lists: bool = True  # false where Ottu is asked about agreements alone: a link may come from such an answer
    last: Snapshot = field(default_factory=lambda: Snapshot(_NEVER, [], [], [], [], [], [], [], [], [], []))
    _receipts: ReceiptsWatch = field(init=False)
    _shown: dict[str, int] = field(default_factory=dict)  # card -> the newest believed list that showed it
    _claims: dict[tuple[str, str], int] = field(default_factory=dict)  # (card, agreement) -> the list that began it

    def __post_init__(self) -> None:
        self._receipts = ReceiptsWatch(self.answers, self.deletes)

    def look(self, now: Snapshot) -> None:
        """Compare with the last look, and with what Ottu answered."""
        self._receipts.look(now)
        assert now.feed[: len(self.last.feed)] == self.last.feed, "the feed's past has changed"
        before = {c.id: c.applied_no for c in self.last.customers}
        for customer in now.customers:
            believed_before = before.get(customer.id, 0)
            assert customer.applied_no >= believed_before, "an older list was believed after a newer one"
            cards = [c for c in now.cards if c.customer == customer.id]
            believed = customer.applied_no if customer.applied_no > believed_before else None
            if customer.applied_no:
                wishes = {d.card_id: d.since_no for d in now.deletions if d.phase in OPEN}
                self._check_believed(customer, cards, wishes, just_now=believed is not None)
            if believed:
                assert now.at < self.answers[believed].good_until, "a list was believed after its ticket's lease"
            self._check_who_came_and_went(customer.id, cards, now, believed)
        if self.links_by_lists:
            self._check_agreements(now)
        self.last = now

    def _check_believed(
        self, customer: Any, cards: Sequence[Any], wishes: Mapping[str, int], *, just_now: bool
    ) -> None:
        """The active cards are those of the last believed list, with its facts; beyond it, only what is held.

        By hints, by the brake, or by a deletion that was asked for after the list: ``wishes`` are their numbers, by card.
        """
        assert customer.applied_no in self.answers, "something was believed that Ottu never listed"
        answer = self.answers[customer.applied_no]
        assert answer.owner == (customer.environment, customer.customer_id), "a list was believed of another customer"
        assert _time(customer.reconciled_at) == answer.asked_at, (
            "reconciled_at is not when the believed list was asked for"
        )
        living = {c.token: c for c in cards if c.status in ("active", "deleting")}
        for token, facts in answer.cards.items():
            assert token in living, "a card of the last believed list is not active"
            expected = facts.over(CardFacts(agreements=()))
            unsaid = {name: getattr(expected, name) for name in answer.unsaid[token]}
            assert replace(_facts(living[token]), **unsaid) == expected, "facts differ from the believed list's"
            self._shown[living[token].card_id] = customer.applied_no
        for token, card in living.items():
            held = (
                card.awaited_no is not None
                or customer.removals_held  # until the next list: a release changes nothing yet
                or wishes.get(card.card_id, 0) > customer.applied_no
                or not may_remove(answer.oddities)  # an odd list's absences remove nothing
            )
            assert token in answer.cards or held or not just_now, "a card is active beyond the believed list"
            assert card.card_id in self._shown, "an active card was never listed for this customer"

    def _check_who_came_and_went(
        self, customer: int, cards: Sequence[Any], now: Snapshot, believed: int | None
    ) -> None:
        """Cards become active by a list alone, and go by a list alone: on proof."""
        before = {c.card_id: c for c in self.last.cards if c.customer == customer}
        for card in cards:
            was = before.get(card.card_id)
            if card.status == "active" and (was is None or was.status != "active"):
                self._check_came(card, was, now, believed)
        after_of = {c.card_id: c for c in cards}
        for card in before.values():
            after = after_of.get(card.card_id)
            if after is None or (after.status == "removed" and card.status != "removed"):
                assert after is not None or card.status == "unconfirmed", "a card that was active left no trace"
                assert believed, "a card went without a list"
                self._check_proof(card, now.events, believed)

    def _check_came(self, card: Any, was: Any, now: Snapshot, believed: int | None) -> None:
        """Shown by a list asked for after any call to delete it; or its deletion was given up, which needs no list."""
        ended = [d for d in now.deletions if d.card_id == card.card_id and d.life == card.life]
        if was is not None and was.status == "deleting" and ended[-1].phase == "failed":
            return
        assert believed, "a card became active without a list"
        assert card.token in self.answers[believed].cards, "a card became active that the list does not show"
        calls = [d.since_no for d in now.deletions if d.card_id == card.card_id]
        assert believed > max(calls, default=0), "a list asked for before the deletion's call brought the card back"

    def _check_proof(self, card: Any, events: Sequence[Any], number: int) -> None:
        """Absent from the list; and if a hint named it that no list has answered, that hint has had its time.

        Where its deletion is proved a hint only has to be older than the list: what had been listed does not show late.
        """
        answer = self.answers[number]
        assert card.token not in answer.cards, "a listed card was removed"
        assert card.status != "active" or may_remove(answer.oddities), "an odd list removed an active card"
        hints = [e for e in events if e.card_id == card.card_id and e.status == "done" and not _is_repeated(e, events)]
        last_hint = max(hints, key=lambda e: e.evidence_no, default=None)
        if last_hint is None or self._shown.get(card.card_id, 0) > last_hint.evidence_no:
            return
        assert number > last_hint.evidence_no, "removed by a list asked for before the last hint"
        waited = (answer.asked_at - _time(last_hint.received_at)).total_seconds()
        assert card.status == "deleting" or waited >= self.confirm_seconds, (
            f"removed {waited} s after a hint that no list had answered"
        )

    def _check_agreements(self, now: Snapshot) -> None:
        """An agreement is charged to nobody, or to the card that claimed it last of those that claim it now."""
        applied = {c.id: c.applied_no for c in now.customers}
        environments = {c.id: c.environment for c in now.customers}
        living = {c.card_id: c for c in now.cards if c.status in ("active", "deleting")}
        claims = {(c.card_id, a): applied[c.customer] for c in living.values() for a in c.agreements}
        self._claims = {claim: self._claims.get(claim, number) for claim, number in claims.items()}
        for link in now.agreements:
            assert (link.card_id, link.agreement_id) in claims, (
                "an agreement is charged to a card that does not claim it"
            )
            rivals = {
                card_id: number
                for (card_id, agreement_id), number in self._claims.items()
                if agreement_id == link.agreement_id and environments[living[card_id].customer] == link.environment
            }
            assert rivals[link.card_id] == max(rivals.values()), "an agreement went back to a card that had lost it"


def _is_repeated(event: Any, events: Sequence[Any]) -> bool:
    """Whether its signature came in another body before: such a hint is answered by the next list, without patience."""
    return any(e.signature_hash == event.signature_hash and e.evidence_no < event.evidence_no for e in events)


def _facts(card: Any) -> CardFacts:
    said = {name: getattr(card, name) for name in _FACTS}
    return CardFacts(**{**said, "agreements": tuple(card.agreements)})


def _time(shown: str) -> dt.datetime:
    return dt.datetime.fromisoformat(shown)
