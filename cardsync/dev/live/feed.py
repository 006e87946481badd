"""Follow what happens in the registry: the change feed, and the calls to Ottu.

The feed is read as any service of the merchant would read it: ``LISTEN``, then ``WHERE seq > last ORDER BY seq``.

Rules: it only reads, in a thread of its own. While the database is away it waits. It reads no token.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from sqlalchemy import Connection, Engine, text

from cardsync.store.calls import gate
from cardsync.store.calls.gate import GateState

POLL_SECONDS: Final = 0.25  # for what sends no notification; a change does
RETRY_SECONDS: Final = 1.0  # while the database is away
BATCH: Final = 500
# A look's row has a time from before its commit. So each reading goes back this far, and leaves out what it has seen.
OVERLAP_SECONDS: Final = 2.0
OVERLAP_LOOKS: Final = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One row of ``registry.card_changes``; ``hinted_at`` is when the last hint of this card came in."""

    seq: int
    at: float  # seconds since 1970, by the database's clock, as everywhere here
    environment: str
    customer_id: str
    change: str
    fields: tuple[str, ...]
    cause: str
    hinted_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One reconciliation: a call for a customer's list at Ottu. ``settled`` if no other is due."""

    number: int
    environment: str
    customer_id: str
    outcome: str
    asked_at: float
    finished_at: float
    suspicious: int
    settled: bool


@dataclass(frozen=True, slots=True)
class News:
    """What one reading found, oldest first. It, or an earlier one, contains all changes that its looks made."""

    changes: tuple[Change, ...]
    looks: tuple[Look, ...]
    gate: GateState


_NOW = text("SELECT extract(epoch FROM clock_timestamp())::float8")
_HEAD = text("SELECT coalesce(max(seq), 0) FROM registry.card_changes")
_CHANGES = text("""
    SELECT f.seq, extract(epoch FROM f.at)::float8 AS at, f.environment, f.customer_id, f.change, f.fields, f.cause,
        (SELECT extract(epoch FROM e.received_at)::float8 FROM cardsync.events AS e
         WHERE e.environment = f.environment AND e.customer_id = f.customer_id AND e.card_id = f.card_id
         ORDER BY e.evidence_no DESC LIMIT 1) AS hinted_at
    FROM registry.card_changes AS f WHERE f.seq > :seq ORDER BY f.seq LIMIT :limit
""")
_LOOKS = text("""
    SELECT o.observation_no AS number, c.environment, c.customer_id, o.outcome,
        extract(epoch FROM o.asked_at)::float8 AS asked_at, extract(epoch FROM o.finished_at)::float8 AS finished_at,
        o.suspicious, c.due_at IS NULL AS settled
    FROM cardsync.observations AS o JOIN cardsync.customers AS c ON c.id = o.customer
    WHERE o.asked_at > clock_timestamp() - interval '2 minutes' AND o.finished_at > to_timestamp(:since)
    ORDER BY o.finished_at LIMIT :limit
""")


class Feed:
    """Reads from now on until ``stop``, and passes what it finds to ``tell``, which is called in the feed's thread."""

    def __init__(self, engine: Engine, tell: Callable[[News], None]) -> None:
        self._engine = engine
        self._tell = tell
        self._seq: int | None = None
        self._since = 0.0
        self._seen: deque[int] = deque(maxlen=OVERLAP_LOOKS)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        """Start reading what happens from now on. Raises ``SQLAlchemyError`` if the database is away now."""
        with self._engine.connect() as connection:
            self._seq = connection.execute(_HEAD).scalar_one()
            self._since = connection.execute(_NOW).scalar_one()
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._engine.connect() as connection:
                    connection.execute(text("LISTEN registry_card_changes"))
                    while not self._stopping.is_set():
                        self._tell(self._read(connection))
                        self._wait(connection)
            except Exception:  # noqa: BLE001  (a thread's border; nothing else reads for the screen)
                self._stopping.wait(RETRY_SECONDS)

    def _wait(self, connection: Connection) -> None:
        """Wait for a notification, at most until the next reading is due."""
        driver: Any = connection.connection.driver_connection
        try:
            for _ in driver.notifies(timeout=POLL_SECONDS, stop_after=1):
                pass
        except psycopg.Error:  # SQLAlchemy did not see the error, and would keep the dead connection
            connection.invalidate()
            raise

    def _read(self, connection: Connection) -> News:
        # Looks first: a look and its changes are committed together, so the changes that are read afterwards contain them.
        looks = self._read_looks(connection)
        rows = connection.execute(_CHANGES, {"seq": self._seq, "limit": BATCH}).mappings()
        changes = tuple(Change(**{**row, "fields": tuple(row["fields"])}) for row in rows)
        if changes:
            self._seq = changes[-1].seq
        return News(changes, looks, gate.state(connection))

    def _read_looks(self, connection: Connection) -> tuple[Look, ...]:
        rows = connection.execute(_LOOKS, {"since": self._since - OVERLAP_SECONDS, "limit": BATCH}).mappings()
        looks = tuple(Look(**row) for row in rows if row["number"] not in self._seen)
        self._seen.extend(look.number for look in looks)
        if looks:
            self._since = max(self._since, looks[-1].finished_at)
        return looks
