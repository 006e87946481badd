"""ottu-py with our manners: no log line, a bounded body, an end on time, headers kept, errors raised.

The SDK's own handler prints URLs, and so tokens, at INFO and ERROR, turns a network failure into
``status_code`` 500 and drops the headers. ``request_response_handler`` is its extension point; nothing is
patched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import httpx
from ottu import Ottu, urls
from ottu.request import OttuPYResponse, RequestResponseHandler

from cardsync.errors import InvalidAnswer, OttuUnavailable
from cardsync.ottu.transport import TRANSPORT_ERRORS, seconds_left, within

MAX_ANSWER_BYTES: Final = 8 * 1_048_576  # a thousand cards take about half a megabyte


class _NotJson:
    def __repr__(self) -> str:
        return "NOT_JSON"


NOT_JSON: Final = _NotJson()  # what stands for a body that cannot be read: no reader takes it for a list


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
            failure = type(error).__name__
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
    """Return the JSON value of a body, whatever media type it claims, or ``NOT_JSON``.

    A compressed body counts as unreadable: we ask for plain ones, since a few bytes of gzip can stand for
    gigabytes.
    """
    if response.headers.get("content-encoding", "identity") != "identity":
        return NOT_JSON
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        return NOT_JSON


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
