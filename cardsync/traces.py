"""Traces, for those who have OpenTelemetry: spans of our own, with ids and words of our own alone.

They are off unless the extra ``cardsync[otel]`` is installed and one of OpenTelemetry's own variables asks for them:
``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT``, or ``OTEL_TRACES_EXPORTER=otlp``. All others of its
variables (headers, sampler, resource) count as its documentation says; it speaks OTLP over HTTP.

Rules:

- Names and attributes are ids, numbers and words of ours: never a token, a customer's id, a person's name, an address with its
  query, or the text of an error. So no library is instrumented: those put SQL, URLs and error texts into spans.
- A notification's span begins a trace of its own. What its sender says of a trace is linked and not continued: anybody may post
  to the webhook, and would decide what is sampled.
- The work on a notification comes later, in another process, and together with that on others: it *links* to the notification's
  span, whose context stands with the hint's facts in its row.
- While traces are off a span costs a look at a variable.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final, Literal, Protocol, Self

import structlog

log = structlog.get_logger(__name__)

Kind = Literal["internal", "server", "client", "consumer"]
Attributes = Mapping[str, str | int | float | bool | None]  # what is None is not noted
# The W3C's form of version 00. Longer texts of later versions are not ours to keep.
_TRACEPARENT: Final = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_PROTOCOLS: Final = ("", "http/protobuf")
LINKS_MAX: Final = 128  # of one span: OpenTelemetry's own limit


class Span(Protocol):
    """One piece of work. Leaving the block ends it, with the class of the error that ended the block."""

    @property
    def traceparent(self) -> str | None:
        """Its context, for a link from later work; ``None`` while traces are off or this one is not sampled."""
        ...

    def set(self, attributes: Attributes) -> None:
        """Note attributes: ``event_id`` becomes ``cardsync.event_id``, and what has a dot keeps its name."""
        ...

    def end(self, error: str | None = None) -> None:
        """End it, outside a block; ``error`` is a word of ours."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None: ...


class _NoSpan:
    """What stands for a span while traces are off."""

    traceparent: None = None

    def set(self, attributes: Attributes) -> None:
        """Note nothing."""

    def end(self, error: str | None = None) -> None:
        """End nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        return


_NO_SPAN: Final = _NoSpan()
_start: Callable[[str, Kind, list[str], bool, Attributes], Span] | None = None  # set once, before threads begin


def is_asked_for(environment: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's own variables ask for traces."""
    exporters = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporters == "none":
        return False
    named = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return exporters == "otlp" or any(environment.get(name, "").strip() for name in named)


def configure(process: str) -> None:
    """Send spans from now on, if traces are asked for; where that cannot be done a line says why. Once in a process."""
    global _start
    if not is_asked_for(os.environ):
        return
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "")
    if protocol.strip() not in _PROTOCOLS:
        log.warning("no_traces", because="traces are sent over http/protobuf alone")
        return
    try:
        from cardsync import traces_sdk
    except ImportError:
        log.warning("no_traces", because="install cardsync[otel]")
        return
    _start = traces_sdk.begin(os.environ.get("OTEL_SERVICE_NAME") or f"cardsync-{process}")
    log.info("traces_on")


def span(
    name: str,
    attributes: Attributes = MappingProxyType({}),
    *,
    kind: Kind = "internal",
    links: Iterable[str | None] = (),
    detached: bool = False,
) -> Span:
    """Begin a span, for a ``with`` block or until ``end``; ``links`` are contexts of earlier ones, as they were stored or sent.

    Inside a block it is the parent of what this thread begins there. With ``detached`` it is no parent and has none, as it must
    be on an event loop, where all requests share one context.
    """
    if _start is None:
        return _NO_SPAN
    known = dict.fromkeys(one for one in map(readable, links) if one is not None)
    return _start(name, kind, list(known)[:LINKS_MAX], detached, attributes)


def readable(traceparent: object) -> str | None:
    """A context that can be linked, else ``None``: of a header, or of what is stored."""
    return traceparent if isinstance(traceparent, str) and _TRACEPARENT.fullmatch(traceparent) else None
