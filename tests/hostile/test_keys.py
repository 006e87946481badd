"""One API key, or one login, in a stranger's hands: what it can spend, delete and find out."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from cardsync.core import call_budget
from cardsync.store import freshness
from cardsync.store.access import keys
from cardsync.store.access.keys import SCOPES, Terms
from cardsync.store.deletions import askers, requests
from cardsync.stories.forget import ForgetPolicy, forget
from tests.stories.shop import Shop, listed
from tests.web.conftest import NotingBells
from tests.web.rows import add_card

MakeApp = Callable[..., Flask]
COOL_DOWN_SECONDS = 600.0  # so that no pause of the machine is longer


class Worker(NotingBells):
    """Bells that a worker answers at once, in this thread."""

    def __init__(self, shop: Shop) -> None:
        super().__init__()
        self._shop = shop

    are_in_vain = False

    def ring(self) -> None:
        super().ring()
        for row in self._shop.execute("SELECT id FROM cardsync.customers WHERE due_at <= clock_timestamp()"):
            self._shop.reconcile(row.id)


@pytest.fixture
def shop(engine: Engine, ingest_engine: Engine, web_engine: Engine, worker_engine: Engine) -> Shop:
    return Shop(engine, ingest_engine, web_engine, worker_engine)


@pytest.fixture
def worker(shop: Shop) -> Worker:
    return Worker(shop)


@pytest.fixture
def client(make_app: MakeApp, worker: Worker) -> FlaskClient:
    return make_app(bells=worker, ottu_daily_calls=1_000).test_client()


@pytest.fixture
def long_cool_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cool-down that does not end while a test goes on."""
    monkeypatch.setattr(freshness, "COOL_DOWN_SECONDS", COOL_DOWN_SECONDS)
    for function in (freshness.want, freshness.ask):
        monkeypatch.setitem(function.__kwdefaults__, "cool_down_seconds", COOL_DOWN_SECONDS)


def key_of(engine: Engine, *, name: str = "shop", **terms: Any) -> dict[str, str]:
    key = keys.new_key()
    with engine.begin() as connection:
        keys.create(
            connection, name, keys.key_hash(key), SCOPES, terms=Terms(**{"requests_per_second": 10_000, **terms})
        )
    return {"Authorization": f"Bearer {key}"}


def read(client: FlaskClient, headers: dict[str, str], customer_id: str = "cust-1", **query: Any) -> Any:
    whose = {"environment": "sandbox", "customer_id": customer_id, "max_age": 0, **query}
    response = client.get("/v1/cards", query_string=whose, headers=headers)
    assert response.status_code == 200
    return response.json


def look(client: FlaskClient, headers: dict[str, str], customer_id: str = "cust-1") -> Any:
    return client.post(
        "/v1/reconciliations", json={"environment": "sandbox", "customer_id": customer_id}, headers=headers
    )


def count(engine: Engine, statement: str) -> int:
    with engine.connect() as connection:
        found: int = connection.execute(text(statement)).scalar_one()
    return found


# Calls.


def test_a_key_that_reads_invented_customers_causes_no_more_calls_than_its_quota(
    engine: Engine, shop: Shop, client: FlaskClient
) -> None:
    shop.ottu.cards = ()
    headers = key_of(engine, calls_per_day=5)
    stale = [read(client, headers, f"invented-{n}")["stale"] for n in range(20)]
    assert stale == [False] * 5 + [True] * 15
    assert shop.ottu.calls == 5
    assert count(engine, "SELECT count(*) FROM cardsync.customers") == 5
    response = look(client, headers, "invented-99")
    assert response.status_code == 429
    assert response.content_type == "application/problem+json"
    assert 0 < int(response.headers["Retry-After"]) <= 86_400


def test_a_key_without_a_number_has_a_tenth_of_the_allowance(engine: Engine, shop: Shop, client: FlaskClient) -> None:
    headers = key_of(engine)
    for n in range(110):
        read(client, headers, f"invented-{n}")
    assert shop.ottu.calls == call_budget.calls_of_a_key(1_000) == 100


def test_invented_customers_stand_in_no_line_and_are_forgotten_after_a_day(
    engine: Engine, shop: Shop, client: FlaskClient
) -> None:
    headers = key_of(engine)
    assert read(client, headers, "invented")["stale"] is False
    assert look(client, headers, "invented-too").status_code == 202
    shop.ottu.cards = listed("9999000000000001")
    assert len(read(client, headers, "real")["cards"]) == 1
    waiting = "SELECT count(*) FROM cardsync.customers WHERE due_at IS NULL"  # those in line for routine looks
    assert count(engine, waiting) == 1
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE cardsync.customers SET probation_since = probation_since - interval '25 hours'")
        )
    assert forget(shop.worker, ForgetPolicy({"given_up": 30, "customer": 90, "probation": 1}))["probation"] == 2
    with engine.connect() as connection:
        assert connection.execute(text("SELECT customer_id FROM cardsync.customers")).scalars().all() == ["real"]


def test_a_customer_that_somebody_else_names_stays(engine: Engine, shop: Shop, client: FlaskClient) -> None:
    headers = key_of(engine)
    read(client, headers)
    assert count(engine, "SELECT count(*) FROM cardsync.customers WHERE probation_since IS NOT NULL") == 1
    shop.hint()
    assert count(engine, "SELECT count(*) FROM cardsync.customers WHERE probation_since IS NOT NULL") == 0


@pytest.mark.usefixtures("long_cool_down")
def test_one_customer_is_asked_about_once_in_a_cool_down_however_many_ask(
    engine: Engine, shop: Shop, client: FlaskClient
) -> None:
    shop.ottu.cards = listed("9999000000000001")
    first, second = key_of(engine), key_of(engine, name="another")
    assert read(client, first)["stale"] is False
    for headers in (first, second) * 5:
        answer = read(client, headers)
        assert answer["stale"] is True
        assert len(answer["cards"]) == 1  # what is known
        assert look(client, headers).status_code == 202
    assert shop.ottu.calls == 1
    with engine.begin() as connection:  # what was asked for comes when the cool-down ends
        due = "SELECT extract(epoch FROM due_at - reconciled_at)::float8 FROM cardsync.customers WHERE dirty_since IS NOT NULL"
        assert connection.execute(text(due)).scalar_one() == pytest.approx(COOL_DOWN_SECONDS)
        connection.execute(
            text("""
                UPDATE cardsync.customers
                SET reconciled_at = reconciled_at - make_interval(secs => :over), due_at = due_at - make_interval(secs => :over)
            """),
            {"over": COOL_DOWN_SECONDS + 1},
        )
    assert read(client, first)["stale"] is False
    assert shop.ottu.calls == 2


@pytest.mark.usefixtures("long_cool_down")
def test_what_is_asked_for_during_a_look_comes_after_the_cool_down_and_not_at_once(
    engine: Engine, shop: Shop, client: FlaskClient
) -> None:
    headers = key_of(engine)

    def ask_meanwhile() -> None:
        assert look(client, headers).status_code == 202

    shop.ottu.meanwhile = ask_meanwhile
    read(client, headers)
    assert shop.ottu.calls == 1
    with engine.connect() as connection:
        due = "SELECT due_at > clock_timestamp(), dirty_since IS NOT NULL, lane FROM cardsync.customers"
        assert tuple(connection.execute(text(due)).one()) == (True, True, "read")


def test_hints_have_calls_when_keys_have_spent_theirs(engine: Engine, shop: Shop, client: FlaskClient) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO cardsync.call_minutes VALUES (date_trunc('minute', now()), 'read', :calls)"),
            {"calls": -(-shop.policy.daily_calls // call_budget.READS_SHARE)},
        )
    assert read(client, key_of(engine))["stale"] is True
    assert shop.ottu.calls == 0
    (customer,) = shop.hint("another")
    shop.reconcile(customer)
    assert shop.ottu.calls == 1


def test_a_key_that_sends_too_many_requests_gets_429(engine: Engine, client: FlaskClient) -> None:
    headers = key_of(engine, requests_per_second=1)
    path = f"/v1/cards/{uuid.uuid4()}"
    answers = [client.get(path, headers=headers) for _ in range(5)]
    statuses = [answer.status_code for answer in answers]
    assert statuses[0] == 404
    assert 429 in statuses
    refused = answers[statuses.index(429)]
    assert (refused.content_type, refused.headers["Retry-After"]) == ("application/problem+json", "1")
    assert client.get(path, headers=key_of(engine, name="another")).status_code == 404


# Deletions.


def ask(client: FlaskClient, headers: dict[str, str], card_id: uuid.UUID, key: str, **more: Any) -> Any:
    return client.post(
        "/v1/deletions", json={"card_id": str(card_id), **more}, headers={**headers, "Idempotency-Key": key}
    )


def block(engine: Engine, deletion_id: str, *, agreement: str | None = None) -> None:
    """What a worker writes when Ottu refuses."""
    with engine.begin() as connection:
        connection.execute(
            text("""
                UPDATE cardsync.deletions
                SET phase = 'blocked', due_at = NULL, called_at = now(), finished_at = clock_timestamp(), attempts = 1,
                    error = 'Ottu refuses (403)',
                    locked_by = CASE WHEN cast(:agreement AS text) IS NULL THEN '{}' ELSE ARRAY[:agreement] END
                WHERE deletion_id = :deletion_id
            """),
            {"deletion_id": deletion_id, "agreement": agreement},
        )
        connection.execute(text("UPDATE cardsync.cards SET status = 'active' WHERE status = 'deleting'"))


def test_asking_again_for_a_locked_card_costs_no_call_and_flaps_nothing(
    engine: Engine, shop: Shop, client: FlaskClient
) -> None:
    card_id = add_card(engine, agreement_ids=("agr-1",))
    headers = key_of(engine)
    first = ask(client, headers, card_id, "k-0").json["deletion_id"]
    block(engine, first, agreement="agr-1")
    changes = count(engine, "SELECT count(*) FROM cardsync.card_changes")
    steps = count(engine, "SELECT count(*) FROM cardsync.deletion_steps")
    for n in range(1, 50):
        answer = ask(client, headers, card_id, f"k-{n}")
        assert (answer.status_code, answer.json["deletion_id"], answer.json["status"]) == (202, first, "blocked")
    assert count(engine, "SELECT count(*) FROM cardsync.card_changes") == changes
    assert count(engine, "SELECT count(*) FROM cardsync.deletion_steps") == steps
    assert ask(client, headers, card_id, "when", when_unlocked=True).json["when_unlocked"] is True


@pytest.mark.parametrize("change", ["an hour passed", "the agreement moved"])
def test_a_locked_card_is_asked_for_again_when_it_may_be_unlocked(
    engine: Engine, client: FlaskClient, change: str
) -> None:
    card_id = add_card(engine, agreement_ids=("agr-1",))
    headers = key_of(engine)
    first = ask(client, headers, card_id, "k-1").json["deletion_id"]
    block(engine, first, agreement="agr-1")
    with engine.begin() as connection:
        if change == "an hour passed":
            connection.execute(text("UPDATE cardsync.deletions SET finished_at = finished_at - interval '61 minutes'"))
        else:
            connection.execute(text("DELETE FROM cardsync.agreements"))
    assert ask(client, headers, card_id, "k-2").json["deletion_id"] != first


def test_deletions_count_to_the_quota_of_calls(engine: Engine, client: FlaskClient) -> None:
    cards = [add_card(engine, token=f"tok-fake-000{n}") for n in range(3)]
    headers = key_of(engine, calls_per_day=3)
    assert [ask(client, headers, card, f"k-{n}").status_code for n, card in enumerate(cards)] == [202, 202, 429]
    statuses = "SELECT count(*) FROM registry.cards WHERE status = 'active'"
    assert count(engine, statuses) == 1  # what was refused changed nothing


def test_mass_deletion_over_http_is_held_for_the_owner_also_after_a_rotation(
    engine: Engine, client: FlaskClient
) -> None:
    with engine.begin() as connection:
        askers.keep_limits(connection, share=0.01, floor=2)
    cards = [add_card(engine, token=f"tok-fake-000{n}") for n in range(4)]
    headers = key_of(engine)
    answers = [ask(client, headers, card, f"k-{n}").json for n, card in enumerate(cards[:3])]
    assert [(one["status"], one["error"]) for one in answers] == [("pending", None)] * 2 + [("pending", "held")]
    new = keys.new_key()
    with engine.begin() as connection:
        keys.rotate(connection, "shop", new)
    assert ask(client, {"Authorization": f"Bearer {new}"}, cards[3], "k-3").json["error"] == "held"


# Idempotency keys and free text.


def test_two_owners_may_use_the_same_idempotency_key_and_a_rotation_keeps_it(
    engine: Engine, client: FlaskClient
) -> None:
    cards = [add_card(engine, token=f"tok-fake-000{n}") for n in range(3)]
    shop, support = key_of(engine), key_of(engine, name="support")
    first = ask(client, shop, cards[0], "order-1").json["deletion_id"]
    assert ask(client, support, cards[1], "order-1").status_code == 202
    with engine.begin() as connection:
        by_sql = text("SELECT registry.request_deletion(:card_id, 'a service', 'order-1')")
        assert connection.execute(by_sql, {"card_id": cards[2]}).scalar_one() is not None
    new = keys.new_key()
    with engine.begin() as connection:
        keys.rotate(connection, "shop", new)
    rotated = {"Authorization": f"Bearer {new}"}
    assert ask(client, rotated, cards[0], "order-1").json["deletion_id"] == first
    assert ask(client, rotated, cards[0], "order-1", reason="another wish").status_code == 409


def test_a_key_that_came_without_a_hash_matches_no_request_with_one(engine: Engine) -> None:
    card_id = add_card(engine)
    with engine.begin() as connection:
        requests.request(connection, card_id=card_id, requested_by="x", idempotency_key="k", asker="api:shop")
        with pytest.raises(Exception, match="another request"):
            requests.request(
                connection,
                card_id=card_id,
                requested_by="x",
                idempotency_key="k",
                request_hash=bytes(32),
                asker="api:shop",
            )


def test_no_idempotency_key_is_kept_and_no_card_number_as_a_name(engine: Engine, client: FlaskClient) -> None:
    headers, secret = key_of(engine), "jane.doe@example.com-wants-it-gone"
    assert ask(client, headers, add_card(engine), secret).status_code == 202
    erase = client.post(
        "/v1/customers/erase", json={"customer_id": "cust-1"}, headers={**headers, "Idempotency-Key": secret}
    )
    assert erase.status_code == 202
    for table in ("deletion_keys", "erasure_requests"):
        assert count(engine, f"SELECT count(*) FROM cardsync.{table} AS t WHERE t::text LIKE '%jane%'") == 0
    with engine.begin() as connection, pytest.raises(Exception, match="full card number"):
        requests.request(
            connection, card_id=add_card(engine, token="tok-fake-0009"), requested_by="4111 1111 1111 1111"
        )


def test_the_login_stands_beside_what_a_service_says_of_itself(engine: Engine) -> None:
    card_id = add_card(engine)
    with engine.begin() as connection:
        connection.execute(text("SELECT registry.request_deletion(:card_id, 'the chief', NULL)"), {"card_id": card_id})
        row = connection.execute(
            text("SELECT requested_by, asker, session_user AS login FROM registry.deletions")
        ).one()
    assert (row.requested_by, row.asker) == ("the chief", f"sql:{row.login}")
