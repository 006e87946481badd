"""``max_age``: a reader waits for a fresh list, within bounds, and never at a webhook's cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from flask import Flask
from sqlalchemy import Engine, text

from cardsync.stories import refresh
from tests.waiting import until
from tests.web.conftest import NotingBells
from tests.web.rows import add_card, due, fail_now, reconcile_now

Bearer = Callable[..., dict[str, str]]
QUERY = {"environment": "sandbox", "customer_id": "cust-1"}
PATIENCE_SECONDS = 50.0  # less than a failure puts the next attempt off (``fail_now``)


@pytest.fixture(autouse=True)
def patient_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader waits for five seconds; here until something comes, however long the worker of a busy machine takes."""
    monkeypatch.setitem(refresh.refresh.__kwdefaults__, "wait_seconds", PATIENCE_SECONDS)


class _Worker(NotingBells):
    """Bells that a worker answers, on a thread of its own."""

    def __init__(self, engine: Engine, work: Callable[[Engine, int], None]) -> None:
        super().__init__()
        self._engine, self._work = engine, work
        self.threads: list[threading.Thread] = []

    are_in_vain = False

    def ring(self) -> None:
        super().ring()
        for customer in due(self._engine):  # none, while the next attempt is put off
            self.threads.append(threading.Thread(target=self._work, args=(self._engine, customer)))
            self.threads[-1].start()


def test_max_age_has_a_stale_customer_reconciled_first(
    make_app: Callable[..., Flask], engine: Engine, bearer: Bearer
) -> None:
    worker = _Worker(engine, reconcile_now)
    client = make_app(bells=worker).test_client()
    add_card(engine)
    first = client.get("/v1/cards", query_string={**QUERY, "max_age": 60}, headers=bearer()).json
    second = client.get("/v1/cards", query_string={**QUERY, "max_age": 60}, headers=bearer()).json
    with engine.begin() as connection:  # the cool-down is over
        statement = "UPDATE cardsync.customers SET reconciled_at = reconciled_at - interval '6 seconds'"
        connection.execute(text(statement))
    third = client.get("/v1/cards", query_string={**QUERY, "max_age": 0}, headers=bearer()).json
    for thread in worker.threads:
        thread.join(60)
    assert [a["stale"] for a in (first, second, third)] == [False, False, False]  # type: ignore[index]
    assert first["reconciled_at"] is not None  # type: ignore[index]
    assert first["reconciled_at"] == second["reconciled_at"] < third["reconciled_at"]  # type: ignore[index]
    assert worker.rung == 2
    assert len(first["cards"]) == 1  # type: ignore[index]


def test_a_failed_reconciliation_ends_the_wait_with_what_is_known(
    make_app: Callable[..., Flask], engine: Engine, bearer: Bearer, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = _Worker(engine, fail_now)
    client = make_app(bells=worker).test_client()
    add_card(engine)
    began = time.monotonic()
    first = client.get("/v1/cards", query_string={**QUERY, "max_age": 0}, headers=bearer()).json
    assert (
        time.monotonic() - began < PATIENCE_SECONDS - 10
    )  # it is the failure that ends the wait, and not the patience
    worker.threads[0].join(60)
    monkeypatch.setitem(refresh.refresh.__kwdefaults__, "wait_seconds", 0.5)  # in vain
    worker._work = lambda *_: None  # the next attempt is put off: it is rung for in vain
    second = client.get("/v1/cards", query_string={**QUERY, "max_age": 0}, headers=bearer()).json
    assert [(a["stale"], len(a["cards"])) for a in (first, second)] == [(True, 1)] * 2  # type: ignore[index]


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
    until(lambda: bells.rung, "the first reader waits")
    read()
    assert answers == [True]  # and the first one waits still
    reconcile_now(engine, due(engine)[0])
    waiting.join(60)
    assert answers == [True, False]
