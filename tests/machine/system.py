"""The stories, the stand-in and the database as one system that is driven step by step, as workers would at their worst.

Whatever a story raises that a process would die of (``Crash``) or report (a database error) is swallowed here: the next sweep
has to make up for it. After each story all invariants are checked.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cardsync import freshen
from cardsync.core.deletion import OPEN
from cardsync.core.waiting import read_waiting
from cardsync.delete import DeletePolicy, delete
from cardsync.dev.simulator.knobs import Knobs
from cardsync.dev.simulator.world import Owner, World
from cardsync.drain import drain
from cardsync.errors import Conflict, InvalidSignature
from cardsync.process import HintPolicy, process
from cardsync.receive import Receipt, WebhookKeys, examine, receive, set_down, write
from cardsync.reconcile import ReconcilePolicy, reconcile
from cardsync.spool import Spool
from cardsync.store import brake, customers, deletions
from cardsync.sweep import Due, SweepPolicy, sweep
from tests import payloads
from tests.factories import SECRET
from tests.machine import clock as clocks
from tests.machine.calls import Ottu
from tests.machine.clock import Clock
from tests.machine.interruptions import Crash, Interrupter, Interruption
from tests.machine.invariants import Snapshot, Watch, check_moment
from tests.machine.scripts import Call, Script

KEYS: Final = WebhookKeys.of([payloads.KEY], SECRET)
HINTS: Final = HintPolicy(SECRET, believed=False)
LISTS: Final = ReconcilePolicy(
    fingerprint_key=SECRET,
    confirm_seconds=120.0,
    daily_calls=90_000,
    call_seconds=10.0,
    brake_share=0.05,
    brake_floor=2,  # so low that the brake is met
)
DELETIONS: Final = DeletePolicy(daily_calls=LISTS.daily_calls, call_seconds=LISTS.call_seconds)
SWEEPS: Final = SweepPolicy(daily_calls=90_000, look_again_seconds=300, lists=True)
TOKENS: Final = ("9999000000000001", "9999000000000002", "tok-fake-3")  # few, so that they meet
JITTER: Final = 0.5

Way = Literal["http", "sql", "sql_rolled_back"]  # by which a deletion is asked for
_ASK_BY_SQL: Final = text("SELECT registry.request_deletion(:card_id, 'a service', :key)")
_CONFLICTS: Final = ("23505", "55000")


class NoBells:
    """A broker that has lost every message."""

    def ring_events(self, event_ids: Sequence[uuid.UUID]) -> None:
        """Nobody hears it."""

    def ring_customers(self, customers: Sequence[int]) -> None:
        """Nobody hears it."""

    def ring_deletions(self, deletion_ids: Sequence[uuid.UUID]) -> None:
        """Nobody hears it."""


class System:
    """One example's world and registry. ``worker`` and ``web`` are the product's engines, ``observer`` is the machine's own."""

    def __init__(self, worker: Engine, web: Engine, observer: Engine, interrupter: Interrupter, spool: Spool) -> None:
        with observer.begin() as connection:
            clocks.reset(connection)
        self.worker, self.web, self.observer, self.interrupter = worker, web, observer, interrupter
        self.spool = spool
        self.clock = Clock(observer)
        self.world = World(Knobs(), self.clock.now, seed=0)
        self.ottu = Ottu(self.world, observer, self.clock, lease_seconds=LISTS.lease_seconds)
        self.watch = Watch(self.ottu.answers, LISTS.confirm_seconds, self.ottu.deletes)
        self.received: dict[uuid.UUID, None] = {}  # in order: what was acknowledged must stay
        self.standing: list[Call] = []

    def receive(self, body: bytes, interruption: Interruption | None = None) -> Receipt | None:
        """A notification arrives; ``None`` if it was not acknowledged, since its process was killed."""
        with self._checked(interruption):
            authentic = [examine(body, KEYS)]
            try:
                (receipt,) = write(self.web, authentic)
            except SQLAlchemyError:
                now = clocks.BEGAN + dt.timedelta(seconds=self.clock.now())
                (receipt,) = set_down(self.spool, authentic, now=now)
            self.received[receipt.event_id] = None
            return receipt
        return None

    def outage(self, bodies: Sequence[bytes]) -> None:
        """The database is away while these arrive: all of them are acknowledged."""
        for body in bodies:
            receipt = self.receive(body, Interruption("before_statement", 1, "away"))
            assert receipt is not None, "a notification was refused because the database is away"

    def drain(self, interruption: Interruption | None = None) -> None:
        """A web process finds the database back."""
        with self._checked(interruption):
            drain(self.web, self.spool, secret=SECRET, ring=NoBells().ring_events, rest=lambda _: False)

    def refuse(self, body: bytes) -> None:
        """A notification arrives that nobody of ours signed."""
        with contextlib.suppress(InvalidSignature):
            receive(self.web, body, KEYS)
            raise AssertionError("what is not authentic was taken")

    def process(self, event_ids: Sequence[uuid.UUID], interruption: Interruption | None = None) -> list[int]:
        """A worker takes a message that names these events."""
        with self._checked(interruption):
            return process(self.worker, event_ids, HINTS, jitter=JITTER)
        return []

    def reconcile(self, customer: int, script: Script, interruption: Interruption | None = None) -> None:
        """A worker takes a message that names this customer; it may come to stand still at Ottu's."""

        self._run(lambda: reconcile(self.worker, self.ottu, customer, LISTS, jitter=JITTER), script, interruption)

    def delete(self, deletion_id: uuid.UUID | str, script: Script, interruption: Interruption | None = None) -> None:
        """A worker takes a message that names this deletion; it may come to stand still at Ottu's."""
        which = uuid.UUID(str(deletion_id))
        self._run(lambda: delete(self.worker, self.ottu, which, DELETIONS, jitter=JITTER), script, interruption)

    def _run(self, work: Callable[[], object], script: Script, interruption: Interruption | None) -> None:
        with self._checked(interruption):
            self.ottu.script = script
            if script.stands is None:
                work()
                return
            call = Call(work, script)
            self.ottu.caller = call
            call.start()
            if call.standing:
                self.standing.append(call)

    def resume(self, call: Call, interruption: Interruption | None = None) -> None:
        """A call that stood still goes on."""
        self.standing.remove(call)
        with self._checked(interruption):
            call.resume()

    def sweep(self, interruption: Interruption | None = None) -> Due:
        """Beat's tick comes."""
        with self._checked(interruption):
            return sweep(self.worker, SWEEPS, fraction=0.5)
        return Due()

    def work(self) -> None:
        """A good moment: workers take whatever waits, and nothing goes wrong."""
        self.process(self.pending())
        for deletion in self.open_deletions():
            self.delete(deletion.deletion_id, Script())
        self.reconcile_due()

    def reconcile_due(self) -> None:
        """Workers take the messages that name customers, and nothing goes wrong."""
        for customer in self.due():
            self.reconcile(customer, Script())

    def request(
        self,
        card: Any,
        way: Way = "http",
        key: str | None = None,
        *,
        when_unlocked: bool = False,
        interruption: Interruption | None = None,
    ) -> None:
        """Somebody asks for a card's deletion, and gets the one that the rules say, or is refused."""
        before = self.watch.last
        expected = _expected(before, card, key)
        with self._checked(interruption), self.worker.connect() as connection:
            got = _ask(connection, card, way, key, when_unlocked)
            assert got in (expected, None) or (
                expected == "fresh" and got not in {d.deletion_id for d in before.deletions}
            )
            assert (got is None) is (expected is None), "who should be refused is not, or the other way round"
            if way == "sql_rolled_back":
                connection.rollback()
            else:
                connection.commit()
        if way == "sql_rolled_back":
            assert (self.watch.last.deletions, self.watch.last.cards) == (before.deletions, before.cards)

    def replay(self, deletion_id: str, interruption: Interruption | None = None) -> None:
        """An operator wants a deletion tried again."""
        with self._checked(interruption), self.worker.begin() as connection:
            deletions.replay(connection, uuid.UUID(deletion_id))

    def ask(self, owner: Owner) -> None:
        """A reader wants fresh cards of a customer, who may be one whom nothing ever named."""
        with self._checked(None):
            freshen.ask(self.worker, *owner, lane="read", bells=NoBells())

    def import_(self, owner: Owner) -> None:
        """An operator makes a customer known."""
        with self._checked(None), self.worker.begin() as connection:
            customers.add_known(connection, [owner])

    def release_brake(self) -> None:
        """An operator lets removals go on."""
        with self._checked(None), self.worker.begin() as connection:
            brake.release_brake(connection)
            customers.release_held(connection)

    def pending(self) -> list[uuid.UUID]:
        """The events that wait, oldest first."""
        pending = [e for e in self.watch.last.events if e.status == "pending"]
        return [uuid.UUID(e.event_id) for e in sorted(pending, key=lambda e: e.evidence_no)]

    def due(self) -> list[int]:
        """The numbers of the customers who are due now."""
        now = clocks.BEGAN + dt.timedelta(seconds=self.clock.now())
        due = (c for c in self.watch.last.customers if c.due_at and dt.datetime.fromisoformat(c.due_at) <= now)
        return sorted(c.id for c in due)

    def known(self) -> list[Any]:
        """The customers, those who are due soonest first."""
        return sorted(self.watch.last.customers, key=lambda c: (c.due_at or "never", c.id))

    def open_deletions(self) -> list[Any]:
        """The deletions under way, in the order of their last evidence."""
        return [d for d in self.watch.last.deletions if d.phase in OPEN]

    def cards(self) -> list[Any]:
        """The registry's cards, the active ones first."""
        order = ("active", "deleting", "unconfirmed", "removed")
        return sorted(self.watch.last.cards, key=lambda c: (order.index(c.status), c.customer, c.fingerprint))

    def check(self) -> None:
        """What must be true at any moment."""
        with self.observer.connect() as connection:
            now = Snapshot.of(connection)
        self.watch.look(now)
        check_moment(now)
        waiting = {read_waiting(file.read_bytes())["event_id"] for file in self.spool.waiting()}
        stored = waiting | {e.event_id for e in now.events}
        assert all(str(event_id) in stored for event_id in self.received), "an acknowledged notification is gone"

    def end_calls(self) -> None:
        """Let no thread stay behind: what stands still dies."""
        for call in self.standing:
            call.script.fault, call.script.at = "crash", call.script.stands or "before"
            call.resume()
        self.standing.clear()

    @contextlib.contextmanager
    def _checked(self, interruption: Interruption | None) -> Iterator[None]:
        # What the database refuses though nobody has cut it off is a bug, not a fault of the example's.
        expected = (Crash,) if interruption is None else (Crash, SQLAlchemyError)
        with contextlib.suppress(*expected), self.interrupter.armed(interruption):
            yield
        self.ottu.script, self.ottu.caller = Script(), None
        self.check()


def _ask(connection: Connection, card: Any, way: Way, key: str | None, when_unlocked: bool) -> str | None:
    """The deletion that somebody gets; ``None`` if what is asked does not go with what is there."""
    try:
        if way == "http":
            asked = deletions.request(
                connection,
                card_id=uuid.UUID(card.card_id),
                requested_by="support",
                idempotency_key=key,
                when_unlocked=when_unlocked,
            )
            return str(asked.deletion_id)
        connection.execute(text("SET LOCAL ROLE cardsync_deleter"))
        return str(connection.execute(_ASK_BY_SQL, {"card_id": card.card_id, "key": key}).scalar_one())
    except Conflict:
        return None
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) not in _CONFLICTS:
            raise
        return None


def _expected(now: Snapshot, card: Any, key: str | None) -> str | None:
    """A key's own deletion; else the one under way, or a fresh one; ``None`` for a refusal."""
    card_of = {d.deletion_id: d.card_id for d in now.deletions}
    known: dict[str, str] = {k.idempotency_key: k.deletion_id for k in now.keys}
    if key in known:
        return known[key] if card_of[known[key]] == card.card_id else None
    if card.status == "deleting":
        (open_,) = (str(d.deletion_id) for d in now.deletions if d.card_id == card.card_id and d.phase in OPEN)
        return open_
    return "fresh" if card.status == "active" else None


def forged(body: bytes, *, token: str, customer_id: str) -> bytes:
    """A genuine body with another card and another customer; under the standard scheme the signature still fits."""
    payload = json.loads(body)
    payload["token"] = {**payload.get("token", {}), "token": token, "customer_id": customer_id}
    return json.dumps(payload).encode()
