"""The endpoint as a Flask route: its face under any WSGI server (``cardsync.wsgi:app``). Waits block the request's thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, request

from cardsync import metrics
from cardsync.stories.receive import Authentic, Receipt
from cardsync.web import headers
from cardsync.web.ingest.endpoint import Endpoint, Group, Head, run_blocking
from cardsync.web.rate_limits import RateLimitedLog
from cardsync.web.requests import read_exactly

_unknown_paths = RateLimitedLog(1)
_hints_at_unknown_paths = RateLimitedLog(1)  # apart: many strangers must not hide one lost notification


class ThreadSender:
    """A WSGI request: its body is a blocking stream, and its thread waits."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def examined(self, length: int, examine: Callable[[bytes], Authentic]) -> Authentic:
        """Read and examine on this thread."""
        return examine(read_exactly(self._stream, length))

    async def written(self, group: Group, authentic: Authentic, *, wait_seconds: float) -> Receipt:
        """Wait on this thread."""
        return group.write_blocking(authentic, wait_seconds=wait_seconds)


def blueprint(endpoint: Endpoint) -> Blueprint:
    """The webhook's routes."""
    made = Blueprint("webhook", __name__)

    def ottu() -> Response:
        environ = request.environ
        head = Head(
            content_length=environ.get("CONTENT_LENGTH") or "",
            content_type=environ.get("CONTENT_TYPE") or "",
            is_chunked="HTTP_TRANSFER_ENCODING" in environ,
            request_id=headers.request_id(),
            traceparent=environ.get("HTTP_TRACEPARENT") or "",
        )
        answer = run_blocking(endpoint.answer(head, ThreadSender(environ["wsgi.input"])))
        return Response(answer.body, answer.status, list(answer.headers), content_type=answer.content_type)

    for number, path in enumerate(sorted(endpoint.paths)):
        made.add_url_rule(path, f"ottu_{number}", ottu, methods=["POST"])
    made.before_app_request(_tell_of_unknown_paths)
    return made


def _tell_of_unknown_paths() -> None:
    """Count what is sent to another path below ``/webhooks``: a typing mistake at Ottu loses every notification."""
    if request.method == "POST" and request.url_rule is None and request.path.startswith("/webhooks"):
        metrics.HINTS.labels("unknown_path").inc()
        _hints_at_unknown_paths.warning("hint_at_unknown_path")
    elif request.url_rule is None:  # the path may hold anything, so the line has none
        _unknown_paths.info("unknown_path", method=request.method[:10])
