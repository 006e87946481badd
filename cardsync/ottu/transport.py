"""Connections to Ottu on which a whole call ends on time, also if the other side never ends its answer.

Time-outs of httpx are per operation: a server that sends one byte a second, in the headers or between chunks,
never meets them. Here every read, write, connect and handshake is given no more than what is left of the
call's time. The time is carried by a context variable (``within``), since neither ottu-py nor httpcore passes
anything of ours down to the socket.

Not bounded: the look-up of a host's name, which is the system resolver's (by default 5 s a server, twice).
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any, Final
from urllib.parse import urlsplit

import httpcore
import httpx

from cardsync.certificates import verifying_context
from cardsync.errors import Misconfigured

# Shorter than what load balancers commonly keep an idle connection (nginx 75 s, AWS 60 s): a connection that
# they close just as we reuse it is a call lost from the budget.
KEEPALIVE_SECONDS: Final = 30.0

# All that can go wrong below an HTTP answer. httpcore's errors have no common base; ssl's are OSErrors.
TRANSPORT_ERRORS: Final[tuple[type[Exception], ...]] = (
    httpcore.ConnectionNotAvailable,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
    httpx.HTTPError,
    httpx.InvalidURL,
    OSError,
)

_until: ContextVar[float] = ContextVar("ottu_call_until", default=math.inf)


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Give all calls of this thread in the block ``seconds`` in total; an outer, earlier end stays."""
    before = _until.set(min(_until.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _until.reset(before)


def seconds_left() -> float:
    """Return how much of the time is left: negative when it is over, infinite outside ``within``."""
    return _until.get() - time.monotonic()


def open_transport(url: str, connections: int) -> httpx.BaseTransport:
    """Return a pool of at most ``connections`` to Ottu at ``url``: HTTP/1.1, certificates verified.

    The environment's proxy is used, unless Ottu is on this machine (a simulator).

    Raises ``Misconfigured`` if that proxy is of a kind we do not speak, or a file of certificates cannot be read.
    """
    tls = verifying_context()
    proxy = _proxy_for(url, tls)
    return _Transport(
        httpcore.ConnectionPool(
            ssl_context=tls,
            proxy=proxy,
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=KEEPALIVE_SECONDS,
            http1=True,
            http2=False,  # one connection a thread is simple, and a stalled one then stalls one call
            retries=0,  # a call costs budget: the caller decides whether to retry
            network_backend=_Network(is_to_a_proxy=proxy is not None),
        )
    )


def _proxy_for(url: str, tls: ssl.SSLContext) -> httpcore.Proxy | None:
    target = urlsplit(url)
    host = target.hostname or ""
    if _is_this_machine(host) or urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    address = proxies.get(target.scheme) or proxies.get("all")
    if address is None:
        return None
    try:
        proxy = httpx.Proxy(address if "://" in address else f"http://{address}")
    except (ValueError, httpx.InvalidURL):
        proxy = None
    if proxy is None or proxy.url.scheme not in ("http", "https"):
        raise Misconfigured(f"the environment's proxy for {target.scheme} is not an http:// or https:// address")
    return httpcore.Proxy(
        str(proxy.url),
        auth=proxy.raw_auth,
        headers=proxy.headers.raw,
        ssl_context=tls if proxy.url.scheme == "https" else None,
    )


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Transport(httpx.BaseTransport):
    """httpx over our own pool: ``httpx.HTTPTransport`` offers no way to hand it a network of ours."""

    def __init__(self, pool: httpcore.ConnectionPool) -> None:
        self._pool = pool

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; errors of httpcore pass as they are (``TRANSPORT_ERRORS``)."""
        url = request.url
        answer = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            status_code=answer.status,
            headers=answer.headers,
            stream=_Body(answer.stream),
            extensions=answer.extensions,
        )

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        self._stream.close()


class _Network(httpcore.NetworkBackend):
    """TCP whose every operation ends with the call's time. Where all connections are to a proxy, its faults are told apart."""

    def __init__(self, *, is_to_a_proxy: bool = False) -> None:
        self._inner = httpcore.SyncBackend()
        self._is_to_a_proxy = is_to_a_proxy

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Try the host's addresses in turn, each with an equal share of what is left.

        ``socket.create_connection`` would give each the full time-out, and so a host with four dead addresses
        four.
        """
        try:
            return self._connect(host, port, timeout, local_address, socket_options)
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            if self._is_to_a_proxy:
                raise httpcore.ProxyError("the proxy cannot be reached") from error
            raise

    def _connect(
        self,
        host: str,
        port: int,
        timeout: float | None,
        local_address: str | None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None,
    ) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError("the host has no address")
        addresses = _addresses(host, port)
        for tried, address in enumerate(addresses):
            share = _bounded(timeout, httpcore.ConnectTimeout) / (len(addresses) - tried)
            try:
                return _Stream(self._inner.connect_tcp(address, port, share, local_address, socket_options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


def _addresses(host: str, port: int) -> list[str]:
    """Return ``host``'s addresses, once each, in the resolver's order. Raises ``httpcore.ConnectError``."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise httpcore.ConnectError("the host's name is not known") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _bounded(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _bounded(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = _bounded(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _bounded(timeout: float | None, over: type[httpcore.TimeoutException]) -> float:
    """Return the time for one operation, or raise ``over`` if the call's time is over."""
    left = seconds_left()
    if left <= 0:
        raise over("the call's time is over")
    # A finite bound also where neither side gave one: nothing waits for ever.
    return min(left, math.inf if timeout is None else timeout, 3_600.0)
