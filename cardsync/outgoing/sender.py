"""Sends messages to endpoints: any number at once, on an event loop in a thread of its own, each within its time.

A slow endpoint holds a socket and nothing else: no thread of the worker's, and no other endpoint's place. If the look-up of its
name is slow, it holds one thread for that, and there are more such threads than endpoints.

Rules: one attempt a message; no redirect is followed, and no proxy of the environment is used; certificates are verified. The
whole call has ``CALL_SECONDS``, whatever the other side does in between. Once the status is there, it is the call's end: it says
whether the message was taken, and nothing that happens to the rest of the answer changes it. Of an answer ``ANSWER_BYTES`` are
read at most, and nothing of it is kept but the status and ``Retry-After``: it may quote what was sent. An error's text is one of
a few words of ours, and never names an address. Every message has an end, after an unforeseen error too.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import httpcore
import structlog

from cardsync.certificates import verifying_context
from cardsync.core import retry_after
from cardsync.core.delivery import CALL_SECONDS, LONGEST_ASKED_SECONDS
from cardsync.errors import Refused, places
from cardsync.outgoing import addresses
from cardsync.threads import VitalThread

log = structlog.get_logger(__name__)

CONNECT_SECONDS: Final = 5.0  # for the look-up of the name and the connection, and as much for the handshake of TLS
ANSWER_BYTES: Final = 65_536
ANSWER_SECONDS: Final = 1.0  # for the body, which is read only so that the connection can be used again
# An idle connection is used again within this time. If its server closes it at that moment, the message fails and waits for its
# next attempt. So the time is shorter than that of common servers, by a second for the way there: gunicorn keeps an idle
# connection for 2 s; Node, uvicorn and Apache for 5 s; nginx for 75 s. Messages of a burst still share connections. Rejected:
# sending again at once on a fresh connection. One attempt would be two POSTs then, and the next attempt comes soon.
KEEPALIVE_SECONDS: Final = 1.0
CONNECTIONS: Final = 512  # fifty endpoints with eight calls each, and room
LOOKUPS: Final = 64  # at once, one for each name: more than there may be endpoints (``store.deliveries.endpoints``)
USER_AGENT: Final = "cardsync"

_TRANSPORT_ERRORS: Final = (
    httpcore.ConnectionNotAvailable,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
    OSError,
    RuntimeError,  # a connection that the loop closed under us
)


@dataclass(frozen=True, slots=True)
class Message:
    """One POST. ``headers`` are all that are sent beside ``Host``, ``Content-Length`` and the user agent."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a call ended: with a status, or without an answer and why."""

    status: int | None
    error: str | None = None
    retry_after_seconds: float | None = None


class Sender:
    """One for each process. ``send`` returns at once; ``close`` gives up what is under way."""

    def __init__(self, *, call_seconds: float = CALL_SECONDS) -> None:
        self._call_seconds = call_seconds
        self._tls = verifying_context()
        self._loop = asyncio.new_event_loop()
        self._lookups = _Lookups()
        self._told: set[str] = set()  # the kinds of unforeseen errors
        self._pools = {plain: self._pool(plain=plain) for plain in (True, False)}
        self._closing = threading.Event()
        self._thread = VitalThread(self._run, name="sender", may_end=self._closing.is_set)
        self._thread.start()

    def send(self, message: Message, then: Callable[[Ended], None] = lambda _: None) -> futures.Future[Ended]:
        """Send a message; ``then`` is called with its end, on the sender's thread. The future never raises for the other side."""
        future = asyncio.run_coroutine_threadsafe(self._send(message), self._loop)
        future.add_done_callback(lambda done: None if done.cancelled() else then(done.result()))
        return future

    def close(self) -> None:
        """End the loop within a moment."""
        self._closing.set()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(2.0)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            with contextlib.suppress(Exception):
                self._loop.run_until_complete(asyncio.wait_for(self._close_pools(), 1.0))
            self._lookups.close()
            self._loop.close()

    async def _close_pools(self) -> None:
        for pool in self._pools.values():
            await pool.aclose()

    def _pool(self, *, plain: bool) -> httpcore.AsyncConnectionPool:
        return httpcore.AsyncConnectionPool(
            ssl_context=self._tls,
            max_connections=CONNECTIONS,
            max_keepalive_connections=CONNECTIONS // 8,
            keepalive_expiry=KEEPALIVE_SECONDS,
            http1=True,
            http2=False,
            retries=0,
            network_backend=_Network(self._lookups, is_plain=plain),
        )

    async def _send(self, message: Message) -> Ended:
        answered: list[Ended] = []
        try:
            async with asyncio.timeout(self._call_seconds):
                await self._call(message, answered.append)
        except Exception as error:  # noqa: BLE001  (the thread's border: a message without an end keeps its place for ever)
            return answered[0] if answered else Ended(None, self._why(error))
        return answered[0]

    def _why(self, error: Exception) -> str:
        """The words for a call that had no answer; an unforeseen error is logged, each kind once."""
        match error:
            case Refused():
                return str(error)
            case TimeoutError() | httpcore.TimeoutException():
                return "no answer in time"
            case ssl.SSLError():
                return "the connection's TLS failed"
            case httpcore.ConnectError():
                return "TLS failed" if isinstance(error.__cause__, ssl.SSLError) else "no connection"
        if isinstance(error, _TRANSPORT_ERRORS):
            return "the connection was cut, or what came is no HTTP"
        kind = type(error).__name__
        if kind not in self._told:
            self._told.add(kind)
            log.error("message_could_not_be_sent", error=kind, where=places(error))
        return "could not be sent"

    async def _call(self, message: Message, answered: Callable[[Ended], None]) -> None:
        parts = urlsplit(message.url)
        pool = self._pools[parts.scheme == "http"]
        headers = [(b"Host", parts.netloc.encode()), (b"User-Agent", USER_AGENT.encode())]
        headers += [(name.encode(), value.encode()) for name, value in message.headers.items()]
        headers.append((b"Content-Length", str(len(message.body)).encode()))
        bounds = {"connect": CONNECT_SECONDS, "read": self._call_seconds, "write": self._call_seconds, "pool": 5.0}
        async with pool.stream(
            "POST", message.url, headers=headers, content=message.body, extensions={"timeout": bounds}
        ) as response:
            answered(Ended(response.status, retry_after_seconds=_retry_after(response.headers)))
            await _read_some(response)


async def _read_some(response: httpcore.Response) -> None:
    """Read the answer to its end, so that the connection can be used again, or up to its bounds; what it says is not kept."""
    size_bytes = 0
    async with asyncio.timeout(ANSWER_SECONDS):
        async for chunk in response.aiter_stream():
            size_bytes += len(chunk)
            if size_bytes > ANSWER_BYTES:
                break


def _retry_after(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """The seconds of ``Retry-After``; a date counts from the answer's own ``Date``, so that clocks may differ."""
    said = {name.lower(): value.decode("latin-1") for name, value in headers}
    answered_at = retry_after.read_date(said.get(b"date"))
    return retry_after.read_seconds(said.get(b"retry-after"), now=answered_at, longest_seconds=LONGEST_ASKED_SECONDS)


Found = list[tuple[socket.AddressFamily, int, int, str, tuple[object, ...]]]


class _Lookups:
    """Looks names up, on threads of its own. Calls to one name share one look-up: it outlives a call that did not wait for it."""

    def __init__(self) -> None:
        self._threads = futures.ThreadPoolExecutor(LOOKUPS, thread_name_prefix="look-up")
        self._under_way: dict[tuple[str, int], asyncio.Future[Found]] = {}

    async def find(self, host: str, port: int) -> Found:
        """Look a name up, or wait for the look-up of it that is under way. Raises ``OSError`` or ``UnicodeError``."""
        found = self._under_way.get((host, port))
        if found is None:
            loop = asyncio.get_running_loop()
            found = loop.run_in_executor(self._threads, _look_up, host, port)
            self._under_way[host, port] = found
            found.add_done_callback(lambda done: self._ended(host, port, done))
        return await asyncio.shield(found)

    def close(self) -> None:
        """Look nothing more up; called on the loop's thread, before the loop is closed."""
        for found in self._under_way.values():
            found.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ended(self, host: str, port: int, done: asyncio.Future[Found]) -> None:
        del self._under_way[host, port]
        if not done.cancelled():
            done.exception()  # asyncio logs one that is never asked for: those that wanted it may have ended


def _look_up(host: str, port: int) -> Found:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)  # type: ignore[return-value]


class _Network(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked, one after the other."""

    def __init__(self, lookups: _Lookups, *, is_plain: bool) -> None:
        self._lookups, self._is_plain = lookups, is_plain
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Look the name up, check what it leads to, and connect, all within the time.

        Raises ``Refused``, ``TimeoutError``, or httpcore's ``ConnectError``.
        """
        last: httpcore.ConnectError | None = None
        async with asyncio.timeout(timeout):
            for address in await self._addresses(host, port):
                try:
                    return await self._plain.connect_tcp(address, port, None, local_address, socket_options)
                except httpcore.ConnectError as error:
                    last = error
        raise last or httpcore.ConnectError("the name leads nowhere")

    async def _addresses(self, host: str, port: int) -> list[str]:
        literal = addresses.literal(host)
        if literal is not None:
            addresses.require_address(literal, is_plain=self._is_plain)
            return [host]
        try:
            found = await self._lookups.find(host, port)
        except (OSError, UnicodeError):  # the latter for a name that is none, such as "a..b"
            raise httpcore.ConnectError("the name is not known") from None
        return addresses.resolved(found, is_plain=self._is_plain)

    async def sleep(self, seconds: float) -> None:
        """Wait, as the pool asks."""
        await asyncio.sleep(seconds)
