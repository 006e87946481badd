"""A worker that is stopped like SIGSTOP stops it, seen from outside; and a web that is told to stop while hints stream in."""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from tests.e2e.marks import ONE_BROKER
from tests.e2e.processes import run
from tests.e2e.system import ANSWER_SECONDS, System
from tests.waiting import until

pytestmark = ONE_BROKER

NOTICED_SECONDS = 240.0  # a deadline: a heartbeat is missed after 30 s
SENT_SECONDS = 240.0  # a deadline
SENDERS = 4
HINTS_OF_A_SENDER = 40


def health(system: System, kind: str) -> bool:
    """What a container's check is told."""
    settings = {**system.settings, "CARDSYNC_DATABASE_URL": system.address("worker")}
    done = run(system.folder, settings, "health", kind, "--json")
    said = json.loads(done.stdout)
    assert said["healthy"] is (done.returncode == 0), done.stdout + done.stderr
    return bool(said["healthy"])


def missing(system: System) -> set[str]:
    """The kinds of processes that the web misses."""
    said = system.get("/readyz").json()
    found = said.get("checks", said)
    return {kind for kind in ("worker", "beat") if "none at work" in str(found.get(kind, ""))}


def test_a_worker_that_is_stopped_is_unhealthy_and_the_web_says_so(system: System) -> None:
    worker, customer = system.processes["worker"], system.customer()
    until(lambda: health(system, "worker") and health(system, "beat"), "both are at work")
    worker.pause()
    try:
        until(lambda: not health(system, "worker"), "the check fails", seconds=NOTICED_SECONDS)
        until(lambda: missing(system) == {"worker"}, "the web misses a worker", seconds=NOTICED_SECONDS)
        assert health(system, "beat")
        system.save_card(customer)  # the web takes hints all the same
    finally:
        worker.resume()
    until(lambda: health(system, "worker"), "it is healthy again")
    until(lambda: missing(system) == set(), "and the web says so")
    system.until_active(customer)


class Balancer:
    """Sends each hint to a web that said lately that it is ready, as a balancer with health checks does."""

    def __init__(self, *urls: str) -> None:
        self._urls, self._http = urls, httpx.Client(trust_env=False, timeout=ANSWER_SECONDS)
        self._ready = list(urls)
        self._over = threading.Event()
        self._checker = threading.Thread(target=self._check)
        self.left = threading.Event()  # the first web gets no more
        self.answers: Counter[tuple[str, int]] = Counter()
        self._under_way: Counter[str] = Counter()
        self._guard = threading.Condition()

    def _check(self) -> None:
        while not self._over.wait(0.05):
            ready = [url for url in self._urls if self._http.get(f"{url}/readyz").status_code == 200]
            with self._guard:
                self._ready = ready or self._ready
                if self._urls[0] not in self._ready:
                    self.left.set()
                    return

    def send(self, hint: bytes) -> None:
        with self._guard:
            url = self._ready[0]
            self._under_way[url] += 1
        answer = self._http.post(f"{url}/webhooks/ottu", content=hint, headers={"Content-Type": "application/json"})
        with self._guard:
            self.answers[url, answer.status_code] += 1
            self._under_way[url] -= 1
            self._guard.notify_all()

    def wait_until_nothing_is_under_way(self, url: str) -> None:
        with self._guard:
            assert self._guard.wait_for(lambda: not self._under_way[url], ANSWER_SECONDS)

    @contextmanager
    def checking(self) -> Iterator[None]:
        self._checker.start()
        try:
            yield
        finally:
            self._over.set()
            self._checker.join()
            self._http.close()


def test_a_web_that_is_told_to_stop_under_load_refuses_no_hint(system: System) -> None:
    first_url = f"http://127.0.0.1:{system.second_port}"
    first = system.start("web", "web-2", port=system.second_port, drain_seconds=300)
    customers = [system.customer() for _ in range(SENDERS * HINTS_OF_A_SENDER)]
    hints = [system.notification(customer)[0] for customer in customers]
    balancer, half_way = Balancer(first_url, system.url), threading.Barrier(SENDERS + 1)

    def sender(own: list[bytes]) -> None:
        half = len(own) // 2
        for hint in own[:half]:
            balancer.send(hint)
        half_way.wait(SENT_SECONDS)
        for hint in own[half:-1]:
            balancer.send(hint)
        balancer.left.wait(SENT_SECONDS)
        balancer.send(own[-1])

    with balancer.checking():
        threads = [threading.Thread(target=sender, args=[hints[n::SENDERS]]) for n in range(SENDERS)]
        for thread in threads:
            thread.start()
        half_way.wait(SENT_SECONDS)
        first.signal(signal.SIGTERM)  # the senders go on
        assert balancer.left.wait(SENT_SECONDS)
        balancer.wait_until_nothing_is_under_way(first_url)
        first.signal(signal.SIGTERM)  # the end of the drain, which a test does not wait for
        assert first.wait() == 0
        for thread in threads:
            thread.join()
    del system.processes["web-2"]
    assert sum(balancer.answers.values()) == len(hints)
    assert {status for _, status in balancer.answers} == {200}
    assert balancer.answers[first_url, 200] >= SENDERS * (HINTS_OF_A_SENDER // 2)
    assert balancer.answers[system.url, 200] >= SENDERS
    system.until_active(*customers)


@pytest.mark.parametrize("drain_seconds", [0, 1])
def test_a_web_that_is_told_to_stop_answers_who_waits_for_changes(system: System, drain_seconds: int) -> None:
    """The wait is longer than a process has that was told to stop: who still waited then would be cut off."""
    port, key = system.second_port, system.key("cards:read")
    web = system.start("web", "web-2", port=port, drain_seconds=drain_seconds)
    head = system.get("/v1/changes", key, after=0, limit=1).json()["head"]
    ask = httpx.Request(
        "GET",
        f"http://127.0.0.1:{port}/v1/changes",
        params={"after": head, "wait": 30},
        headers={"Authorization": f"Bearer {key}"},
    )
    with httpx.Client(trust_env=False, timeout=ANSWER_SECONDS) as http, ThreadPoolExecutor(1) as caller:
        waiting = caller.submit(http.send, ask)
        until(lambda: _somebody_waits(system), "somebody waits")
        web.signal(signal.SIGTERM)
        answer = waiting.result(SENT_SECONDS)
        assert web.wait() == 0
    del system.processes["web-2"]
    assert (answer.status_code, answer.json()["changes"]) == (200, [])


def _somebody_waits(system: System) -> bool:
    """Whether a web has asked for the feed's head, as it does again and again while somebody waits, and only then."""
    asked = "SELECT count(*) AS n FROM pg_stat_activity WHERE query = 'SELECT seq FROM cardsync.feed_head'"
    return bool(system.sql(asked)[0]["n"])
