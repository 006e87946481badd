"""The web over real sockets: what bad input gets, odd customers, figures of several processes, and an orderly end."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from cardsync.dev.simulator.payloads import body, sign
from cardsync.store.freshness import COOL_DOWN_SECONDS
from tests import payloads
from tests.e2e.marks import ONE_BROKER
from tests.e2e.processes import Process
from tests.e2e.system import ENVIRONMENT, System, token_of
from tests.waiting import until

pytestmark = ONE_BROKER

WEB_WORKERS = 2
# Long enough that no call gives up by itself while a test holds it.
SETTINGS = {"OTTU_TIMEOUT_S": "60"}
ANSWER_SECONDS = 60.0  # a deadline
WEBHOOK = "POST /webhooks/ottu HTTP/1.1"
JSON = "Content-Type: application/json"
TWO_MEGABYTES = 2_097_152
FULL_NUMBER = payloads.FULL_NUMBER
SIGNED = payloads.payment()
NOT_OURS = {**SIGNED, "signature": payloads.signature(SIGNED, "a-key-of-somebody-else")}

# What is sent, and the status that it gets.
BAD_INPUT: dict[str, tuple[list[str], bytes, int]] = {
    "chunked": ([WEBHOOK, JSON, "Transfer-Encoding: chunked"], b"2\r\n{}\r\n0\r\n\r\n", 411),
    "no length": ([WEBHOOK, JSON], b"", 411),
    "2 MB": ([WEBHOOK, JSON, f"Content-Length: {TWO_MEGABYTES}"], b"[" * TWO_MEGABYTES, 413),
    "2 MB announced, none sent": ([WEBHOOK, JSON, f"Content-Length: {TWO_MEGABYTES}"], b"", 413),
    "an absurd length": ([WEBHOOK, JSON, f"Content-Length: {'9' * 18}"], b"", 413),
    "no type": ([WEBHOOK], b"{}", 401),
    "text": ([WEBHOOK, "Content-Type: text/plain"], b"no JSON", 415),
    "a form": ([WEBHOOK, "Content-Type: application/x-www-form-urlencoded"], b"a=1", 415),
    "not JSON": ([WEBHOOK, JSON], b"<xml/>", 400),
    "nothing": ([WEBHOOK, JSON, "Content-Length: 0"], b"", 400),
    "a list": ([WEBHOOK, JSON], b"[{}]", 400),
    "not UTF-8": ([WEBHOOK, JSON], b'{"amount": "\xff"}', 400),
    "not a number": ([WEBHOOK, JSON], b'{"amount": NaN}', 401),
    "nested": ([WEBHOOK, JSON], b'{"a":' * 50_000 + b"1" + b"}" * 50_000, 400),
    "no signature": ([WEBHOOK, JSON], json.dumps(SIGNED).encode(), 401),
    "another's signature": ([WEBHOOK, JSON], json.dumps(NOT_OURS).encode(), 401),
    "a signature of other letters": ([WEBHOOK, JSON], json.dumps({**SIGNED, "signature": "é" * 64}).encode(), 401),
    "a number for a signature": ([WEBHOOK, JSON], json.dumps({**SIGNED, "signature": 1}).encode(), 401),
    "a list for a signature": ([WEBHOOK, JSON], json.dumps({**SIGNED, "signature": ["a"]}).encode(), 401),
    "another method": (["DELETE /webhooks/ottu HTTP/1.1"], b"", 405),
    "another path": (["POST /webhooks/other HTTP/1.1", JSON], b"{}", 404),
    "no key": (["GET /v1/cards?environment=sandbox&customer_id=c HTTP/1.1"], b"", 401),
    "a key that is none": (["GET /v1/cards HTTP/1.1", "Authorization: Bearer csk_' OR 1=1"], b"", 401),
}


@pytest.mark.parametrize("what", BAD_INPUT)
def test_bad_input_gets_the_answer_of_the_contract_and_leaves_no_row(system: System, what: str) -> None:
    lines, content, expected = BAD_INPUT[what]
    before = _rows(system)
    status, headers, answer = _exchange(system, lines, content)
    assert status == expected, answer
    assert headers["content-type"] == "application/problem+json"
    assert json.loads(answer)["status"] == expected
    assert "Traceback" not in answer
    assert _rows(system) == before
    assert system.get("/livez").status_code == 200


def test_a_body_that_ends_early_leaves_no_row_and_no_thread_behind(system: System) -> None:
    before = _rows(system)
    for _ in range(20):  # more than all processes have threads
        with closing(_connect(system)) as connection:
            connection.sendall(_head(system, [WEBHOOK, JSON, "Content-Length: 1000"]) + b'{"amount"')
    assert system.get("/livez").status_code == 200
    customer = system.customer()
    system.save_card(customer)
    system.until_active(customer)
    assert _rows(system) == before + 1


def test_what_is_authentic_and_of_no_interest_is_answered_with_success(system: System) -> None:
    visit = system.save_card(system.customer(), notify=False)
    refund = system.simulator.checkout().refund(visit.purchase, notify=False)
    key = system.simulator.webhook_key
    assert system.post_hint(body(sign(refund.event or {}, key))).json()["status"] == "ignored"
    assert system.post_hint(body(sign({"amount": "1.000", "of_tomorrow": True}, key))).json()["status"] == "ignored"
    content = body(sign(visit.event or {}, key))
    first = system.post_hint(content).json()
    assert first["status"] == "accepted"
    # Where the database was slow for a moment, both were set down on disk, where nobody looks for duplicates.
    again = until(lambda: (one := system.post_hint(content).json())["status"] == "duplicate" and one, "a copy is one")
    assert first["event_id"] == again["event_id"]


@pytest.mark.parametrize(
    "name",
    ["a/b", 'it\'s "x"', "ünï-漢字-😀", "100%25", "a b+c", "../..", "?x=1&y#z", "فلان", "<b>", "%s{0}\\n", "\t\n"],
)
def test_odd_customers_have_cards_like_others(system: System, name: str) -> None:
    customer, key = system.customer(name), system.key("cards:read", "cards:reconcile")
    visit = system.save_card(customer)
    system.until_active(customer)
    _let_the_cool_down_end(system, customer)

    def reads_through() -> bool:  # on a slow machine the answer may come later than one reader waits
        answer = system.get("/v1/cards", key, environment=ENVIRONMENT, customer_id=customer, max_age=0).json()
        assert [card["customer_id"] for card in answer["cards"]] == [customer]
        return answer["stale"] is False

    until(reads_through, "the reader gets a fresh list")
    assert system.simulator.world.truth(ENVIRONMENT, customer) == {token_of(visit)}
    asked = system.post("/v1/reconciliations", key, environment=ENVIRONMENT, customer_id=customer)
    assert (asked.status_code, asked.json()["customer_id"]) == (202, customer)


def _let_the_cool_down_end(system: System, customer: str) -> None:
    """The hint's call was a moment ago, so a reader would get what is known; the test does not wait for the next call."""
    system.until_settled(customer)
    system.sql(
        "UPDATE cardsync.customers SET reconciled_at = reconciled_at - make_interval(secs => %s),"
        " asked_at = asked_at - make_interval(secs => %s) WHERE customer_id = %s",
        *[COOL_DOWN_SECONDS] * 2,
        customer,
    )


def test_a_full_card_number_in_place_of_a_mask_is_kept_nowhere(system: System) -> None:
    customer = system.customer()
    system.save_card(customer, number=system.keep_secret(FULL_NUMBER), name_on_card=FULL_NUMBER)
    system.until_active(customer)
    (card,) = system.cards(customer)
    assert (card["last4"], FULL_NUMBER in repr(card)) == (FULL_NUMBER[-4:], False)
    for table in ("events", "cards", "card_changes", "customers", "observations"):
        assert not system.sql(f"SELECT 1 FROM cardsync.{table} AS t WHERE t::text LIKE %s LIMIT 1", f"%{FULL_NUMBER}%")


def test_the_figures_of_all_processes_stand_on_one_page(system: System) -> None:
    def accepted() -> float:
        return system.metrics().get(("cardsync_hints_total", ("accepted",)), 0)

    before, customers = accepted(), [system.customer() for _ in range(24)]
    for customer in customers:
        content, _ = system.notification(customer)
        # A connection for each: the kernel spreads connections over the processes.
        answer = httpx.post(
            f"{system.url}/webhooks/ottu",
            content=content,
            headers={"Content-Type": "application/json"},
            trust_env=False,
            timeout=ANSWER_SECONDS,
        )
        assert answer.status_code == 200
    system.until_active(*customers)
    until(lambda: accepted() == before + len(customers), "each is counted once")
    web = psutil.Process(system.processes["web"].pid).children(recursive=True)
    kept = {
        int(path.stem.rsplit("-", 1)[-1]) for path in Path(system.settings["CARDSYNC_DATA_DIR"]).rglob("counter_*.db")
    }
    assert len(kept & {process.pid for process in web}) == WEB_WORKERS
    names = {name for name, _ in system.metrics()}
    assert names >= {
        "cardsync_hints_total",
        "cardsync_hint_answer_seconds_count",
        "cardsync_inbox_pending",
        "cardsync_inbox_oldest_seconds",
        "cardsync_customers_due",
        "cardsync_reconciliations_total",
        "cardsync_reconciliation_seconds_count",
        "cardsync_ottu_calls_total",
        "cardsync_cards",
        "cardsync_suspicious_hints_total",
        "cardsync_removal_brake_engaged",
        "cardsync_feed_head",
        "cardsync_notification_queue_usage",
    }


def test_ready_says_which_parts_are(system: System) -> None:
    answer = until(lambda: (got := system.get("/readyz")).json()["status"] == "ready" and got, "it is ready")
    assert answer.status_code == 200
    assert set(answer.json()["checks"]) == {"database", "migrations", "secret_key", "spool", "broker", "ottu"}


def test_the_description_and_its_page_are_served(system: System) -> None:
    assert system.get("/openapi.json").json()["openapi"].startswith("3.1")
    assert system.get("/docs").headers["content-type"].startswith("text/html")


def test_a_web_told_to_stop_finishes_what_it_answers(system: System) -> None:
    web, customer, key = system.processes["web"], system.customer(), system.key("cards:read")
    system.save_card(customer, notify=False)
    with ThreadPoolExecutor(1) as readers, system.simulator.held("list:before") as gates:
        query = {"environment": ENVIRONMENT, "customer_id": customer, "max_age": 0}
        reading = readers.submit(system.get, "/v1/cards", key, **query)
        gates.wait_until_waiting("list:before")
        web.signal(signal.SIGTERM)
        until(lambda: not _listens(system), "it takes no new connection")
        system.simulator.gates.release()
        answer = reading.result(ANSWER_SECONDS)
    assert answer.status_code == 200
    # A reader waits for five seconds, and is then told what is known: on a slow machine the listener may close later than that.
    assert len(answer.json()["cards"]) == 1 or answer.json()["stale"]
    assert web.wait() == 0
    system.start("web")


def test_every_line_of_every_process_is_an_object_in_json(system: System) -> None:
    """Also those of Celery, of the web server and of Python's own warnings, and of a process that stops and starts."""
    for name in ("worker", "beat"):
        process = system.processes[name]
        process.says(f"{name}_started")
        assert process.stop() == 0
        process.start().says(f"{name}_started")
    system.start("console")
    lines = {(p.name, line) for p in system.processes.values() for line in _whole(p).splitlines()}
    system.end("console")
    assert {name for name, _ in lines} == {"web", "worker", "beat", "console"}
    assert [(name, line) for name, line in lines if not _is_object(line)] == []


def _whole(process: Process) -> str:
    """What it has written, at a moment at which it is not within a line."""
    return until(lambda: (said := process.output()).endswith("\n") and said, f"{process.name} has ended its line") or ""


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _rows(system: System) -> int:
    (row,) = system.sql("SELECT count(*) AS rows FROM cardsync.events")
    return int(row["rows"])


def _connect(system: System) -> socket.socket:
    return socket.create_connection(("127.0.0.1", system.port), timeout=ANSWER_SECONDS)


def _listens(system: System) -> bool:
    try:
        _connect(system).close()
    except OSError:
        return False
    return True


def _head(system: System, lines: list[str]) -> bytes:
    return "\r\n".join([*lines, f"Host: 127.0.0.1:{system.port}", "Connection: close", "", ""]).encode()


def _exchange(system: System, lines: list[str], content: bytes) -> tuple[int, dict[str, str], str]:
    """Send exactly this, with a length if there is content and none is given; the status, the headers, the body."""
    if content and not any(line.startswith(("Content-Length", "Transfer-Encoding")) for line in lines):
        lines = [*lines, f"Content-Length: {len(content)}"]
    with closing(_connect(system)) as connection:
        connection.sendall(_head(system, lines))
        with suppress(ConnectionError):  # it answers before it has read everything, as it should
            connection.sendall(content)
        answer = b"".join(_received(connection))
    head, _, text = answer.partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    headers = dict(field.lower().split(": ", 1) for field in fields)
    system.seen(answer.decode("utf-8"))
    return int(status.split(" ")[1]), headers, text.decode("utf-8")


def _received(connection: socket.socket) -> Iterator[bytes]:
    try:
        while data := connection.recv(65_536):
            yield data
    except ConnectionResetError:
        return  # ... of a body that nobody read
