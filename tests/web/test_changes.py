"""``GET /v1/changes``: the feed over HTTP, in order and without gaps, and a wait that holds no thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError
from werkzeug.test import Client

from cardsync.store.access import keys
from cardsync.stories.begin_epoch import begin_epoch
from cardsync.web.api.change_schemas import CardChange
from cardsync.web.long_polls import LongPolls
from cardsync.web.services import Services
from tests.waiting import WAIT_SECONDS, until
from tests.web.rows import add_card
from tests.web.served import Served

Bearer = Callable[..., dict[str, str]]


def rows_of(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT * FROM registry.card_changes ORDER BY seq")).mappings())


def test_changes_come_in_order_without_gaps_page_by_page(client: FlaskClient, engine: Engine, bearer: Bearer) -> None:
    for number in range(5):
        add_card(engine, token=f"tok-fake-000{number}")
    headers = bearer("cards:read")
    after, seen = 0, []
    while page := client.get(f"/v1/changes?after={after}&limit=2", headers=headers).json:
        assert page["head"] == len(rows_of(engine))
        if not page["changes"]:
            break
        seen += page["changes"]
        after = page["next_after"]
    assert page is not None
    assert page["next_after"] == after
    assert [one["seq"] for one in seen] == [row["seq"] for row in rows_of(engine)]
    assert set(seen[0]) == {"seq", "at", "card_id", "environment", "customer_id", "change", "fields", "cause", "epoch"}


@pytest.mark.parametrize(
    "query", ["", "after=-1", "after=x", "after=0&limit=0", "after=0&limit=1001", "after=0&wait=31", "after=0&more=1"]
)
def test_a_wrong_question_is_refused(client: FlaskClient, bearer: Bearer, query: str) -> None:
    assert client.get(f"/v1/changes?{query}", headers=bearer("cards:read")).status_code == 422


def test_the_scope_is_asked_for(client: FlaskClient, bearer: Bearer) -> None:
    assert client.get("/v1/changes?after=0").status_code == 401
    assert client.get("/v1/changes?after=0", headers=bearer("cards:delete")).status_code == 403


def test_a_wait_ends_with_the_next_change_and_holds_no_thread(
    make_app: Callable[..., Flask], engine: Engine, bearer: Bearer
) -> None:
    served = Served(make_app(web_threads=1))
    headers = bearer("cards:read")

    def ask(wait: int) -> Any:
        return Client(served).get(f"/v1/changes?after=0&wait={wait}", headers=headers).json

    assert ask(0) == {"changes": [], "next_after": 0, "head": 0, "epoch": 1}
    polls = served._dispatcher._polls
    with ThreadPoolExecutor(20) as callers:
        asked = [callers.submit(ask, 30) for _ in range(20)]
        until(lambda: polls._waiting == 20, "twenty wait")
        assert ask(0) == {"changes": [], "next_after": 0, "head": 0, "epoch": 1}  # the one thread is free
        add_card(engine)
        answers = [one.result(60) for one in asked]
    assert all(answer["changes"] and answer["next_after"] == answer["head"] for answer in answers)
    assert polls._waiting == 0


def test_a_wait_ends_empty_when_its_time_is_over(make_app: Callable[..., Flask], bearer: Bearer) -> None:
    answer = Client(Served(make_app())).get("/v1/changes?after=0&wait=1", headers=bearer("cards:read"))
    assert (answer.status_code, answer.json) == (200, {"changes": [], "next_after": 0, "head": 0, "epoch": 1})


def test_beyond_its_places_a_wait_is_refused_and_a_question_is_answered(
    make_app: Callable[..., Flask], engine: Engine, bearer: Bearer
) -> None:
    served = Served(make_app())
    served._dispatcher._polls._places = 0
    headers = bearer("cards:read")
    refused = Client(served).get("/v1/changes?after=0&wait=30", headers=headers)
    assert refused.status_code == 503
    assert (refused.json or {})["code"] == "too_many_waiting"
    assert int(refused.headers["Retry-After"]) > 0
    assert Client(served).get("/v1/changes?after=0", headers=headers).status_code == 200
    add_card(engine)
    assert Client(served).get("/v1/changes?after=0&wait=30", headers=headers).status_code == 200


@pytest.mark.parametrize("database", ["answers", "hangs"])
def test_all_waits_end_once_the_process_is_told_to_stop(database: str) -> None:
    told, asked, let_go = threading.Event(), threading.Event(), threading.Event()

    def head() -> int:
        asked.set()
        if database == "hangs":
            let_go.wait(WAIT_SECONDS)
        return 0

    async def wait_for_long() -> None:
        polls = LongPolls(head, is_leaving=told.is_set)
        waiting = [asyncio.create_task(polls.wait(0, 10 * WAIT_SECONDS)) for _ in range(3)]
        await asyncio.to_thread(asked.wait, WAIT_SECONDS)
        told.set()
        await asyncio.wait_for(asyncio.gather(*waiting), WAIT_SECONDS)
        let_go.set()
        polls.close()

    asyncio.run(wait_for_long())


def test_no_wait_begins_in_a_process_that_was_told_to_stop(make_app: Callable[..., Flask], bearer: Bearer) -> None:
    served, headers = Served(make_app()), bearer("cards:read")
    served._dispatcher.is_leaving = lambda: True
    refused = Client(served).get("/v1/changes?after=0&wait=30", headers=headers)
    assert (refused.status_code, (refused.json or {})["code"]) == (503, "too_many_waiting")
    assert int(refused.headers["Retry-After"]) > 0
    assert Client(served).get("/v1/changes?after=0", headers=headers).status_code == 200


def test_a_wait_counts_once_against_its_keys_rate(make_app: Callable[..., Flask], engine: Engine) -> None:
    key = keys.new_key()
    with engine.begin() as connection:
        keys.create(connection, "slow", keys.key_hash(key), ["cards:read"], terms=keys.Terms(requests_per_second=1))
    served, counted = Served(make_app()), []
    quotas = Services.of_app(served._dispatcher._app).key_quotas
    lets_pass = quotas.lets_pass

    def count(of: keys.ApiKey) -> bool:
        counted.append(of.name)
        return lets_pass(of)

    quotas.lets_pass = count  # type: ignore[method-assign]
    answer = Client(served).get("/v1/changes?after=0&wait=1", headers={"Authorization": f"Bearer {key}"})
    assert (answer.status_code, counted) == (200, ["slow"])


def test_who_may_not_ask_takes_no_place(make_app: Callable[..., Flask], bearer: Bearer) -> None:
    served = Served(make_app())
    assert Client(served).get("/v1/changes?after=0&wait=30").status_code == 401
    assert served._dispatcher._polls._waiting == 0


def test_under_another_server_the_answer_comes_at_once(client: FlaskClient, bearer: Bearer) -> None:
    assert client.get("/v1/changes?after=0&wait=30", headers=bearer("cards:read")).json == {
        "changes": [],
        "next_after": 0,
        "head": 0,
        "epoch": 1,
    }


def test_while_the_database_is_away_a_wait_ends_with_its_time() -> None:
    asked: list[int] = []

    def away() -> int:
        asked.append(1)
        raise OperationalError("", None, Exception())

    asyncio.run(LongPolls(away).wait(0, 0.3))
    until(lambda: asked, "it asked")  # on a thread, which may have begun late


def test_a_change_with_a_word_of_another_release_is_shown_as_it_is() -> None:
    row = {"seq": 1, "at": "2027-01-01T00:00:00Z", "card_id": "6f1f2d0e-6a43-4d0c-9a54-0d6ce7f2f7aa"}
    whose = {"environment": "sandbox", "customer_id": "c", "fields": [], "epoch": 1}
    shown = CardChange.model_validate({**row, **whose, "change": "renamed", "cause": "telepathy"})
    assert (shown.change, shown.cause) == ("renamed", "telepathy")


def test_a_number_of_a_lost_future_and_an_ended_epoch_get_410_with_where_to_go_on(
    client: FlaskClient, engine: Engine, bearer: Bearer
) -> None:
    add_card(engine)
    headers = bearer("cards:read")
    page = client.get("/v1/changes?after=0&epoch=1", headers=headers).json or {}
    assert (page["epoch"], page["head"], [one["epoch"] for one in page["changes"]]) == (1, 1, [1])
    begun = begin_epoch(engine, restored_to=None, by="operator")
    headers = bearer("cards:read")  # those from before are held
    for query in (
        "after=7",
        "after=7&wait=30",
        "after=1&epoch=1",
        f"after={begun.after_seq}&epoch=1",
        "after=0&epoch=99",
    ):
        refused = client.get(f"/v1/changes?{query}", headers=headers)
        told = refused.json or {}
        assert (refused.status_code, told["code"]) == (410, "feed_restored")
        assert (told["epoch"], told["after"]) == (begun.epoch, begun.after_seq)
    add_card(engine, token="tok-fake-0002")
    page = client.get(f"/v1/changes?after={told['after']}&epoch={told['epoch']}", headers=headers).json or {}
    assert [(one["seq"], one["epoch"]) for one in page["changes"]] == [(begun.after_seq + 1, begun.epoch)]
    # One that was only behind, and names no epoch, gets all there is.
    page = client.get("/v1/changes?after=0", headers=headers).json or {}
    assert [one["seq"] for one in page["changes"]] == [1, begun.after_seq + 1]


def test_a_key_that_is_held_since_a_restore_opens_nothing(client: FlaskClient, engine: Engine, bearer: Bearer) -> None:
    headers = bearer("cards:read")
    assert client.get("/v1/changes?after=0", headers=headers).status_code == 200
    begin_epoch(engine, restored_to=None, by="operator")
    assert client.get("/v1/changes?after=0", headers=headers).status_code == 401
    with engine.begin() as connection:
        keys.release(connection)
    assert client.get("/v1/changes?after=0", headers=headers).status_code == 200
