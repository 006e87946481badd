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

from cardsync.core.call_budget import LANES
from cardsync.core.deletion import OPEN
from cardsync.core.idempotency import hashed_key
from cardsync.core.spool_format import read_record
from cardsync.dev.simulator.knobs import Knobs
from cardsync.dev.simulator.world import Owner, World
from cardsync.errors import Conflict, InvalidSignature
from cardsync.spool import Spool
from cardsync.store import customers, feed, freshness
from cardsync.store.deletions import requests
from cardsync.stories.claim import claim_deletions, claim_events, claim_looks
from cardsync.stories.delete import DeletePolicy, delete
from cardsync.stories.drain import drain
from cardsync.stories.process import HintPolicy, process
from cardsync.stories.receive import Receipt, WebhookKeys, examine, store, write_to_spool
from cardsync.stories.reconcile import CountedTicket, ReconcilePolicy, look, reconcile
from cardsync.stories.release_brake import release_brake
from cardsync.stories.sweep import SweepPolicy, sweep
from tests import payloads
from tests.factories import RING, SECRET
from tests.machine import clock as clocks
from tests.machine.calls import Ottu
from tests.machine.clock import Clock
from tests.machine.consumer import Consumer
from tests.machine.interruptions import Crash, Interrupter, Interruption
from tests.machine.invariants import Snapshot, Watch, check_moment
from tests.machine.scripts import Call, Script

KEYS: Final = WebhookKeys.of([payloads.KEY], RING)
HINTS: Final = HintPolicy(SECRET, believed=False, ring=RING)
LISTS: Final = ReconcilePolicy(
    fingerprint_key=SECRET,
    ring=RING,
    confirm_seconds=120.0,
    daily_calls=90_000,
    call_seconds=10.0,
    brake_share=0.05,
    brake_floor=1,  # so low that the brake is met: there are three customers
)
DELETIONS: Final = DeletePolicy(LISTS.ring, daily_calls=LISTS.daily_calls, call_seconds=LISTS.call_seconds)
SWEEPS: Final = SweepPolicy(daily_calls=90_000, look_again_seconds=300, lists=True)
TOKENS: Final = ("9999000000000001", "9999000000000002", "tok-fake-3")  # few, so that they meet
JITTER: Final = 0.5
MANY: Final = 100  # more than there ever are

Way = Literal["http", "sql", "sql_rolled_back"]  # by which a deletion is asked for
_ASK_BY_SQL: Final = text("SELECT registry.request_deletion(:card_id, 'a service', :key)")
_CONFLICTS: Final = ("23505", "55000")


class NoBells:
    """A broker that has lost every message."""

    are_in_vain = False

    def ring(self) -> None:
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
        # In order, each with the hash of its signature: what was acknowledged must stay.
        self.received: dict[uuid.UUID, str] = {}
        self.standing: list[Call] = []
        self.consumer = Consumer(worker, observer, self.clock)

    def receive(self, *bodies: bytes, interruption: Interruption | None = None) -> list[Receipt] | None:
        """Notifications arrive at once, equal ones among them: one statement of the database's, or one segment of the spool.

        ``None`` if they were not acknowledged, since their process was killed.
        """
        with self._checked(interruption):
            now = clocks.BEGAN + dt.timedelta(seconds=self.clock.now())
            authentic = [examine(body, KEYS, received_at=now) for body in bodies]
            try:
                receipts = store(self.web, authentic)
            except SQLAlchemyError:
                receipts = []
                for receipt in write_to_spool(self.spool, authentic, now=now):
                    assert isinstance(receipt, Receipt), "there is room in the spool, and a notification was refused"
                    receipts.append(receipt)
            for receipt, one in zip(receipts, authentic, strict=True):
                self.received[receipt.event_id] = one.new.signature_hash.hex()
            _check_equal_bodies(bodies, receipts)
            return receipts
        return None

    def outage(self, bodies: Sequence[bytes]) -> None:
        """The database is away while these arrive: all of them are acknowledged."""
        if bodies:
            receipts = self.receive(*bodies, interruption=Interruption("before_statement", 1, "away"))
            assert receipts is not None, "a notification was refused because the database is away"

    def drain(self, interruption: Interruption | None = None) -> None:
        """A web process finds the database back."""
        with self._checked(interruption):
            drain(self.web, self.spool, keys=RING, kept=None, ring=NoBells().ring, rest=lambda _: False)

    def refuse(self, body: bytes) -> None:
        """A notification arrives that nobody of ours signed."""
        with contextlib.suppress(InvalidSignature):
            store(self.web, [examine(body, KEYS)])
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

    def sweep(self, interruption: Interruption | None = None) -> None:
        """Beat's tick comes."""
        with self._checked(interruption):
            sweep(self.worker, SWEEPS, fraction=0.5)

    def claim(self, limit: int = MANY, interruption: Interruption | None = None) -> list[CountedTicket]:
        """A worker with that number of free threads folds what waits and claims the most urgent looks."""
        tickets: list[CountedTicket] = []
        with self._checked(interruption):
            tickets += claim_looks(self.worker, LISTS, LANES, limit=limit, jitter=JITTER, hints=HINTS).tickets
            claim_events(self.worker, HINTS, repeated=True, limit=MANY, jitter=JITTER)
        return tickets

    def look(self, ticket: CountedTicket, script: Script, interruption: Interruption | None = None) -> None:
        """A worker's thread asks about a claimed customer; it may come to stand still at Ottu's."""
        self._run(lambda: look(self.worker, self.ottu, ticket, LISTS, jitter=JITTER), script, interruption)

    def take_what_is_due(self, interruption: Interruption | None = None) -> list[int]:
        """A worker claims and does what is due by now, and nothing but the claim is interrupted; who was looked at."""
        deletions: list[uuid.UUID] = []
        with self._checked(interruption):
            deletions += claim_deletions(self.worker, LISTS, limit=MANY).deletion_ids
        for deletion_id in deletions:
            self.delete(deletion_id, Script())
        tickets = self.claim(interruption=interruption)
        for ticket in tickets:
            self.look(ticket, Script())
        return [ticket.ticket.customer for ticket in tickets]

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
        with self._checked(interruption), self.worker.connect() as connection:
            login: str = connection.execute(text("SELECT session_user")).scalar_one()
            moment = clocks.BEGAN + dt.timedelta(seconds=self.clock.now())  # time may have passed since the last look
            expected = _expected(before, card, None if key is None else hashed_key(f"sql:{login}", key), moment)
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
            requests.replay(connection, uuid.UUID(deletion_id))

    def ask(self, owner: Owner) -> None:
        """A reader wants fresh cards of a customer, who may be one that nothing ever named."""
        with self._checked(None), self.worker.begin() as connection:
            freshness.ask(connection, freshness.meet(connection, *owner).customer)

    def import_(self, owner: Owner) -> None:
        """An operator makes a customer known."""
        with self._checked(None), self.worker.begin() as connection:
            customers.add_known(connection, [owner])

    def release_brake(self) -> None:
        """An operator lets removals go on."""
        with self._checked(None):
            release_brake(self.worker, LISTS.brake_limits)

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
        records = (record.content for file in self.spool.waiting() for record in self.spool.read(file))
        waiting = {str(read_record(content).event_id) for content in records if content is not None}
        stored = waiting | {e.event_id for e in now.events}
        # One that waited on disk and turned out to be a repeat is folded into the row of another one.
        folded = {str(e.signature_hash).removeprefix("\\x") for e in now.events if e.repeated}
        gone = [e for e, signature in self.received.items() if str(e) not in stored and signature not in folded]
        assert not gone, "an acknowledged notification is gone"

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
        with self.worker.begin() as connection:  # a worker hears of every commit that asks by SQL
            feed.number_waiting(connection)
        self.check()


def _check_equal_bodies(bodies: Sequence[bytes], receipts: Sequence[Receipt]) -> None:
    events: dict[bytes, uuid.UUID] = {}
    for body, receipt in zip(bodies, receipts, strict=True):
        assert events.setdefault(body, receipt.event_id) == receipt.event_id, "equal bodies became two events"


def _ask(connection: Connection, card: Any, way: Way, key: str | None, when_unlocked: bool) -> str | None:
    """The deletion that somebody gets; ``None`` if what is asked does not go with what is there."""
    try:
        if way == "http":
            asked = requests.request(
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


def _expected(now: Snapshot, card: Any, key: str | None, moment: dt.datetime) -> str | None:
    """A key's own deletion; else the one under way, or just refused, or a fresh one; ``None`` for a refusal."""
    card_of = {d.deletion_id: d.card_id for d in now.deletions}
    known: dict[str, str] = {k.idempotency_key: k.deletion_id for k in now.keys}
    if key in known:
        return known[key] if card_of[known[key]] == card.card_id else None
    if card.status == "deleting":
        (open_,) = (str(d.deletion_id) for d in now.deletions if d.card_id == card.card_id and d.phase in OPEN)
        return open_
    if card.status != "active":
        return None
    mine = sorted((d for d in now.deletions if (d.card_id, d.life) == (card.card_id, card.life)), key=_requested)
    return str(mine[-1].deletion_id) if mine and _is_just_refused(now, mine[-1], moment) else "fresh"


def _requested(deletion: Any) -> tuple[dt.datetime, int]:
    return _moment(deletion.requested_at), deletion.since_no


def _moment(said: Any) -> dt.datetime:
    return said if isinstance(said, dt.datetime) else dt.datetime.fromisoformat(said)


def _is_just_refused(now: Snapshot, deletion: Any, moment: dt.datetime) -> bool:
    """Whether Ottu refused within an hour, and the agreements that lock the card are still its own."""
    if deletion.phase != "blocked" or moment - _moment(deletion.finished_at) >= dt.timedelta(hours=1):
        return False
    still = {a.agreement_id for a in now.agreements if a.card_id == deletion.card_id}
    return not deletion.locked_by or not still.isdisjoint(deletion.locked_by)


def forged(body: bytes, *, token: str, customer_id: str) -> bytes:
    """A genuine body with another card and another customer; under the standard scheme the signature still fits."""
    payload = json.loads(body)
    payload["token"] = {**payload.get("token", {}), "token": token, "customer_id": customer_id}
    return json.dumps(payload).encode()


def altered(body: bytes, owner: Owner, token: str, n: int) -> bytes:
    """A genuine body with another owner, card, payment and agreement, and with flags that nobody signed; the n-th of many."""
    payload = json.loads(body)
    payload |= {"is_sandbox": owner[0] == "sandbox", "session_id": f"{n:040d}", "agreement": {"id": "agreement-a"}}
    payload["token"] = payload.get("token", {}) | {
        "token": token,
        "customer_id": owner[1],
        "agreements": ["agreement-a", "agreement-b"],
        "is_preferred": True,
        "cvv_required": False,
        "name_on_card": f"FAKE ATTACKER {n}",
    }
    return json.dumps(payload).encode()
