"""ottu-py with our manners: no log line, a bounded body, an end on time, headers kept, errors raised.

We ask for plain bodies. A compressed one is read all the same, since a proxy on the way may compress it, but never
to more than the bound for a plain body: a few bytes of gzip can stand for gigabytes.

The SDK's own handler prints URLs, and so tokens, at INFO and ERROR, turns a network failure into
``status_code`` 500 and drops the headers. ``request_response_handler`` is its extension point; nothing is
patched.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import httpx
from ottu import Ottu, urls
from ottu.request import OttuPYResponse, RequestResponseHandler

from cardsync.errors import InvalidAnswer, OttuUnavailable
from cardsync.ottu.transport import TRANSPORT_ERRORS, seconds_left, within
from cardsync.reachability import why_unreachable

MAX_ANSWER_BYTES: Final = 8 * 1_048_576  # a thousand cards take about half a megabyte
MAX_INTEGER_CHARACTERS: Final = 64  # a customer id's length, the longest of what may come as a number
_GZIP_MAGIC: Final = b"\x1f\x8b"


class _NotJson:
    def __repr__(self) -> str:
        return "NOT_JSON"


NOT_JSON: Final = _NotJson()  # stands for a body that cannot be read: no reader takes it for a list


class Answer(OttuPYResponse):  # type: ignore[misc]  # the SDK has no types
    """The SDK's response, with the headers, and without the endpoint's token."""

    def __init__(self, status_code: int, headers: Mapping[str, str], content: object) -> None:
        success = 200 <= status_code <= 299
        super().__init__(
            success=success,
            status_code=status_code,
            endpoint=urls.USER_CARDS,
            response=content if success else {},
            error={} if success else content,
        )
        self.headers = dict(headers)

    def as_dict(self) -> dict[str, Any]:
        """Return what the SDK's public methods return, and ``headers`` with lower-case names."""
        return {**super().as_dict(), "headers": self.headers}


class Handler(RequestResponseHandler):  # type: ignore[misc]  # the SDK has no types
    """One request, one answer, at most ``timeout`` seconds; it logs nothing."""

    def process(self) -> Answer:
        """Send the request. Raises ``OttuUnavailable`` (no whole answer) or ``InvalidAnswer`` (too large)."""
        try:
            with within(self.kwargs["timeout"]):
                return self._send()
        except TRANSPORT_ERRORS as error:
            why = why_unreachable(error)
            failure = type(error).__name__ if why is None else f"{type(error).__name__}, {why}"
        # Raised out here, not above: even `from None` leaves the cause in __context__, and httpx's errors
        # hold the request, whose URL holds the token.
        raise OttuUnavailable(f"no answer from Ottu: {failure}")

    def _send(self) -> Answer:
        left = seconds_left()
        if left <= 0:  # asking for budget took all of it
            raise OttuUnavailable("no answer from Ottu: the time was over before the call")
        kwargs = {**self.kwargs, "timeout": httpx.Timeout(left)}
        with self.session.stream(self.method, self.url, **kwargs) as response:
            body = _read(response)
        return Answer(response.status_code, response.headers, _content(response, body))


def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise InvalidAnswer(f"Ottu's answer is larger than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


def _content(response: httpx.Response, body: bytes) -> object:
    """Return the JSON value of a body, of any media type, or ``NOT_JSON``; a byte order mark is passed over.

    Raises ``InvalidAnswer`` if the body is too large unpacked.
    """
    plain = _unpacked(body, response.headers.get("content-encoding", ""))
    if plain is None:
        return NOT_JSON
    try:
        return json.loads(plain.decode("utf-8-sig"), parse_int=_integer, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        return NOT_JSON


def _unpacked(body: bytes, encoding: str) -> bytes | None:
    """Return the plain body, ``None`` if it cannot be unpacked.

    Gzip is known by its first bytes, which no JSON has: some proxies unpack a body and leave the header, others do the opposite.
    """
    named = [word for part in encoding.split(",") if (word := part.strip().lower()) not in ("", "identity")]
    try:
        if body.startswith(_GZIP_MAGIC):
            plain = gzip.GzipFile(fileobj=io.BytesIO(body)).read(MAX_ANSWER_BYTES + 1)
        elif not named or named in (["gzip"], ["x-gzip"]):
            plain = body
        elif named == ["deflate"]:
            plain = zlib.decompressobj().decompress(body, MAX_ANSWER_BYTES + 1)
        else:
            return None
    except (OSError, EOFError, zlib.error):  # not whole, or not what it says
        return None
    if len(plain) > MAX_ANSWER_BYTES:
        raise InvalidAnswer(f"Ottu's answer is larger than {MAX_ANSWER_BYTES} bytes")
    return plain


def _integer(text: str) -> int | None:
    """A whole number; ``None`` for one longer than any that is read of a card, which Python would refuse or convert slowly."""
    return int(text) if len(text) <= MAX_INTEGER_CHARACTERS else None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class QuietOttu(Ottu):  # type: ignore[misc]  # the SDK has no types
    """The SDK's client for one environment, at our URL, on our pooled connections."""

    request_response_handler = Handler

    def __init__(self, host_url: str, *, is_sandbox: bool, session: httpx.Client, timeout_seconds: float) -> None:
        super().__init__(
            merchant_id=host_url.partition("://")[2],
            auth=session.auth,
            is_sandbox=is_sandbox,
            timeout=timeout_seconds,
        )
        self.request_session: httpx.Client
        self.request_session.close()  # the SDK opens one of its own: another pool, other proxies
        self.request_session = session
        self.host_url = host_url
