"""``max_age``: a reader waits for a fresh list, within bounds, and never at a webhook's cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from flask import Flask
from sqlalchemy import Engine

from tests.web.conftest import NotingBells
from tests.web.registry_rows import add_card, fail_now, reconcile_now

Bearer = Callable[..., dict[str, str]]
QUERY = {"environment": "sandbox", "customer_id": "cust-1"}


class _Worker(NotingBells):
    """Bells that a worker answers, on a thread of its own."""

    def __init__(self, engine: Engine, work: Callable[[Engine, int], None]) -> None:
        super().__init__()
        self._engine, self._work = engine, work
        self.threads: list[threading.Thread] = []

    def ring_customers(self, customers: Sequence[int]) -> None:
        super().ring_customers(customers)
        self.threads += [threading.Thread(target=self._work, args=(self._engine, c)) for c in customers]
        self.threads[-1].start()


def test_max_age_has_a_stale_customer_reconciled_first(
    make_app: Callable[..., Flask], engine: Engine, bearer: Bearer
) -> None:
    worker = _Worker(engine, reconcile_now)
    client = make_app(bells=worker).test_client()
    add_card(engine)
    first = client.get("/v1/cards", query_string={**QUERY, "max_age": 60}, headers=bearer()).json
    second = client.get("/v1/cards", query_string={**QUERY, "max_age": 60}, headers=bearer()).json
    third = client.get("/v1/cards", query_string={**QUERY, "max_age": 0}, headers=bearer()).json
    for thread in worker.threads:
        thread.join(10)
    assert [a["stale"] for a in (first, second, third)] == [False, False, False]  # type: ignore[index]
    assert first["reconciled_at"] is not None  # type: ignore[index]
    assert first["reconciled_at"] == second["reconciled_at"] < third["reconciled_at"]  # type: ignore[index]
    assert len(worker.customers) == 2
    assert len(first["cards"]) == 1  # type: ignore[index]


def test_a_failed_reconciliation_ends_the_wait_with_what_is_known(
    make_app: Callable[..., Flask], engine: Engine, bearer: Bearer
) -> None:
    worker = _Worker(engine, fail_now)
    client = make_app(bells=worker).test_client()
    add_card(engine)
    for _ in range(2):  # the second finds the next attempt put off, and does not wait for it
        began = time.monotonic()
        answer = client.get("/v1/cards", query_string={**QUERY, "max_age": 0}, headers=bearer()).json
        assert time.monotonic() - began < 4
        assert (answer["stale"], len(answer["cards"])) == (True, 1)  # type: ignore[index]
        worker.threads[0].join(10)
        worker._work = lambda *_: None


def test_only_some_readers_wait_and_the_others_get_what_is_known(
    make_app: Callable[..., Flask], engine: Engine, bearer: Bearer, bells: NotingBells
) -> None:
    app = make_app(web_threads=2)
    headers = bearer()
    add_card(engine)
    answers: list[bool] = []

    def read() -> None:
        response = app.test_client().get("/v1/cards", query_string={**QUERY, "max_age": 0}, headers=headers)
        answers.append(response.json["stale"])  # type: ignore[index]

    waiting = threading.Thread(target=read)
    waiting.start()
    deadline = time.monotonic() + 5
    while not bells.customers:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    began = time.monotonic()
    read()
    assert (answers, time.monotonic() - began < 2) == ([True], True)
    reconcile_now(engine, bells.customers[0])
    waiting.join(10)
    assert answers == [True, False]
