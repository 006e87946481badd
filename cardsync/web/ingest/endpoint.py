"""``POST /webhooks/ottu``: everything that happens to a notification, from its headers and bytes to a status and a body.

This is the one place where Ottu speaks to us, with a payer's browser waiting behind it. Two thin adapters feed it: the Flask
route (``web.ingest.route``), under any WSGI server, and the dispatcher on the event loop (``web.dispatch``), which ``cardsync
web`` serves for speed. They differ in how a body comes in and how a caller waits, which is what a ``Sender`` says; all else is
here.

Rules:

- Success is answered only for what is durable. After that nothing is waited for: bells are rung off this thread.
- ``make_durable`` is the one decision on durability: the group's commit, else the spool, in two seconds together.
- A refusal leaves a counter and a line without content; a flood of refusals leaves ten lines a second. So does a flood of bodies
  with one signature (``core.repeats``): the lines that are left out are counted.
- The context of structlog is one for a whole event loop: it is set after the last ``await`` of a request, never before one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import cache, partial
from http import HTTPStatus
from typing import Any, Final, Protocol, TypeVar

import structlog
from prometheus_client import Counter
from sqlalchemy.exc import SQLAlchemyError

from cardsync import metrics, traces
from cardsync.core.signature import Scheme
from cardsync.errors import InvalidSignature, MalformedBody, SpoolUnusable
from cardsync.stories.receive import Authentic, Receipt, WebhookKeys, examine, is_about_one, store, write_to_spool
from cardsync.web import headers, responses
from cardsync.web.database_breaker import WRITE_SECONDS
from cardsync.web.ingest.group_commit import GroupCommit
from cardsync.web.ingest.known_repeats import REST_SECONDS, KnownRepeats
from cardsync.web.rate_limits import RateLimitedLog
from cardsync.web.requests import announced_length, is_json_media_type
from cardsync.web.responses import Problem
from cardsync.web.services import Services

log = structlog.get_logger(__name__)

PATH: Final = "/webhooks/ottu"
# The disk's share of the two seconds, after the database had its own.
DISK_SECONDS: Final = 1.9 - WRITE_SECONDS
# A write that has gone on for this long is the database's fault. A caller that waited that long behind quick ones met a rush.
STUCK_SECONDS: Final = WRITE_SECONDS / 2

# Not the path that was asked for: a merchant may have chosen one that cannot be guessed.
_OF_A_REQUEST: Final = {"http.request.method": "POST", "url.template": PATH}

_OUTCOMES: Final[dict[int, str]] = {
    HTTPStatus.BAD_REQUEST: "malformed",
    HTTPStatus.UNAUTHORIZED: "unauthentic",
    HTTPStatus.LENGTH_REQUIRED: "no_length",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too_large",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "not_json",
    HTTPStatus.SERVICE_UNAVAILABLE: "unavailable",
}

Result = TypeVar("Result")
Group = GroupCommit[Authentic, Receipt]


@dataclass(frozen=True, slots=True)
class Head:
    """What a request's headers say that counts here; what is absent is empty."""

    content_length: str
    content_type: str
    is_chunked: bool
    request_id: str
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, a body, and the headers that are this answer's own (``web.headers`` has those of all answers)."""

    status: int
    content_type: str
    body: str
    headers: tuple[tuple[str, str], ...] = ()


class Sender(Protocol):
    """The other end of one request: how its body comes in, and how it waits. On a thread both block instead of awaiting."""

    async def examined(self, length: int, examine: Callable[[bytes], Authentic]) -> Authentic:
        """Read the whole body of ``length`` bytes and return what ``examine`` makes of it. Raises ``MalformedBody``."""
        ...

    async def written(self, group: Group, authentic: Authentic, *, wait_seconds: float) -> Receipt:
        """Write through the group's commit. Raises what the write raises, or ``TimeoutError``."""
        ...


class Endpoint:
    """What is done with a notification, whichever way it came in; one for each application."""

    def __init__(self, services: Services) -> None:
        settings = services.settings
        self.paths = frozenset((PATH, f"{PATH}/", *((settings.webhook_path,) if settings.webhook_path else ())))
        self._max_bytes = settings.max_body_bytes
        self._ack_status = settings.ack_status
        self._engine, self._spool = services.ingest_engine, services.spool
        self._bells, self._breaker = services.bells, services.database_breaker
        self._keys = WebhookKeys.of(settings.webhook_keys(), services.ring)
        metrics.begin_keys(len(self._keys.keys))
        self._database: Group = GroupCommit(self._store, is_about_one=is_about_one, name="writer")
        self._database_again: Group = GroupCommit(
            self._store, is_about_one=is_about_one, name="writer of repeats", rest_seconds=REST_SECONDS
        )
        self._known_repeats = KnownRepeats()
        self._disk: Group = GroupCommit(self._spool_all, is_about_one=lambda _: False, name="spooler")
        self._refusals = RateLimitedLog()
        self._repeats = RateLimitedLog()
        self._relay, self._kept, self._clock = services.relay, services.kept, services.clock

    async def answer(self, head: Head, sender: Sender) -> Answer:
        """Take one notification. Nothing is raised: each error has its answer."""
        span = traces.span("receive", _OF_A_REQUEST, kind="server", links=(head.traceparent,), detached=True)
        answer = await self._answer(head, sender, span)
        span.set({"http.response.status_code": answer.status})
        span.end()
        return answer

    async def _answer(self, head: Head, sender: Sender, span: traces.Span) -> Answer:
        began = time.perf_counter()
        try:
            length = announced_length(head.content_length, is_chunked=head.is_chunked, max_bytes=self._max_bytes)
            examine_ = partial(self.examine, content_type=head.content_type, trace=span.traceparent)
            receipt = await self.make_durable(await sender.examined(length, examine_), sender)
        except Exception as error:  # noqa: BLE001  (the table of errors knows them all)
            return self._refuse(_as_declared(error, head), head, began)
        span.set({"event_id": str(receipt.event_id), "outcome": receipt.status, "repeated": receipt.repeated})
        return self._accept(receipt, head, began)

    def examine(self, body: bytes, content_type: str = "", trace: str | None = None) -> Authentic:
        """Verify a notification that arrived just now. Raises ``MalformedBody`` or ``InvalidSignature``."""
        now, keep_body = self._clock.now(), self._relay.is_on
        return examine(body, self._keys, received_at=now, content_type=content_type, keep_body=keep_body, trace=trace)

    async def make_durable(self, authentic: Authentic, sender: Sender) -> Receipt:
        """Write to the database if it takes the notification in time, else to the disk.

        A write that the database does not finish in time may still succeed: both have the same id, and the second one finds a
        duplicate. While the database is known to be away no caller waits for it. Raises ``SpoolUnusable`` if neither took it.
        """
        if self._breaker.is_closed:
            database = self._writer_of(authentic)
            try:
                return await sender.written(database, authentic, wait_seconds=WRITE_SECONDS)
            except TimeoutError as error:
                if database.busy_seconds >= STUCK_SECONDS:
                    self._trip(error)
            except SQLAlchemyError as error:
                if not is_about_one(error):  # a row that the database refuses is kept too: an operator may know why
                    self._trip(error)
        try:
            return await sender.written(self._disk, authentic, wait_seconds=DISK_SECONDS)
        except TimeoutError:
            raise SpoolUnusable("the disk takes too long") from None

    def _writer_of(self, authentic: Authentic) -> Group:
        return self._database_again if authentic.new.signature_hash in self._known_repeats else self._database

    def _trip(self, error: Exception) -> None:
        """Open the breaker, so that all who wait for the database now go to the disk at once."""
        self._breaker.trip(error)
        self._database.give_up()
        self._database_again.give_up()

    def _store(self, authentic: Sequence[Authentic]) -> Sequence[Receipt]:
        receipts = store(self._engine, authentic, self._kept)
        self._relay.told(any(receipt.is_relaying for receipt in receipts))
        for one, receipt in zip(authentic, receipts, strict=True):
            if receipt.repeated:
                self._known_repeats.add(one.new.signature_hash)
        return receipts

    def _spool_all(self, authentic: Sequence[Authentic]) -> Sequence[Receipt | Exception]:
        return write_to_spool(self._spool, authentic, now=self._clock.now())

    def _accept(self, receipt: Receipt, head: Head, began: float) -> Answer:
        """Ring, count and log. Both values of the body are our own words: nothing to escape, so no encoder."""
        headers.begin(head.request_id)
        if receipt.to_ring:
            self._bells.ring()
        _hints(receipt.status).inc()
        _signatures(receipt.key_index, receipt.scheme).inc()
        _key_used(receipt.key_index)
        event_id = str(receipt.event_id)
        facts = {"event_id": event_id, "outcome": receipt.status, "scheme": receipt.scheme, "key": receipt.key_index}
        if receipt.repeated:
            metrics.REPEATED_HINTS.inc()
            self._repeats.info("repeated_hint", **facts)
        else:
            log.info("hint", **facts)
        metrics.HINT_SECONDS.observe(time.perf_counter() - began)
        body = f'{{"status": "{receipt.status}", "event_id": "{event_id}"}}'
        return Answer(self._ack_status, "application/json", body)

    def _refuse(self, error: Exception, head: Head, began: float) -> Answer:
        """Answer for a refusal, and where neither database nor disk takes anything: Ottu does not send that again."""
        headers.begin(head.request_id)
        problem = responses.problem_of(error)
        outcome = _OUTCOMES.get(problem.status, "error")
        if isinstance(error, Problem | MalformedBody | InvalidSignature):
            self._refusals.warning("hint_refused", outcome=outcome)
        _hints(outcome).inc()
        metrics.HINT_SECONDS.observe(time.perf_counter() - began)
        return Answer(problem.status, responses.MEDIA_TYPE, responses.as_promised(problem.body), problem.headers)


@cache
def _hints(outcome: str) -> Counter:
    """The counter of an outcome; finding it by its label costs more than counting."""
    return metrics.HINTS.labels(outcome)


@cache
def _signatures(key_index: int, scheme: Scheme) -> Counter:
    return metrics.SIGNATURES.labels(str(key_index), scheme)


_used: dict[int, float] = {}  # key -> when that was written down last


def _key_used(key_index: int) -> None:
    """Write down that a notification came and which key vouched for it: once a second is enough, and costs no hint anything."""
    now = time.time()
    if now - _used.get(key_index, 0.0) >= 1.0:
        _used[key_index] = now
        metrics.LAST_HINT.set(now)
        metrics.KEY_LAST_USED.labels(str(key_index)).set(now)


def _as_declared(error: Exception, head: Head) -> Exception:
    """A body that is no JSON, declared as something else, is of another kind; JSON under any name is judged as what it is."""
    if isinstance(error, MalformedBody) and head.content_type and not is_json_media_type(head.content_type):
        return Problem("unsupported_media_type", "The body must be JSON.")
    return error


def run_blocking(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end on this thread, for a ``Sender`` whose waits block and so never suspend it."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        result: Result = ended.value
        return result
    coroutine.close()
    raise AssertionError("a sender on a thread must block, not await")
