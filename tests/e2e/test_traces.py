"""Real processes send spans to a real collector: each step, linked across processes, and never a word that is not ours."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from cardsync.dev.servers.ports import free_port
from cardsync.dev.simulator.payloads import FAKE_PERSONAL_DATA
from tests.e2e.marks import ONE_BROKER
from tests.e2e.processes import run
from tests.e2e.system import System
from tests.receivers import Receiver
from tests.waiting import until

pytestmark = ONE_BROKER

PORT = free_port()
SETTINGS = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{PORT}", "OTEL_BSP_SCHEDULE_DELAY": "200"}
SENDERS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"  # the W3C's own example


class Collector:
    """Takes spans over OTLP/HTTP; ``content`` is all that came, as bytes."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []  # the service's name beside each
        self.content = b""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, body: bytes) -> None:
        self.content += body
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = values(of_resource.resource)["service.name"]
            self.spans += [(service, span) for scope in of_resource.scope_spans for span in scope.spans]

    def named(self, name: str, **attributes: object) -> list[Any]:
        return [span for _, span in self.spans if span.name == name and attributes.items() <= values(span).items()]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def values(span: Any) -> dict[str, object]:
    """A span's attributes."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


@pytest.fixture(scope="module", autouse=True)
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.fixture
def receiver(system: System) -> Iterator[Receiver]:
    """An endpoint of kind ``notifications``."""
    made = Receiver()
    add = ("endpoints", "add", "--name", "traced", "--url", made.url, "--kind", "notifications", "--json")
    added = run(system.folder, system.settings, *add)
    assert added.returncode == 0, added.stderr
    made.secret = system.keep_secret(json.loads(added.stdout)["secret"])
    yield made
    assert run(system.folder, system.settings, "endpoints", "remove", "traced").returncode == 0
    made.close()


def test_a_notification_is_followed_from_its_arrival_to_its_delivery_and_its_cards_deletion(
    system: System, receiver: Receiver, collector: Collector
) -> None:
    customer = system.customer()
    content, _ = system.notification(customer)
    event_id = system.post_hint(content, traceparent=SENDERS).json()["event_id"]
    system.until_active(customer)
    receiver.wait_for(lambda received: len(received) == 1)
    (card,) = system.cards(customer)
    answer = system.post(
        "/v1/deletions",
        system.key("cards:delete"),
        card_id=str(card["card_id"]),
        reason="a test",
        idempotency_key="once",
    )
    assert answer.status_code == 202
    until(lambda: system.statuses(customer) == ["removed"], "the card is deleted")
    until(lambda: collector.named("delete"), "the deletion's span")
    until(lambda: collector.named("deliver"), "the delivery's span")
    until(lambda: collector.named("reconcile", **{"cardsync.outcome": "changed"}), "the list's span")

    until(lambda: collector.named("receive", **{"cardsync.event_id": event_id}), "the arrival's span")
    (arrived,) = collector.named("receive", **{"cardsync.event_id": event_id})
    assert arrived.parent_span_id == b""  # what a sender says is linked, and not continued
    assert [link.trace_id.hex() for link in arrived.links] == [SENDERS.split("-")[1]]
    assert values(arrived)["http.response.status_code"] == 200
    later = [*collector.named("process"), *collector.named("reconcile")]
    linked = {span.name for span in later for link in span.links if link.span_id == arrived.span_id}
    assert linked == {"process", "reconcile"}
    first, *_ = collector.named("ottu list")
    assert values(first) == {"http.request.method": "POST", "url.template": "/b/pbl/v2/card/"}
    assert first.parent_span_id in {span.span_id for span in collector.named("reconcile")}
    (called,) = collector.named("ottu delete")
    assert values(called)["url.template"] == "/b/pbl/v2/card/{token}/"
    assert called.parent_span_id == collector.named("delete")[0].span_id
    assert {service for service, _ in collector.spans} == {"cardsync-web", "cardsync-worker"}
    assert_only_our_own_words(system, collector, customer)


def assert_only_our_own_words(system: System, collector: Collector, customer: str) -> None:
    """No token, key, customer, name or query string reached the collector."""
    text = collector.content.decode("utf-8", "replace")
    hidden = {*system.all_secrets(), customer, *FAKE_PERSONAL_DATA}
    assert [word for word in hidden if word in text] == []
    said = [str(value) for _, span in collector.spans for value in values(span).values()]
    assert [value for value in said if "?" in value or "://" in value] == []
    assert [span.status.message for _, span in collector.spans if span.status.message] == []
    assert [event for _, span in collector.spans for event in span.events] == []
