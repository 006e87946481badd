"""The steps of every call, whatever it asks for: what comes before the request itself, and the faults in the answer.

The order: latency; a gate; the credentials; the limit of calls; a fault before the effect; the request itself; a fault after the
effect; a second gate. Errors have Ottu's bodies. The URL of a deletion contains a token, so nothing here logs a URL.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from flask import Response, request

from cardsync.dev.simulator.calls import Call, CallLog, Endpoint, Gates, Point
from cardsync.dev.simulator.faults import HUGE_BYTES, Fault, Faults, invalid_value
from cardsync.dev.simulator.knobs import Knobs
from cardsync.dev.simulator.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The accepted credentials: a key, and a user's name and password if there are any."""

    api_key: str = field(repr=False)
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def accept(self, header: str) -> bool:
        """Tell whether an ``Authorization`` header is right."""
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "api-key":
            return _same(value.strip(), self.api_key)
        if scheme.lower() == "basic" and self.username is not None:
            try:
                given = base64.b64decode(value.strip(), validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                return False
            return _same(given, f"{self.username}:{self.password}")
        return False


class BadRequestError(Exception):
    """An invalid request; ``body`` and ``status`` are the answer."""

    def __init__(self, body: dict[str, Any], status: int = 400) -> None:
        super().__init__(status)
        self.body, self.status = body, status


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What all answers share."""

    world: World
    credentials: Credentials
    calls: CallLog
    gates: Gates
    faults: Faults
    stopping: threading.Event

    def serve(self, endpoint: Endpoint, environment: str, customer_id: str, work: Callable[[], Response]) -> Response:
        """Answer one call: ``work`` does the request itself, or raises ``BadRequestError``."""
        with self.calls.recording(endpoint, environment, customer_id) as call:
            knobs = self.world.knobs
            self.stopping.wait(self.faults.latency_seconds(knobs))
            self.gates.pass_through(cast("Point", f"{endpoint}:before"))
            response = self._refusal(knobs) or self._tried(call, knobs, work)
            self.gates.pass_through(cast("Point", f"{endpoint}:after"))
            call.status = None if call.fault in ("hang", "cut") else response.status_code
            return response

    def _refusal(self, knobs: Knobs) -> Response | None:
        header = request.headers.get("Authorization", "")
        if not header:
            return detail("Authentication credentials were not provided.", 401)
        if knobs.credentials == "refuse_403":
            return detail("You do not have permission to perform this action.", 403)
        if knobs.credentials == "refuse_401" or not self.credentials.accept(header):
            return detail("Invalid credentials.", 401)
        if knobs.daily_calls is not None and self.calls.within_day() > knobs.daily_calls:
            return _throttled(knobs)
        return None

    def _tried(self, call: Call, knobs: Knobs, work: Callable[[], Response]) -> Response:
        call.fault = fault = self.faults.next(call.endpoint, knobs)
        if fault == "throttle":
            return _throttled(knobs)
        if fault == "transient_404":
            return detail("Not found.", 404)
        if fault in ("error", "hang", "cut") and not knobs.faults_after_effect:
            return self._failed(fault, knobs)
        try:
            response = work()
        except BadRequestError as refused:
            return as_json(refused.body, refused.status)
        if fault in ("error", "hang", "cut"):
            return self._failed(fault, knobs)
        if fault == "truncated":
            return _truncated(response)
        return self._invalid(response, knobs) if fault == "invalid" else response

    def _failed(self, fault: Fault, knobs: Knobs) -> Response:
        if fault == "error":
            return detail("The stand-in fails, as it was told to.", knobs.error_status)
        if fault == "hang":
            self.stopping.wait(knobs.hang_seconds)
        connection = request.environ.get("werkzeug.socket")
        if isinstance(connection, socket.socket):
            with contextlib.suppress(OSError):  # the caller closed it first
                connection.shutdown(socket.SHUT_RDWR)
        return detail("no answer", 504)

    def _invalid(self, response: Response, knobs: Knobs) -> Response:
        kind = self.faults.invalid_kind(knobs)
        if kind == "html":
            return Response("<html><body>Just a moment...</body></html>", mimetype="text/html")
        if kind == "half":
            return Response(response.get_data()[:-1], mimetype="application/json")
        if kind == "empty":
            return Response(b"", mimetype="application/json")
        if kind == "huge":
            return Response(b"[" + b" " * HUGE_BYTES + b"]", mimetype="application/json")
        return as_json(invalid_value(kind, _cards_in(json.loads(response.get_data()))))


def _truncated(response: Response) -> Response:
    whole = response.get_data()
    short = Response(whole[: len(whole) // 2], status=response.status_code, mimetype="application/json")
    # Set afterwards: making a response counts its body. The connection closes, so the rest never comes.
    short.headers["Content-Length"] = str(len(whole))
    return short


def _cards_in(answer: Any) -> list[dict[str, Any]]:
    if isinstance(answer, dict):
        return cast("list[dict[str, Any]]", answer["results"]) if "results" in answer else [answer]
    return cast("list[dict[str, Any]]", answer)


def _throttled(knobs: Knobs) -> Response:
    response = detail("Request was throttled.", 429)
    if knobs.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(knobs.retry_after_seconds)
    return response


def detail(text: str, status: int) -> Response:
    """Ottu's usual error body."""
    return as_json({"detail": text}, status)


def as_json(value: Any, status: int = 200) -> Response:
    """Any value as a JSON answer."""
    return Response(json.dumps(value), status=status, mimetype="application/json")


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), right.encode())
