"""``max_age`` for the card of an agreement: Ottu is asked about that agreement, by a worker, while the reader waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from cardsync.core.cards import CardFacts, ListedCard, Token
from cardsync.stories import refresh_agreement
from cardsync.stories.ask_agreement import ask_agreements
from cardsync.stories.filtered_lists import FilteredListPolicy
from tests.stories.test_ask_agreement import AboutAgreements
from tests.web.rows import KEY, add_card

Bearer = Callable[..., dict[str, str]]
WAITS = refresh_agreement.refresh_agreement.__kwdefaults__
ONE, OTHER = "9999000000000001", "9999000000000002"


@pytest.fixture(autouse=True)
def patient_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader waits for five seconds; here until something comes, however long the worker of a busy machine takes."""
    monkeypatch.setitem(WAITS, "wait_seconds", 60.0)


@contextmanager
def worker(engine: Engine, about: AboutAgreements) -> Iterator[None]:
    """A worker that asks about what is due, as its tick does."""
    stopping = threading.Event()
    policy = FilteredListPolicy(KEY, daily_calls=1_000, call_seconds=10.0)

    def run() -> None:
        while not stopping.wait(0.02):
            ask_agreements(engine, about, policy, jitter=0.5)  # type: ignore[arg-type]

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(60)


def read(client: FlaskClient, headers: dict[str, str], **more: object) -> TestResponse:
    query = {"environment": "sandbox", "agreement_id": "A", **more}
    return client.get("/v1/agreements/card", query_string=query, headers=headers)


def reconciled(engine: Engine, seconds_ago: float) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE cardsync.customers SET reconciled_at = clock_timestamp() - make_interval(secs => :ago)"),
            {"ago": seconds_ago},
        )
        connection.execute(
            text("SELECT setval('cardsync.observation_no', 100)")
        )  # the rows above have numbers of their own


def test_what_a_complete_list_said_is_enough_where_it_is_new_and_one_card_claims_it(
    client: FlaskClient, engine: Engine, bearer: Bearer
) -> None:
    card_id = add_card(engine, agreement_ids=("A",))
    reconciled(engine, 30)
    answer = read(client, bearer("cards:read"), max_age=60).json
    assert answer is not None
    assert (answer["card_id"], answer["stale"]) == (str(card_id), False)
    plain = read(client, bearer("cards:read")).json
    assert plain is not None
    assert "stale" not in plain


def test_an_older_or_open_one_is_asked_about_first(client: FlaskClient, engine: Engine, bearer: Bearer) -> None:
    add_card(engine, token=ONE, agreement_ids=("A",))
    other = add_card(engine, token=OTHER, agreement_ids=("A",))
    reconciled(engine, 30)  # new, and two cards claim it
    about = AboutAgreements(card=ListedCard(Token(OTHER), CardFacts()))
    with worker(engine, about):
        answer = read(client, bearer("cards:read"), max_age=60, customer_id="cust-1").json
        again = read(client, bearer("cards:read"), max_age=60).json
    assert answer is not None
    assert again is not None
    assert (answer["card_id"], answer["stale"]) == (again["card_id"], again["stale"]) == (str(other), False)
    assert about.asked == [("sandbox", "cust-1", "A")]


def test_what_cannot_be_made_certain_in_time_is_what_is_known(
    client: FlaskClient, engine: Engine, bearer: Bearer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WAITS, "wait_seconds", 0.1)
    card_id = add_card(engine, agreement_ids=("A",))
    answer = read(client, bearer("cards:read"), max_age=0).json
    assert answer is not None
    assert (answer["card_id"], answer["stale"]) == (str(card_id), True)


def test_an_agreement_that_only_the_reader_names_is_asked_about_and_forgotten_if_ottu_has_no_card_for_it(
    client: FlaskClient, engine: Engine, bearer: Bearer
) -> None:
    about = AboutAgreements()
    with worker(engine, about):
        assert read(client, bearer("cards:read"), max_age=60, customer_id="cust-1").status_code == 404
        assert read(client, bearer("cards:read"), max_age=60).status_code == 404  # nothing says which customer's it is
    assert about.asked == [("sandbox", "cust-1", "A")]
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM cardsync.known_agreements")).scalar_one() == 0
        assert connection.execute(text("SELECT count(*) FROM registry.agreements_at_risk")).scalar_one() == 0


def test_another_customers_card_is_not_shown(client: FlaskClient, engine: Engine, bearer: Bearer) -> None:
    add_card(engine, agreement_ids=("A",))
    assert read(client, bearer("cards:read"), customer_id="cust-1").status_code == 200
    assert read(client, bearer("cards:read"), customer_id="cust-2").status_code == 404
