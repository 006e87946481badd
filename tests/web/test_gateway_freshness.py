"""``max_age`` for one gateway's active cards: Ottu's list filtered by the gateway is asked for, while the reader waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from cardsync.core.cards import CardFacts, ListedCard, Token
from cardsync.stories import refresh, refresh_gateway
from cardsync.stories.ask_gateway import ask_gateway, claim_gateways
from cardsync.stories.filtered_lists import FilteredListPolicy
from tests.stories.test_ask_gateway import AboutGateways
from tests.web.conftest import NotingBells
from tests.web.rows import KEY, add_card, due, reconcile_now

Bearer = Callable[..., dict[str, str]]
ONE, OTHER = "9999000000000001", "9999000000000002"
SHOWN = ListedCard(Token(ONE), CardFacts(number=f"**** {ONE[-4:]}", pg_code="one"))
WAITS = (refresh.refresh.__kwdefaults__, refresh_gateway.refresh_gateway.__kwdefaults__)


@pytest.fixture(autouse=True)
def patient_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader waits for five seconds; here until something comes, however long the worker of a busy machine takes."""
    for wait in WAITS:
        monkeypatch.setitem(wait, "wait_seconds", 60.0)


@contextmanager
def worker(engine: Engine, about: AboutGateways) -> Iterator[None]:
    """A worker that asks about what is due: gateways, and complete lists, which change nothing."""
    stopping = threading.Event()
    policy = FilteredListPolicy(KEY, daily_calls=1_000, call_seconds=10.0)

    def run() -> None:
        while not stopping.wait(0.02):
            for ticket in claim_gateways(engine, policy, limit=5):
                ask_gateway(engine, about, ticket, policy, jitter=0.5)  # type: ignore[arg-type]
            for customer in due(engine):
                reconcile_now(engine, customer)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(60)


@pytest.fixture
def about() -> AboutGateways:
    return AboutGateways((SHOWN,))


def add_cards(engine: Engine, *, seconds_ago: float = 3_600) -> None:
    """A customer with a card of each of two gateways, listed so long ago."""
    add_card(engine, token=ONE, pg_code="one")
    add_card(engine, token=OTHER, pg_code="other")
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE cardsync.customers SET reconciled_at = clock_timestamp() - make_interval(secs => :ago)"),
            {"ago": seconds_ago},
        )
        connection.execute(
            text("SELECT setval('cardsync.observation_no', 100)")
        )  # the rows above have their own numbers


def read(client: FlaskClient, headers: dict[str, str], **more: object) -> Any:
    query = {"environment": "sandbox", "customer_id": "cust-1", "pg_code": "one", **more}
    answer = client.get("/v1/cards", query_string=query, headers=headers)
    assert answer.status_code == 200
    return answer.json


def test_a_reader_of_one_gateway_waits_for_its_list_alone_and_others_share_its_freshness(
    client: FlaskClient, engine: Engine, bearer: Bearer, bells: NotingBells, about: AboutGateways
) -> None:
    add_cards(engine)
    with worker(engine, about):
        before, first, second = (read(client, bearer(), **more) for more in ({}, {"max_age": 60}, {"max_age": 60}))
    assert about.asked == [("sandbox", "cust-1", "one")]
    assert (first["stale"], second["stale"], bells.rung) == (False, False, 1)
    assert before["reconciled_at"] < first["reconciled_at"] == second["reconciled_at"]
    assert [card["pg_code"] for card in first["cards"]] == ["one"]
    everything = read(client, bearer(), pg_code="other")  # of which nothing newer is known
    assert everything["reconciled_at"] == before["reconciled_at"]


def test_a_complete_list_that_is_new_enough_serves_the_reader_without_a_call(
    client: FlaskClient, engine: Engine, bearer: Bearer, bells: NotingBells
) -> None:
    add_cards(engine, seconds_ago=30)
    assert (read(client, bearer(), max_age=3_600)["stale"], bells.rung) == (False, 0)


def test_an_answer_that_differs_has_the_reader_wait_for_the_complete_list(
    client: FlaskClient, engine: Engine, bearer: Bearer, about: AboutGateways
) -> None:
    add_cards(engine)
    about.cards = ()
    with worker(engine, about):
        answer = read(client, bearer(), max_age=60)
    assert (answer["stale"], len(about.asked)) == (False, 1)
    with engine.connect() as connection:
        listed_at, dirty = connection.execute(
            text(
                "SELECT reconciled_at >= clock_timestamp() - interval '10 minutes', dirty_since FROM cardsync.customers"
            )
        ).one()
    assert (listed_at, dirty, len(answer["cards"])) == (True, None, 1)  # it removed nothing itself


@pytest.mark.parametrize("more", [{"status": "all"}, {"pg_code": None}, {"status": ["active", "removed"]}])
def test_a_reader_who_wants_more_than_one_gateways_active_cards_gets_a_complete_list(
    client: FlaskClient, engine: Engine, bearer: Bearer, about: AboutGateways, more: dict[str, object]
) -> None:
    add_cards(engine)
    query = {"environment": "sandbox", "customer_id": "cust-1", "pg_code": "one", "max_age": 60, **more}
    with worker(engine, about):
        given = {name: value for name, value in query.items() if value is not None}
        answer = client.get("/v1/cards", query_string=given, headers=bearer()).json
    assert answer is not None
    assert (answer["stale"], about.asked) == (False, [])


@pytest.mark.parametrize("known", [True, False])
def test_before_the_first_complete_list_that_is_asked_for(
    client: FlaskClient, engine: Engine, bearer: Bearer, about: AboutGateways, known: bool
) -> None:
    if known:
        add_cards(engine)
        with engine.begin() as connection:
            connection.execute(text("UPDATE cardsync.customers SET reconciled_at = NULL"))
    with worker(engine, about):
        answer = read(client, bearer(), max_age=60)
    assert (answer["stale"], about.asked) == (False, [])


def test_a_complete_list_that_is_due_anyway_serves_the_reader(
    client: FlaskClient, engine: Engine, bearer: Bearer, about: AboutGateways
) -> None:
    add_cards(engine)
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE cardsync.customers SET due_at = clock_timestamp(), lane = 'hint', dirty_since = clock_timestamp(),"
                " dirty_no = nextval('cardsync.observation_no')"
            )
        )
    with worker(engine, about):
        answer = read(client, bearer(), max_age=60)
    assert (answer["stale"], about.asked) == (False, [])


def test_who_asks_again_within_the_cool_down_gets_what_is_known(
    client: FlaskClient, engine: Engine, bearer: Bearer, about: AboutGateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_cards(engine)
    with worker(engine, about):
        read(client, bearer(), max_age=60)
        monkeypatch.setattr("cardsync.store.gateway_asks.COOL_DOWN_SECONDS", 3_600.0)
        monkeypatch.setitem(WAITS[1], "wait_seconds", 0.1)
        assert read(client, bearer(), pg_code="other", max_age=0)["stale"]
    assert len(about.asked) == 1


def test_without_a_worker_the_reader_gets_what_is_known(
    client: FlaskClient, engine: Engine, bearer: Bearer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WAITS[1], "wait_seconds", 0.1)
    add_cards(engine)
    answer = read(client, bearer(), max_age=60)
    assert (answer["stale"], len(answer["cards"])) == (True, 1)
