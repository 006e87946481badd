"""The bells: publishing on a thread of its own, so that whoever rings never waits for the broker.

What arrives within a moment goes out as one message. When the broker is away the queue fills, and what does not fit is left to
the sweep: a lost bell is rung again within seconds of the broker's return.
"""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import structlog
from celery import Celery

from cardsync import metrics
from workers.app import (
    CUSTOMERS,
    DELETE_CARD,
    DELETIONS,
    INBOX,
    PROCESS_EVENTS,
    RECONCILE_CUSTOMER,
)

log = structlog.get_logger(__name__)

WAITING_MAX: Final = 10_000
EVENTS_A_MESSAGE: Final = 100  # what one transaction settles (store.inbox)
# After a failed publish: rather than try again for each bell, and wait a second each time, drop those of this time.
QUIET_SECONDS: Final = 2.0
CLOSE_SECONDS: Final = 3.0
# By then the sweep has rung again: what workers could not answer in time must not stand before what is fresh.
EXPIRES_SECONDS: Final = 30.0
# After a message: so long for each event in it, up to the bound. A publish costs as much of the processor as answering a hint.
# A few events a second are each rung for at once; a flood of them shares messages, and leaves the processor to answers.
GATHER_SECONDS_AN_EVENT: Final = 0.004
GATHER_SECONDS: Final = 0.1


class _Deletion(NamedTuple):
    """A deletion's id, told from an event's."""

    deletion_id: uuid.UUID


_Bell = uuid.UUID | int | _Deletion  # an event, a customer, a deletion


class Ringer:
    """Rings for events, customers and deletions. One for each process; ``close`` sends what is waiting, within a bound."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._waiting: queue.Queue[_Bell | None] = queue.Queue(WAITING_MAX)
        self._quiet_until = 0.0
        self._thread = threading.Thread(target=self._run, name="bells", daemon=True)
        self._thread.start()

    def ring_events(self, event_ids: Sequence[uuid.UUID]) -> None:
        """Say that these events are pending; returns at once."""
        self._put(event_ids)

    def ring_customers(self, customers: Sequence[int]) -> None:
        """Say that these customers are due; returns at once."""
        self._put(customers)

    def ring_deletions(self, deletion_ids: Sequence[uuid.UUID]) -> None:
        """Say that these deletions are due; returns at once."""
        self._put([_Deletion(deletion_id) for deletion_id in deletion_ids])

    def close(self) -> None:
        """Send what waits, for three seconds at the most, and end the thread."""
        try:
            self._waiting.put(None, timeout=CLOSE_SECONDS)
        except queue.Full:
            return
        self._thread.join(CLOSE_SECONDS)

    def _put(self, ids: Sequence[_Bell]) -> None:
        for one in ids:
            try:
                self._waiting.put_nowait(one)
            except queue.Full:
                metrics.RINGS.labels("dropped").inc()

    def _run(self) -> None:
        for batch in self._batches():
            # First, since a person waits for it, and few.
            for deletion in dict.fromkeys(i for i in batch if isinstance(i, _Deletion)):
                self._publish(DELETE_CARD, DELETIONS, str(deletion.deletion_id))
            events = [str(i) for i in batch if isinstance(i, uuid.UUID)]
            for start in range(0, len(events), EVENTS_A_MESSAGE):
                self._publish(PROCESS_EVENTS, INBOX, events[start : start + EVENTS_A_MESSAGE])
            # A customer needs one bell, however often it was rung for.
            for customer in dict.fromkeys(i for i in batch if isinstance(i, int)):
                self._publish(RECONCILE_CUSTOMER, CUSTOMERS, customer)
            time.sleep(min(len(events) * GATHER_SECONDS_AN_EVENT, GATHER_SECONDS))

    def _batches(self) -> Iterator[list[_Bell]]:
        """Whatever is waiting, as soon as something is."""
        while True:
            batch: list[_Bell] = []
            first = self._waiting.get()
            if first is None:
                return
            batch.append(first)
            while len(batch) < WAITING_MAX:
                try:
                    item = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    yield batch
                    return
                batch.append(item)
            yield batch

    def _publish(self, task: str, to: str, argument: list[str] | int | str) -> None:
        if time.monotonic() < self._quiet_until:
            metrics.RINGS.labels("dropped").inc()
            return
        # Twice: a pooled connection may have died while nobody rang, and the second try opens a new one.
        for is_last in (False, True):
            try:
                # The text of the arguments, for monitors, costs more than sending them.
                self._app.send_task(
                    task,
                    args=[argument],
                    queue=to,
                    retry=False,
                    expires=EXPIRES_SECONDS,
                    argsrepr="",
                    kwargsrepr="",
                )
            except Exception as error:  # noqa: BLE001  (a thread's border; brokers' clients raise many kinds)
                if is_last:
                    self._quiet_until = time.monotonic() + QUIET_SECONDS
                    metrics.RINGS.labels("failed").inc()
                    log.warning("bell_not_rung", task=task, error=type(error).__name__)
            else:
                metrics.RINGS.labels("rung").inc()
                return
