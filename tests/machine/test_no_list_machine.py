"""Payments, notifications in any order, and an adversary, where Ottu offers no list (KSA).

What arrives while the database is away waits on the disk of one of two hosts, in segments, and is drained later. Equal bodies
come together. The adversary holds every body that became a row, and alters what its signature does not cover. Invariants hold
after every step: no altered body makes a card active, moves an agreement or changes a flag. In the end, with every lost payment
recovered, the registry says what was paid, and each agreement is charged to the card of its last payment.
"""

from __future__ import annotations

import itertools
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine

from cardsync.errors import InvalidSignature
from cardsync.spool import Spool
from cardsync.store import inquiries
from tests.stories.no_list import NoListShop, Payload, altered, signed

CARDS = ("a", "b", "c")
AGREEMENTS = (None, "X", "Y")
PLACE = st.integers(0, 1_000)
ROUNDS = 40
HOSTS = 2
HOST = st.integers(0, HOSTS - 1)
COPIES = st.sampled_from((1, 1, 2))


class Machine(RuleBasedStateMachine):
    """One example: names of its own in a database that all examples share."""

    make: Any
    new_spool: Any
    numbers = itertools.count()

    @initialize()
    def begin(self) -> None:
        self.shop: NoListShop = self.make()
        self.shop.execute("DELETE FROM cardsync.inquiries")
        self.shop.execute("DELETE FROM cardsync.call_minutes")
        self.name = f"e{next(self.numbers)}"
        self.minute = 0.0
        self.paid: list[Payload] = []
        self.spools = [self.new_spool() for _ in range(HOSTS)]
        self.kept: list[dict[uuid.UUID, Payload]] = [{} for _ in self.spools]  # on each host's disk, by its event
        self.held: list[Payload] = []  # what the adversary has
        self.unsure: set[str] = (
            set()
        )  # payments whose notifications alone settle nothing: lost, altered, not wholly signed
        self.pending: list[uuid.UUID] = []

    @rule(
        owner=st.sampled_from("12"),
        card=st.sampled_from(CARDS),
        agreement=st.sampled_from(AGREEMENTS),
        succeeds=st.sampled_from((True, True, True, False)),
        scheme=st.sampled_from(("subscription", "subscription", "standard")),
        preferred=st.booleans(),
        fate=st.sampled_from(("processed", "processed", "delivered", "kept", "kept", "lost")),
        host=HOST,
        copies=COPIES,
    )
    def pay(
        self,
        owner: str,
        card: str,
        agreement: str | None,
        succeeds: bool,
        scheme: Any,
        preferred: bool,
        fate: str,
        host: int,
        copies: int,
    ) -> None:
        """Somebody pays; the notification arrives half a minute later, if it does."""
        self.minute += 1
        payload = self.shop.ottu.pay(
            f"{self.name}-{owner}",
            f"{self.name}-{card}",
            agreement_id=agreement and f"{self.name}-{agreement}",
            minutes=self.minute,
            token_fields={"is_preferred": preferred},
            session_id=uuid.uuid4().hex + "0" * 8,
            order_no=f"{self.name}-{len(self.paid)}",
            **({} if succeeds else {"result": "failed", "state": "failed"}),
        )
        self.paid.append(payload)
        body = signed(payload, scheme)
        if fate == "lost" or scheme == "standard":
            self.unsure.add(payload["session_id"])
        if fate == "kept":
            self.keep(host, body, self.minute + 0.5, copies)
        elif fate != "lost":
            self.held.append(body)
            self.take(self.shop.receive(body, self.minute + 0.5, copies=copies), now=fate == "processed")

    @precondition(lambda self: any(self.kept))
    @rule(host=HOST)
    def drain(self, host: int) -> None:
        """What waited on a host's disk comes in, with the time of its arrival."""
        kept = self.kept[host]
        assert self.shop.drain(self.spools[host]) == len(kept)
        self.held += [body for body in kept.values() if body not in self.held]
        self.pending += kept
        kept.clear()

    @precondition(lambda self: self.held)
    @rule(place=PLACE, now=st.booleans(), host=HOST, waits=st.booleans())
    def again(self, place: int, now: bool, host: int, waits: bool) -> None:
        """A body that is known arrives once more, twice in one batch, at the database or at a host that has none."""
        body = self.held[place % len(self.held)]
        self.minute += 1
        if waits:
            self.keep(host, body, self.minute, copies=2)
        else:
            self.take(self.shop.receive(body, self.minute, copies=2), now=now)

    @precondition(lambda self: self.held)
    @rule(
        place=PLACE,
        owner=st.sampled_from("123"),
        card=st.sampled_from((*CARDS, "forged")),
        agreement=st.sampled_from(AGREEMENTS),
        other=PLACE,
        flags=st.booleans(),
        now=st.booleans(),
    )
    def forge(
        self, place: int, owner: str, card: str, agreement: str | None, other: int, flags: bool, now: bool
    ) -> None:
        """The adversary sends a body that he holds, with everything altered that its signature leaves open."""
        genuine = self.held[place % len(self.held)]
        self.unsure.add(genuine["session_id"])
        body = altered(
            genuine,
            customer_id=f"{self.name}-{owner}",
            forged_at=str(uuid.uuid4()),
            token_fields={"is_preferred": flags, "cvv_required": not flags, "is_expired": False, "agreements": []},
        )
        if self.scheme_of(genuine) == "standard":
            named = f"{self.name}-{agreement}" if agreement else None
            body["session_id"] = self.paid[other % len(self.paid)]["session_id"]
            body["agreement"] = {"id": named}
            body["token"] |= {
                "token": f"{self.name}-{card}",
                "customer_id": f"{self.name}-{owner}",
                "agreements": [named] if named else [],
            }
        self.minute += 1
        self.take(self.shop.receive(body, self.minute), now=now)

    @precondition(lambda self: self.held)
    @rule(place=PLACE)
    def change_environment(self, place: int) -> None:
        """A production key vouches for no sandbox body."""
        genuine = self.held[place % len(self.held)]
        with pytest.raises(InvalidSignature):
            self.shop.receive({**genuine, "is_sandbox": True})

    @rule(order=st.randoms())
    def process(self, order: Any) -> None:
        """Workers take what waits, in any order."""
        order.shuffle(self.pending)
        self.shop.process(*self.pending)
        self.pending.clear()

    @rule()
    def inquire(self) -> None:
        """Half an hour passes, and workers ask about what is due."""
        self.shop.settle()

    @invariant()
    def nothing_is_believed_that_was_not_paid(self) -> None:
        if not hasattr(self, "paid"):
            return
        paid = {(p["customer_id"], p["token"]["token"]) for p in self.successes()}
        agreed = {(p["agreement"]["id"], p["token"]["token"]) for p in self.successes() if "agreement" in p}
        preferred = {(p["customer_id"], p["token"]["token"]) for p in self.successes() if p["token"]["is_preferred"]}
        debited = {(p["customer_id"], p["token"]["token"]) for p in self.successes() if "agreement" in p}
        listed = {(a, p["token"]["token"]) for p in self.successes() for a in p["token"]["agreements"]}
        assert listed <= agreed, "the world itself contradicts what was paid"
        for card in self.rows():
            owner = (card.customer_id, card.token)
            assert owner in paid, "a card is active that nobody paid with"
            assert not card.is_preferred or owner in preferred, "an unsigned flag was believed"
            assert not card.auto_debit or owner in debited, "an unsigned flag was believed"
            assert all((a, card.token) in agreed for a in card.agreements), "a card claims another's agreement"
        assert set(self.charged().items()) <= agreed, "an agreement is charged to a card that it never named"

    def teardown(self) -> None:
        """All arrives, every payment is asked about, and the registry says what was paid."""
        if not hasattr(self, "paid"):
            return
        for host in range(HOSTS):
            self.drain(host)
        self.shop.process(*self.pending)
        self.agreements_follow_arrivals()
        for payload in self.paid:
            with self.shop.worker.begin() as connection:
                inquiries.wish(connection, payload["session_id"])
        for _ in range(ROUNDS):
            self.shop.wait(24 * 60)
            if not self.shop.ask():
                break
        self.nothing_is_believed_that_was_not_paid()
        paid = {(p["customer_id"], p["token"]["token"]) for p in self.successes()}
        assert {(card.customer_id, card.token) for card in self.rows()} == paid
        last = {
            p["agreement"]["id"]: (p["customer_id"], p["token"]["token"]) for p in self.successes() if "agreement" in p
        }
        holders = {a: (card.customer_id, card.token) for card in self.rows() for a in card.agreements}
        assert holders == last, "the cards' own facts differ from the last payments"
        assert self.charged() == {a: token for a, (_, token) in last.items()}

    def agreements_follow_arrivals(self) -> None:
        """Where all payments of an agreement were heard of no inquiry is needed, in whichever way and order they came."""
        charged = self.charged()
        last = {p["agreement"]["id"]: p for p in self.successes() if "agreement" in p}
        unsure = {p["agreement"]["id"] for p in self.successes() if "agreement" in p and p["session_id"] in self.unsure}
        for agreement_id in last.keys() - unsure:
            assert charged[agreement_id] == last[agreement_id]["token"]["token"], (
                "an older payment came after a newer one"
            )

    def keep(self, host: int, body: Payload, minute: float, copies: int) -> None:
        self.kept[host][self.shop.keep(self.spools[host], body, minute, copies=copies)] = body

    def take(self, event_id: uuid.UUID, *, now: bool) -> None:
        if now:
            self.shop.process(event_id)
        else:
            self.pending.append(event_id)

    def successes(self) -> list[Payload]:
        return [p for p in self.paid if p["result"] == "success"]

    def scheme_of(self, body: Payload) -> str:
        return "standard" if signed(body, "standard")["signature"] == body["signature"] else "subscription"

    def rows(self) -> list[Any]:
        return self.shop.execute(
            """SELECT c.*, t.token FROM registry.cards AS c JOIN registry.card_tokens AS t USING (card_id)
               WHERE c.customer_id LIKE :mine""",
            mine=f"{self.name}-%",
        )

    def charged(self) -> dict[str, str]:
        return {a: token for a, token in self.shop.charged().items() if a.startswith(f"{self.name}-")}


def test_without_lists_the_registry_says_what_was_paid_whatever_is_forged(
    engine: Engine, ingest_engine: Engine, worker_engine: Engine, profile: settings, tmp_path: Path
) -> None:
    folders = (tmp_path / str(n) for n in itertools.count())
    Machine.new_spool = staticmethod(lambda: Spool(next(folders), max_files=1_000, max_bytes=2**30))
    Machine.make = staticmethod(lambda: NoListShop(engine, ingest_engine, worker_engine))
    run_state_machine_as_test(Machine, settings=settings(profile, max_examples=profile.max_examples // 4))
