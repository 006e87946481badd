"""Traces: off unless asked for, and of what is noted nothing but ids, numbers and words of ours."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from structlog.testing import capture_logs

from cardsync import traces, traces_sdk
from tests.waiting import until

EARLIER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture(autouse=True)
def _off_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "_start", None)


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setattr(traces, "_start", traces_sdk.begin("cardsync-test", exporter))
    yield exporter
    exporter.shutdown()


def finished(exporter: InMemorySpanExporter, count: int) -> dict[str, ReadableSpan]:
    until(lambda: len(exporter.get_finished_spans()) >= count, f"{count} spans are sent")
    return {span.name: span for span in exporter.get_finished_spans()}


@pytest.mark.parametrize(
    ("variables", "asked"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "cards"}, False),
        ({ENDPOINT: "http://127.0.0.1:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({ENDPOINT: "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({ENDPOINT: "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({ENDPOINT: " "}, False),
    ],
)
def test_opentelemetrys_own_variables_ask_for_traces(variables: dict[str, str], asked: bool) -> None:
    assert traces.is_asked_for(variables) is asked


@pytest.mark.parametrize(
    ("protocol", "installed", "because"),
    [("grpc", True, "traces are sent over http/protobuf alone"), ("", False, "install cardsync[otel]")],
)
def test_traces_that_cannot_be_sent_are_one_line_and_no_error(
    monkeypatch: pytest.MonkeyPatch, protocol: str, installed: bool, because: str
) -> None:
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    if not installed:
        monkeypatch.delattr("cardsync.traces_sdk", raising=False)
        monkeypatch.setitem(sys.modules, "cardsync.traces_sdk", None)
    with capture_logs() as lines:
        traces.configure("web")
    assert [(line["event"], line["because"]) for line in lines] == [("no_traces", because)]
    assert traces.span("receive").traceparent is None


def test_while_traces_are_off_a_span_is_nothing() -> None:
    with traces.span("receive", {"event_id": "x"}, links=(EARLIER,)) as span:
        span.set({"outcome": "accepted"})
        assert span.traceparent is None
    with pytest.raises(ValueError, match="of ours"), traces.span("receive"):
        raise ValueError("of ours")


def test_an_error_is_noted_by_its_class_and_its_text_nowhere(exported: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="a secret"), traces.span("process", {"hints": 2, "lane": None}):
        raise ValueError("a secret")
    span = finished(exported, 1)["process"]
    assert dict(span.attributes or {}) == {"cardsync.hints": 2, "error.type": "ValueError"}
    assert (span.events, span.status.description) == ((), None)
    assert "a secret" not in span.to_json()


def test_a_span_is_the_parent_of_what_begins_in_its_block_but_not_of_what_is_detached(
    exported: InMemorySpanExporter,
) -> None:
    with traces.span("reconcile") as outer:
        with traces.span("ottu list", kind="client"):
            pass
        traces.span("receive", detached=True).end()
    spans = finished(exported, 3)
    parent, alone = spans["ottu list"].parent, spans["receive"].parent
    assert parent is not None
    assert (outer.traceparent or "").split("-")[2] == f"{parent.span_id:016x}"
    assert alone is None


def test_earlier_spans_are_linked_each_once_and_what_is_no_context_is_left_out(exported: InMemorySpanExporter) -> None:
    strange = (None, "", "x", EARLIER.replace("00-", "ff-", 1), EARLIER + "-more", EARLIER.upper(), "9" * 5_000)
    with traces.span("process", links=(EARLIER, *strange, EARLIER)):
        pass
    (link,) = finished(exported, 1)["process"].links
    assert f"{link.context.trace_id:032x}" == EARLIER.split("-")[1]
