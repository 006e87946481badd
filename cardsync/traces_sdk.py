"""Spans by OpenTelemetry's SDK, which only the extra ``cardsync[otel]`` installs; ``cardsync.traces`` alone imports this."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Token
from importlib.metadata import version
from typing import Final, Self

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cardsync.traces import Attributes, Kind, Span

_KINDS: Final[dict[Kind, trace.SpanKind]] = {
    "internal": trace.SpanKind.INTERNAL,
    "server": trace.SpanKind.SERVER,
    "client": trace.SpanKind.CLIENT,
    "consumer": trace.SpanKind.CONSUMER,
}
_propagator: Final = TraceContextTextMapPropagator()


def begin(
    service: str, exporter: SpanExporter | None = None
) -> Callable[[str, Kind, list[str], bool, Attributes], Span]:
    """Make what sends spans, by a thread of its own, and return what begins one. ``exporter`` is another one than OTLP's."""
    resource = Resource.create({"service.name": service, "service.version": version("cardsync")})
    provider = TracerProvider(resource=resource)  # it sends what is left when the process ends
    provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
    tracer = provider.get_tracer("cardsync", version("cardsync"))

    def start(name: str, kind: Kind, links: list[str], detached: bool, attributes: Attributes) -> Span:
        parent = Context() if detached else None
        found = tracer.start_span(name, context=parent, kind=_KINDS[kind], links=[_link(one) for one in links])
        made = _Span(found, detached=detached)
        made.set(attributes)
        return made

    return start


def _link(traceparent: str) -> trace.Link:
    carrier = {"traceparent": traceparent}
    return trace.Link(trace.get_current_span(_propagator.extract(carrier, Context())).get_span_context())


class _Span:
    """One of OpenTelemetry's spans, as ``cardsync.traces.Span``."""

    def __init__(self, found: trace.Span, *, detached: bool) -> None:
        self._span, self._detached = found, detached
        self._token: Token[Context] | None = None

    @property
    def traceparent(self) -> str | None:
        if not self._span.get_span_context().trace_flags.sampled:
            return None
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, trace.set_span_in_context(self._span, Context()))
        return carrier.get("traceparent")

    def set(self, attributes: Attributes) -> None:
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(name if "." in name else f"cardsync.{name}", value)

    def end(self, error: str | None = None) -> None:
        if error is not None:
            self._span.set_attribute("error.type", error)
            self._span.set_status(trace.StatusCode.ERROR)  # without a description: an error's text may hold a secret
        self._span.end()

    def __enter__(self) -> Self:
        if not self._detached:
            self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if self._token is not None:
            context.detach(self._token)
        self.end(None if kind is None else kind.__name__)
