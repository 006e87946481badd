"""``deliver``: notifications and changes go out to endpoints of the merchant's. *Ticket, call, apply once*, in turns.

A turn is one short transaction: what ended since the last one is settled, and what is due is claimed. Then the claimed messages
are handed to the sender, which returns at once. So no transaction is open during a call, and a call that takes ten seconds holds
up nothing but itself. What a killed worker had claimed is due again when the claim runs out: at least once.

Rules: whatever an endpoint does is its own trouble alone (``core.delivery``). A turn that fails loses nothing: the next one
settles what ended, under the guard of its attempt. A message that cannot be sent soon after its claim is not sent at all, since
another worker may hold it by then.
"""

from __future__ import annotations

import datetime as dt
import json
import queue
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy import Connection, Engine

from cardsync import metrics, traces
from cardsync.ciphers import KeyRing, opened_body
from cardsync.core import delivery, webhooks
from cardsync.core.delivery import CALL_SECONDS
from cardsync.db.clock import DatabaseClock
from cardsync.errors import CardsyncError, places
from cardsync.outgoing import Ended, Message, Sender
from cardsync.store.deliveries import batches, claims
from cardsync.store.deliveries.batches import Batch
from cardsync.store.deliveries.claims import CLAIM_SECONDS, Claimed, Heard
from cardsync.stories.endpoints import opened

log = structlog.get_logger(__name__)

GIVE_UP_EVERY_SECONDS: Final = 10.0
SEND_WITHIN_SECONDS: Final = (
    CLAIM_SECONDS - CALL_SECONDS - 2.0
)  # of the claim, so that the call ends before the claim does
JSON: Final = "application/json"
UNREADABLE_WAIT_SECONDS: Final = 60.0  # until the settings name the secret key again

Job = Claimed | Batch


@dataclass(frozen=True, slots=True)
class Turn:
    """What a turn did. ``is_idle``: nothing ended, and nothing was due. ``any_endpoint``: something may be due at all."""

    claimed: int
    settled: int
    any_endpoint: bool = True

    @property
    def is_idle(self) -> bool:
        """Whether there was nothing to do."""
        return self.claimed == self.settled == 0


class Courier:
    """Delivers for one process. ``turn`` is called by one thread; ``woken`` is set when a call has ended.

    ``clock`` says the time of sending: the database's, told at each claim, since receivers refuse a message whose time is minutes
    off, and this host's clock may be. ``jitter`` spreads waits.
    """

    def __init__(
        self,
        engine: Engine,
        ring: KeyRing,
        sender: Sender,
        *,
        clock: DatabaseClock | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._engine, self._ring, self._sender = engine, ring, sender
        self._clock, self._jitter = clock or DatabaseClock(), jitter
        self._ended: queue.SimpleQueue[tuple[Job, Ended]] = queue.SimpleQueue()
        self._unsettled: list[tuple[Job, Ended]] = []
        self._give_up_at = float("-inf")
        self.woken = threading.Event()
        self.under_way = 0

    def turn(self, *, claim: bool = True) -> Turn:
        """Settle what has ended, claim what is due, and begin to send it. Raises ``DBAPIError``; the next turn goes on."""
        self.woken.clear()
        self._collect()
        began = time.monotonic()
        jobs: list[Job] = []
        with self._engine.begin() as connection:
            if not self._unsettled and not claims.any_endpoint(connection):
                self._give_up(connection)
                return Turn(0, 0, any_endpoint=False)
            after = _settle(connection, self._unsettled, self._jitter)
            if claim:
                self._give_up(connection)
                jobs = [*claims.claim(connection), *batches.claim(connection)]
                if jobs:
                    self._clock.told(max(job.claimed_at for job in jobs))
        settled, self._unsettled = len(self._unsettled), []
        for one in after:
            one()
        if time.monotonic() - began < SEND_WITHIN_SECONDS:
            for job in jobs:
                self._begin(job)
        return Turn(len(jobs), settled)

    def _collect(self) -> None:
        while True:
            try:
                self._unsettled.append(self._ended.get_nowait())
            except queue.Empty:
                return
            self.under_way -= 1

    def _give_up(self, connection: Connection) -> None:
        if time.monotonic() < self._give_up_at:
            return
        given_up = claims.give_up(connection)
        if not given_up:
            self._give_up_at = time.monotonic() + GIVE_UP_EVERY_SECONDS
        else:
            log.warning("deliveries_given_up", count=len(given_up))
            for endpoint, count in Counter(given_up).items():
                metrics.DELIVERIES.labels(endpoint, "given_up").inc(count)

    def _begin(self, job: Job) -> None:
        """Hand a message to the sender; one that cannot be made ends at once, and holds up no other."""
        self.under_way += 1
        try:
            message = self._message(job)
        except Exception as error:  # noqa: BLE001  (the message's border: the others of the turn are sent)
            if not isinstance(error, CardsyncError):
                log.error(
                    "message_not_made",
                    endpoint_id=str(job.endpoint_id),
                    error=type(error).__name__,
                    where=places(error),
                )
            self._note(job, Ended(None, _unsendable(error)))
            return
        of = {"endpoint_id": str(job.endpoint_id), "content": "changes" if isinstance(job, Batch) else "notification"}
        span = traces.span("deliver", of, kind="client", detached=True)

        def ended(end: Ended) -> None:
            self._note(job, end)  # first: whatever becomes of the trace, the place is free again
            span.set({"http.response.status_code": end.status})
            span.end(None if end.status is not None and end.status < 300 else "not_taken")

        self._sender.send(message, ended)

    def _note(self, job: Job, ended: Ended) -> None:
        self._ended.put((job, ended))
        self.woken.set()

    def _message(self, job: Job) -> Message:
        now = self._clock.now()
        secrets = opened(job.endpoint_id, job.secrets, self._ring)
        if isinstance(job, Batch):
            body, kind, message_id = batch_body(job, now), JSON, job.message_id
        else:
            if job.body is None:
                raise _Erased("the body was erased")
            body = opened_body(self._ring, job.event_id, job.body)
            kind, message_id = job.content_type or JSON, str(job.event_id)
        return message(job.url, message_id, body, secrets, content_type=kind, now=now)


class _Erased(CardsyncError):
    """A delivery whose body is gone."""


def message(
    url: str, message_id: str, body: bytes, secrets: Sequence[bytes], *, content_type: str, now: dt.datetime
) -> Message:
    """A signed message, as every endpoint gets it. ``now`` is the database's moment."""
    headers: Mapping[str, str] = webhooks.headers(message_id, int(now.timestamp()), body, secrets)
    return Message(url, {"Content-Type": content_type, **headers}, body)


def batch_body(batch: Batch, now: dt.datetime) -> bytes:
    """A batch of changes as it is sent."""
    moment = now.astimezone(dt.UTC).isoformat(timespec="milliseconds")
    changes = [batches.as_json(change) for change in batch.changes]
    data = {"changes": changes, "head": batch.head, "epoch": batch.epoch}
    content = {"type": "registry.changes", "timestamp": moment, "data": data}
    return json.dumps(content, ensure_ascii=False).encode()


_ERASED: Final = "the body was erased"
_NO_KEY: Final = "no secret key that is set here reads it"
_NOT_MADE: Final = "the message could not be made"


def _unsendable(error: Exception) -> str:
    if isinstance(error, CardsyncError):
        return _ERASED if isinstance(error, _Erased) else _NO_KEY
    return _NOT_MADE


After = Callable[[], None]


def _settle(connection: Connection, ended: Iterable[tuple[Job, Ended]], jitter: Callable[[], float]) -> list[After]:
    """Write what became of messages; what is to be counted and logged once that is committed."""
    after: list[After] = []
    notifications: list[tuple[Claimed, Ended]] = []
    for job, end in ended:
        if isinstance(job, Batch):
            after += _settle_batch(connection, job, end, jitter())
        else:
            notifications.append((job, end))
    return after + _settle_notifications(connection, notifications, jitter)


def _settle_notifications(
    connection: Connection, ended: Sequence[tuple[Claimed, Ended]], jitter: Callable[[], float]
) -> list[After]:
    rows = {job.delivery_id: _judged(job, end, jitter()) for job, end in ended}
    own = claims.settle(connection, list(rows.values()))
    by_endpoint: dict[uuid.UUID, list[tuple[Claimed, Ended]]] = {}
    for job, end in ended:
        if job.delivery_id in own:
            by_endpoint.setdefault(job.endpoint_id, []).append((job, end))
    after: list[After] = []
    for endpoint_id in sorted(by_endpoint):
        theirs = by_endpoint[endpoint_id]
        after += _told(connection, endpoint_id, theirs)
        after += [_counted(job, rows[job.delivery_id]) for job, _ in theirs]
    return after


def _judged(job: Claimed, end: Ended, jitter: float) -> claims.Ended:
    """What becomes of a delivery whose attempt ended like this."""
    if end.error == _NO_KEY:
        return _tried_again(job, end, UNREADABLE_WAIT_SECONDS)
    if delivery.verdict(end.status) == "delivered":
        return claims.Ended(job.delivery_id, job.endpoint_id, job.attempt, "done", 0.0, end.status, None)
    wished = delivery.wait_seconds(job.attempt, jitter=jitter, retry_after_seconds=end.retry_after_seconds)
    wait = delivery.wait_within_days(job.age_seconds, wished)
    if end.error == _ERASED or wait is None:
        return claims.Ended(job.delivery_id, job.endpoint_id, job.attempt, "failed", 0.0, end.status, _why(end))
    return _tried_again(job, end, wait)


def _tried_again(job: Claimed, end: Ended, wait: float) -> claims.Ended:
    asked = end.retry_after_seconds
    said = _why(end) + claims.asked_for(asked)
    return claims.Ended(job.delivery_id, job.endpoint_id, job.attempt, "pending", wait, end.status, said, asked)


def _why(end: Ended) -> str:
    return end.error or f"answered {end.status}"


def _told(connection: Connection, endpoint_id: uuid.UUID, ended: Sequence[tuple[Claimed, Ended]]) -> list[After]:
    """Let the endpoint's circuit breaker hear how its deliveries ended; disable an endpoint that is gone."""
    heard: Heard = claims.breaker(connection, endpoint_id)
    found, error, was_delivered, is_gone = heard.breaker, None, False, False
    for job, end in ended:
        if end.error in (_ERASED, _NO_KEY):
            continue  # ours, and not the endpoint's
        verdict = delivery.verdict(end.status)
        is_gone = is_gone or verdict == "gone"
        was_delivered = was_delivered or verdict == "delivered"
        error = None if verdict == "delivered" else _why(end)
        found = delivery.heard(found, str(job.delivery_id), heard.now, delivered=verdict == "delivered")
    if found != heard.breaker or (was_delivered and (heard.is_silent or heard.breaker.failing)):
        claims.keep_breaker(connection, endpoint_id, found, delivered=was_delivered, error=error)
    woken = delivery.woken(heard.breaker, found, heard.failing_seconds) if was_delivered else None
    if woken is not None:
        claims.wake(connection, endpoint_id, made_after=heard.delivered_at if woken == "recent" else None)
    elif found.opened_at is not None:
        claims.wake(connection, endpoint_id, longest_seconds=delivery.LONGEST_PROBE_SECONDS)
    name = ended[0][0].endpoint
    if is_gone and claims.disable(connection, endpoint_id, "gone", "answered 410: it wants no more"):
        return []  # told with the other states that wait for a person (``workers.lateness``)
    if found.opened_at is not None and heard.breaker.opened_at is None:
        return [lambda: log.warning("endpoint_circuit_opened", endpoint=name, error=error)]
    if found.opened_at is None and heard.breaker.opened_at is not None:
        return [lambda: log.warning("endpoint_circuit_closed", endpoint=name)]
    return []


def _counted(job: Claimed, end: claims.Ended) -> After:
    outcome = {"done": "delivered", "failed": "given_up", "pending": "failed"}[end.status]

    def tell() -> None:
        metrics.DELIVERIES.labels(job.endpoint, outcome).inc()
        if end.status != "done":
            facts = {"endpoint": job.endpoint, "delivery_id": job.delivery_id, "attempt": job.attempt}
            log.info("delivery_failed", **facts, outcome=outcome, error=end.error)

    return tell


def _settle_batch(connection: Connection, batch: Batch, end: Ended, jitter: float) -> list[After]:
    verdict = delivery.verdict(end.status)
    if verdict == "delivered":
        if not batches.delivered(connection, batch):
            return []
        return [lambda: metrics.DELIVERIES.labels(batch.endpoint, "delivered").inc()]
    longest = delivery.LONGEST_OF_A_BATCH_SECONDS
    asked = min(end.retry_after_seconds or 0.0, longest)
    wait = delivery.wait_seconds(batch.attempt, jitter=jitter, retry_after_seconds=asked, longest_seconds=longest)
    if not batches.failed(connection, batch, wait_seconds=wait, error=_why(end)):
        return []
    after: list[After] = [lambda: metrics.DELIVERIES.labels(batch.endpoint, "failed").inc()]
    because: claims.Because | None = "gone" if verdict == "gone" else None
    if batch.failing_seconds > delivery.DISABLE_SECONDS:
        because = because or "failing"
    if because is not None:
        claims.disable(connection, batch.endpoint_id, because, _why(end))
    return after
