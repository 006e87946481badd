"""``cardsync doctor``: it finds what is wrong, says what to do, and changes nothing."""

from __future__ import annotations

import json

import pytest

from cardsync import db
from cardsync.store import gate
from tests import factories
from tests.factories import CustomerFactory


@pytest.fixture(autouse=True)
def rows(engine):
    """Bind the factories."""
    factories.bind(engine)
    yield
    factories.unbind()


def statuses(result):
    return {check["name"]: check["status"] for check in json.loads(result.stdout)["checks"]}


def test_the_doctor_finds_a_healthy_deployment_healthy(cardsync, ottu, valkey, monkeypatch, engine):
    monkeypatch.setenv("CARDSYNC_BROKER_URL", valkey.url)
    monkeypatch.setenv("OTTU_WEBHOOK_KEYS", "fake-webhook-key")
    result = cardsync("doctor", "--json")
    assert result.exit_code == 0
    found = statuses(result)
    assert found.pop("durability") == "warning"  # the tests' own PostgreSQL has fsync off
    assert found.pop("drift") == "skipped"  # nobody was audited yet
    assert found.pop("spool") in ("ok", "warning")  # a container's own disk does not last
    assert set(found.values()) == {"ok"}
    assert "ottu" in found
    assert len(ottu.calls("list")) == 1
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT sum(calls) FROM cardsync.call_minutes").scalar() == 1
        assert connection.exec_driver_sql("SELECT secret_check FROM cardsync.gate").scalar() is None


def test_the_doctor_says_what_is_wrong_and_counts_it(cardsync, ottu, monkeypatch, database_url, tmp_path):
    db.downgrade(database_url, "base")
    (tmp_path / ".cardsync").mkdir(mode=0o755)
    monkeypatch.setenv("CARDSYNC_BROKER_URL", "redis://:fake-password@127.0.0.1:1/0")
    result = cardsync("doctor", "--json")
    found = statuses(result)
    assert result.exit_code == 1
    assert found["settings"] == found["broker"] == found["migrations"] == "failed"
    assert found["data folder"] == "warning"
    assert "OTTU_WEBHOOK_KEYS" in result.stdout
    assert "3 of" in result.stderr
    assert "fake-password" not in result.output


def test_the_doctor_knows_refused_credentials_and_a_foreign_secret(cardsync, ottu, monkeypatch, shop):
    shop.execute("UPDATE cardsync.gate SET secret_check = decode(repeat('00', 32), 'hex')")
    monkeypatch.setenv("OTTU_API_KEY", "fake-wrong-key")
    result = cardsync("doctor", "--json")
    found = statuses(result)
    assert found["ottu"] == found["secret key"] == "failed"
    assert "fake-wrong-key" not in result.output


@pytest.mark.parametrize(
    ("right", "wrong", "status", "said"),
    [
        (409, 3, "ok", "99.3 % of customers right (97.9-99.8 %, 412 audited in 30 days)"),
        (9, 1, "ok", "90.0 % of customers right (59.6-98.2 %, 10 audited in 30 days)"),  # too few to tell
        (90, 10, "warning", "90.0 % of customers right (82.6-94.5 %, 100 audited in 30 days); cards: 10 lost_hint"),
    ],
)
def test_the_doctor_says_how_many_customers_are_right(cardsync, shop, right, wrong, status, said):
    customer = CustomerFactory().id
    for verdict, causes, count in (("right", [], right), ("wrong", ["lost_hint"], wrong)):
        shop.execute(
            "INSERT INTO cardsync.audits (customer, observation_no, judged_at, verdict, causes)"
            " SELECT :customer, n, now(), :verdict, :causes FROM generate_series(1, :count) AS n",
            customer=customer,
            verdict=verdict,
            causes=causes,
            count=count,
        )
    checks = json.loads(cardsync("doctor", "--offline", "--json").stdout)["checks"]
    (drift,) = [check for check in checks if check["name"] == "drift"]
    assert (drift["status"], drift["found"]) == (status, said)


def test_the_doctor_says_that_ottu_is_down_and_its_own_call_ends_the_pause(cardsync, ottu, shop, engine):
    with engine.begin() as connection:
        for who in (1, 2, 3):
            gate.heard(connection, "failed", who=who)
    result = cardsync("doctor", "--json")
    assert statuses(result)["calls"] == statuses(result)["ottu"] == "warning"
    assert "Ottu is down" in result.stdout
    assert ottu.calls("list") == []
    shop.execute("UPDATE cardsync.gate SET breaker_shut_until = clock_timestamp()")
    assert statuses(cardsync("doctor", "--json"))["ottu"] == "ok"
    assert "calls" not in statuses(cardsync("doctor", "--offline", "--json"))


def test_the_doctor_says_that_calls_are_slowed_down(cardsync, ottu, shop, engine):
    with engine.begin() as connection:
        gate.heard(connection, "throttled", who=1)
    shop.execute("UPDATE cardsync.gate SET paused_until = clock_timestamp()")
    result = cardsync("doctor", "--offline", "--json")
    assert statuses(result)["pace"] == "warning"
    assert "0.5 calls a second" in result.stdout


def test_the_doctor_leaves_ottu_alone_when_offline(cardsync, ottu):
    assert statuses(cardsync("doctor", "--offline", "--json"))["ottu"] == "skipped"
    assert ottu.calls("list") == []


def test_the_doctor_reports_a_malformed_setting(cardsync, monkeypatch):
    monkeypatch.setenv("CARDSYNC_ACK_STATUS", "999")
    result = cardsync("doctor")
    assert result.exit_code == 1
    assert "failed\tsettings\tCARDSYNC_ACK_STATUS" in result.stdout
