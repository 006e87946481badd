"""Endpoints that fail at will: whatever happens, no notification is skipped, and no change comes out of order.

Two workers take turns, calls end in any order and in any way, or never since their worker is killed; time passes; endpoints are
disabled and enabled again. After quiet each notification has arrived, and the changes that arrived are 1, 2, 3, ...
"""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Callable
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
from sqlalchemy import Engine, text

from cardsync.core.delivery import UNDER_WAY
from cardsync.outgoing import Ended, Message, Sender
from cardsync.store.deliveries import endpoints
from cardsync.stories import endpoints as story
from cardsync.stories.deliver import Courier
from cardsync.stories.endpoints import NewEndpoint
from cardsync.stories.receive import examine, store
from tests import payloads
from tests.factories import RING, CustomerFactory, make_card
from tests.stories.shop import KEYS

ENDINGS = (200, 200, 200, 500, 503, 302, None, 410)
HOUR = 3_600.0
ROUNDS = 200


class Held(Sender):
    """Holds each message until the machine ends it."""

    def __init__(self) -> None:
        self.under_way: list[tuple[Message, Callable[[Ended], None]]] = []

    def send(self, message: Message, then: Callable[[Ended], None] = lambda _: None) -> Any:
        self.under_way.append((message, then))


class Machine(RuleBasedStateMachine):
    """One example: endpoints and notifications of its own in a database that all examples share."""

    ingest: Engine
    worker: Engine
    owner: Engine
    numbers = itertools.count()

    @initialize()
    def begin(self) -> None:
        self.execute("UPDATE cardsync.endpoints SET status = 'removed', disabled_because = NULL, disabled_at = NULL")
        self.execute("DELETE FROM cardsync.deliveries")
        self.names = [f"{kind}-{next(self.numbers)}" for kind in ("notifications", "changes")]
        with self.owner.connect() as connection:
            self.head = connection.execute(text("SELECT seq FROM cardsync.feed_head")).scalar_one()
        for name in self.names:
            kind: Any = name.partition("-")[0]
            story.add(self.worker, NewEndpoint(name, f"https://{name}.example.test/", kind), RING)
        self.senders = [Held(), Held()]
        self.couriers = [Courier(self.worker, RING, sender, jitter=lambda: 0.5) for sender in self.senders]
        self.sent: list[bytes] = []
        self.arrived: list[bytes] = []
        self.changes: list[int] = []
        self.made = 0

    def execute(self, statement: str, **parameters: Any) -> None:
        with self.owner.begin() as connection:
            connection.execute(text(statement), parameters)

    @rule(again=st.booleans())
    def a_notification_comes(self, again: bool) -> None:
        if not (again and self.sent):
            self.sent.append(
                payloads.signed(payloads.operation(session_id=uuid.uuid4().hex, order_no=str(len(self.sent))))
            )
        store(self.ingest, [examine(self.sent[-1], KEYS, keep_body=len(self.sent) % 2 == 0)])

    @rule()
    def a_card_changes(self) -> None:
        self.made += 1
        make_card(CustomerFactory())

    @rule(which=st.integers(0, 1))
    def a_worker_takes_its_turn(self, which: int) -> None:
        self.couriers[which].turn()

    @precondition(lambda self: any(sender.under_way for sender in self.senders))
    @rule(which=st.integers(0, 1), place=st.integers(0, 20), ending=st.sampled_from(ENDINGS))
    def a_call_ends(self, which: int, place: int, ending: int | None) -> None:
        calls = self.senders[which].under_way
        if calls:
            message, then = calls.pop(place % len(calls))
            self.take(message, ending)
            then(Ended(ending, None if ending else "no answer in time"))

    @rule(which=st.integers(0, 1), arrives=st.booleans())
    def a_worker_is_killed(self, which: int, arrives: bool) -> None:
        """What it was sending arrived or not; it tells nobody."""
        for message, _ in self.senders[which].under_way:
            self.take(message, 200 if arrives else None)
        self.senders[which] = Held()
        self.couriers[which] = Courier(self.worker, RING, self.senders[which], jitter=lambda: 0.5)

    @rule(seconds=st.sampled_from((1.0, 7.0, 30.0, HOUR, 7 * HOUR)))
    def time_passes(self, seconds: float) -> None:
        if seconds >= 20:  # no call lasts longer than its claim
            for which in (0, 1):
                self.a_worker_is_killed(which, arrives=False)
        self.execute(
            "UPDATE cardsync.deliveries SET due_at = due_at - make_interval(secs => :s), "
            "claimed_until = claimed_until - make_interval(secs => :s) WHERE status = 'pending'",
            s=seconds,
        )
        self.execute(
            "UPDATE cardsync.endpoints SET due_at = due_at - make_interval(secs => :s), "
            "claimed_until = claimed_until - make_interval(secs => :s), shut_until = shut_until - make_interval(secs => :s)",
            s=seconds,
        )

    @rule(which=st.integers(0, 1), on=st.booleans())
    def an_operator_disables_or_enables(self, which: int, on: bool) -> None:
        with self.worker.begin() as connection:
            (endpoints.enable if on else endpoints.disable)(connection, self.names[which])

    def take(self, message: Message, status: int | None) -> None:
        """The endpoint gets a message; what it answers with success it has."""
        if status != 200:
            return
        if "changes" not in message.url:
            self.arrived.append(message.body)
            return
        batch = [one["seq"] for one in json.loads(message.body)["data"]["changes"]]
        expected = self.changes[-1] + 1 if self.changes else self.head + 1
        assert batch == list(range(batch[0], batch[-1] + 1))
        assert batch[0] <= expected, "changes were skipped"
        self.changes += [seq for seq in batch if seq >= expected]

    @invariant()
    def at_most_eight_are_under_way_to_each(self) -> None:
        urls = [message.url for sender in getattr(self, "senders", ()) for message, _ in sender.under_way]
        assert sum("notifications" in url for url in urls) <= UNDER_WAY
        assert sum("changes" in url for url in urls) <= 1

    def teardown(self) -> None:
        if not hasattr(self, "names"):
            return
        with self.worker.begin() as connection:
            for name in self.names:
                endpoints.enable(connection, name)
        for _ in range(ROUNDS):
            if set(self.arrived) == set(self.sent) and len(self.changes) == self.made:
                break
            self.time_passes(7 * HOUR)
            self.a_worker_takes_its_turn(0)
            while self.senders[0].under_way:
                self.a_call_ends(0, 0, 200)
                self.a_worker_takes_its_turn(0)  # it writes down what ended, before the next round kills it
        assert set(self.arrived) == set(self.sent)
        assert self.changes == list(range(self.head + 1, self.head + 1 + self.made))


@pytest.fixture
def machine(bound_factories: None, engine: Engine, ingest_engine: Engine, worker_engine: Engine) -> type[Machine]:
    """The machine on a database of its own."""
    return type("Bound", (Machine,), {"owner": engine, "ingest": ingest_engine, "worker": worker_engine})


def test_whatever_an_endpoint_does_nothing_is_skipped_and_nothing_out_of_order(
    machine: type[Machine], profile: settings
) -> None:
    run_state_machine_as_test(machine, settings=settings(profile, max_examples=max(4, profile.max_examples // 6)))
