"""``cardsync doctor``: it finds what is wrong, says what to do, and changes nothing."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from sqlalchemy import make_url, text

from cardsync import db
from cardsync.cli.doctor import exposure, setup
from cardsync.errors import OttuRejected
from cardsync.feed_watch import FeedWatch
from cardsync.ottu import OttuClient
from cardsync.settings import Settings
from cardsync.store import heartbeats
from cardsync.store.calls import gate
from cardsync.store.deletions import askers, requests
from cardsync.store.heartbeats import Process
from tests.factories import CustomerFactory, EventFactory, make_card
from workers import roll_call
from workers.heart import this_process

pytestmark = pytest.mark.usefixtures("bound_factories")


def statuses(result):
    return {check["name"]: check["status"] for check in json.loads(result.stdout)["checks"]}


def check_of(result, name):
    (check,) = (check for check in json.loads(result.stdout)["checks"] if check["name"] == name)
    return check


def test_the_doctor_finds_a_healthy_deployment_healthy(cardsync, ottu, valkey, monkeypatch, engine):
    EventFactory(settled=True, signature_hash=b"s" * 32)
    monkeypatch.setenv("CARDSYNC_BROKER_URL", valkey.url)
    monkeypatch.setenv("OTTU_WEBHOOK_KEYS", "fake-webhook-key")
    alone = cardsync("doctor", "--offline")
    assert "failed\tprocesses\tno worker and no beat was at work" in alone.stdout
    assert "start them: cardsync worker, cardsync beat" in alone.stdout
    assert (alone.exit_code, alone.stderr.count("1 of ")) == (1, 1)
    # A web takes notifications all the same: who asks for it alone is told, and may start it.
    for_web = cardsync("doctor", "--offline", "--for", "web")
    assert "warning\tprocesses\tno worker and no beat was at work" in for_web.stdout
    assert for_web.exit_code == 0
    with engine.begin() as connection:
        for kind in heartbeats.KINDS:
            heartbeats.beat(connection, this_process(kind), here=dt.datetime.now(dt.UTC))
    result = cardsync("doctor", "--json")
    assert result.exit_code == 0
    found = statuses(result)
    assert found.pop("durability") == "warning"  # the tests' own PostgreSQL has fsync off
    assert found.pop("logins") == "warning"  # and their databases are open to every login
    assert found.pop("drift") == "skipped"  # nobody was audited yet
    assert found.pop("spool") in ("ok", "warning")  # a container's own disk does not last
    assert {name: status for name, status in found.items() if status != "ok"} == {}
    assert "ottu" in found
    assert len(ottu.calls("list")) == 1
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT sum(calls) FROM cardsync.call_minutes").scalar() == 1
        assert connection.exec_driver_sql("SELECT secret_check FROM cardsync.gate").scalar() is None


@pytest.mark.parametrize(("seconds", "status"), [(1, "ok"), (3, "warning"), (-6, "failed"), (6, "failed")])
def test_the_doctor_fails_for_a_clock_of_its_own_host_that_is_wrong(cardsync, monkeypatch, seconds, status):
    # Not the database's own moment: it is asked for over a connection, and what that takes would count here.
    monkeypatch.setattr(db, "moment", lambda _: dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds))
    result = cardsync("doctor", "--offline", "--json", "--for", "web")
    assert check_of(result, "clock")["status"] == status
    assert result.exit_code == 1 or status != "failed"


def test_the_doctor_fails_for_a_clock_of_another_host_that_is_wrong(cardsync, engine):
    with engine.begin() as connection:
        heartbeats.beat(connection, Process("worker", "right.example", 7), here=db.moment(connection))
        heartbeats.beat(connection, Process("beat", "far.example", 7), here=db.moment(connection))
        connection.exec_driver_sql(
            "UPDATE cardsync.heartbeats SET clock_ahead_seconds = CASE host WHEN 'far.example' THEN 20 ELSE 0 END"
        )
    result = cardsync("doctor", "--offline", "--json")
    clocks = [check for check in json.loads(result.stdout)["checks"] if check["name"] == "clock"]
    assert [check["status"] for check in clocks] == ["ok", "failed"]
    assert clocks[1]["found"] == "the clock of far.example differs by +20 s from the database's"
    assert result.exit_code == 1


def test_the_doctor_knows_a_database_that_takes_no_writes(cardsync, engine, database_url):
    name = make_url(database_url).database
    with engine.begin() as connection:
        connection.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
    result = cardsync("doctor", "--offline", "--json")
    found = next(
        one for one in json.loads(result.stdout)["checks"] if (one["name"], one["status"]) == ("database", "failed")
    )
    assert result.exit_code == 1
    assert found["found"].startswith("takes no writes: its sessions are read-only")
    assert "default_transaction_read_only" in found["advice"]


def test_the_doctor_tells_of_a_server_that_logs_values(cardsync, ottu, engine, database_url, postgres):
    name = make_url(database_url).database
    with engine.begin() as connection:
        connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET log_min_duration_statement = 0')
        connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET log_error_verbosity = "default"')
    engine.dispose()
    result = cardsync("doctor", "--json", "--offline")
    (check,) = (c for c in json.loads(result.stdout)["checks"] if c["name"] == "database log")
    assert check["status"] == "warning"
    assert "parameters of statements; rows" in check["found"]
    with engine.begin() as connection:
        connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET log_parameter_max_length = 0')
        connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET log_error_verbosity = terse')
    assert statuses(cardsync("doctor", "--json", "--offline"))["database log"] == "ok"


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("redis://127.0.0.1:1/0", "ok"),
        ("amqp://localhost//", "ok"),
        ("amqp://broker.example//", "warning"),
        ("redis://10.0.0.7/0", "warning"),
        ("amqps://broker.example//", "ok"),
        ("amqps://broker.example//;amqps://127.0.0.1//", "ok"),
    ],
)
def test_a_broker_elsewhere_wants_tls(url, status):
    assert exposure.broker_way(Settings.model_validate({"broker_url": url})).status == status


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


def test_the_doctor_says_whose_deletions_are_held_until_a_person_decides(cardsync, ottu, engine):
    assert "requests" not in statuses(cardsync("doctor", "--offline", "--json"))
    with engine.begin() as connection:
        askers.keep_limits(connection, share=0.01, floor=1)
        for number in range(3):
            card_id = make_card(CustomerFactory(), token=f"999900000000000{number}").card_id
            requests.request(connection, card_id=card_id, requested_by="test", asker="api:shop")
    check = check_of(cardsync("doctor", "--offline", "--json"), "requests")
    assert check["status"] == "failed"
    assert "2 deletions of 1 askers are held, first those of api:shop, since " in check["found"]
    assert "brake release --requests" in check["advice"]


def test_the_doctor_says_that_ottu_is_down_and_its_own_call_ends_the_pause(cardsync, ottu, shop, engine):
    with engine.begin() as connection:
        for who in (1, 2, 3):
            gate.heard(connection, "failed", who=who)
    result = cardsync("doctor", "--json")
    assert (statuses(result)["calls"], statuses(result)["ottu"]) == ("failed", "warning")
    assert result.exit_code == 1
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


def check(result, name):
    (found,) = [check for check in json.loads(result.stdout)["checks"] if check["name"] == name]
    return found


@pytest.mark.parametrize(
    ("url", "ca_file", "says"),
    [
        ("redis://:fake-password@no-such-host.invalid/0", None, "(DNS)"),
        ("amqp://u:fake-password@127.0.0.1:1//", None, "nothing listens"),
        ("rediss://:fake-password@127.0.0.1:1/0", "/nowhere/ca.pem", "CARDSYNC_BROKER_CA_FILE cannot be read"),
    ],
)
def test_the_doctor_says_why_the_broker_cannot_be_used(cardsync, monkeypatch, url, ca_file, says):
    monkeypatch.setenv("CARDSYNC_BROKER_URL", url)
    if ca_file is not None:
        monkeypatch.setenv("CARDSYNC_BROKER_CA_FILE", ca_file)
    result = cardsync("doctor", "--offline", "--json")
    found = check(result, "broker")
    assert (found["status"], says in found["found"]) == ("failed", True)
    assert "fake-password" not in result.output


def test_the_doctor_tells_of_a_wrong_database_of_the_broker(cardsync, valkey, monkeypatch):
    monkeypatch.setenv("CARDSYNC_BROKER_URL", f"{valkey.url.rpartition('/')[0]}/4000")
    assert check(cardsync("doctor", "--offline", "--json"), "broker")["found"] == "there is no such database"


def test_the_doctor_sees_another_deployment_on_the_broker(cardsync, valkey, monkeypatch, shop):
    valkey.flush()
    monkeypatch.setenv("CARDSYNC_BROKER_URL", valkey.url)
    loaded = settings_of_the_broker(valkey.url)
    roll_call.answer(loaded, "feedc0ffee", now=dt.datetime.now(dt.UTC))
    found = check(cardsync("doctor", "--offline", "--json"), "neighbours")
    assert (found["status"], "feedc0ffee" in found["found"]) == ("warning", True)
    valkey.flush()
    assert "neighbours" not in statuses(cardsync("doctor", "--offline", "--json"))


def settings_of_the_broker(url):
    return Settings.model_validate({"broker_url": url})


def test_the_doctor_says_which_certificate_of_the_database_cannot_be_read(cardsync, monkeypatch, database_url):
    monkeypatch.setenv("CARDSYNC_DATABASE_URL", f"{database_url}?sslrootcert=/nowhere/ca.pem")
    assert "sslrootcert cannot be read" in check(cardsync("doctor", "--offline", "--json"), "database")["found"]
    refused = cardsync("keys", "list")
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("keys", "api_key", "status"),
    [
        ("production:k", "fake-key", "ok"),
        ("k", "fake-key", "warning"),
        ("sandbox:k", "", "warning"),
        ("k", "", "failed"),
    ],
)
def test_without_lists_the_doctor_knows_whether_any_card_can_get_active(
    cardsync, ottu, monkeypatch, keys, api_key, status
):
    monkeypatch.setenv("OTTU_CARDS_API", "unavailable")
    monkeypatch.setenv("OTTU_WEBHOOK_KEYS", keys)
    monkeypatch.setenv("OTTU_API_KEY", api_key)
    assert statuses(cardsync("doctor", "--offline", "--json"))["hints"] == status


def test_a_feed_that_went_backwards_is_told_with_where_consumers_begin_again(cardsync, engine, tmp_path):
    set_head = "UPDATE cardsync.feed_head SET seq = {}"
    with engine.begin() as connection:
        connection.exec_driver_sql(set_head.format(120))
    (tmp_path / ".cardsync").mkdir(mode=0o700)
    FeedWatch(tmp_path / ".cardsync").look(lambda: 120)
    assert "feed" not in statuses(cardsync("doctor", "--offline", "--json"))
    with engine.begin() as connection:  # a backup of yesterday
        connection.exec_driver_sql(set_head.format(100))
    result = cardsync("doctor", "--offline", "--json")
    (found,) = (check for check in json.loads(result.stdout)["checks"] if check["name"] == "feed")
    assert found["status"] == "warning"
    assert "from 120 to 100" in found["found"]
    assert "begin again after 100" in found["advice"]


@pytest.mark.parametrize(
    ("process", "needs"),
    [("web", {"OTTU_WEBHOOK_KEYS"}), ("worker", {"OTTU_MERCHANT_ID", "OTTU_API_KEY"}), ("beat", set())],
)
def test_the_doctor_checks_only_what_a_process_needs(cardsync, monkeypatch, valkey, process, needs):
    monkeypatch.setenv("CARDSYNC_BROKER_URL", valkey.url)
    result = cardsync("doctor", "--offline", "--for", process, "--json")
    assert result.exit_code == (1 if needs else 0)
    failed = [c["found"] for c in json.loads(result.stdout)["checks"] if c["status"] == "failed"]
    said = " ".join(failed)
    assert {n for n in ("OTTU_WEBHOOK_KEYS", "OTTU_MERCHANT_ID", "OTTU_API_KEY") if f"{n} is missing" in said} == needs


def test_the_doctor_warns_of_a_short_webhook_key(cardsync, monkeypatch, valkey):
    monkeypatch.setenv("CARDSYNC_BROKER_URL", valkey.url)
    monkeypatch.setenv("OTTU_WEBHOOK_KEYS", "short")
    result = cardsync("doctor", "--offline", "--for", "web", "--json")
    assert result.exit_code == 0
    (warned,) = [c for c in json.loads(result.stdout)["checks"] if c["status"] == "warning" and c["name"] == "settings"]
    assert "fewer than 16 characters" in warned["found"]


def test_the_doctor_says_when_the_last_notification_came_and_how_to_set_them_up(cardsync, ottu, monkeypatch):
    never = check_of(cardsync("doctor", "--offline", "--json"), "webhooks")
    assert never["status"] == "warning"
    assert never["found"] == "none has come in the 90 days that they are kept (CARDSYNC_INBOX_DAYS), or ever"
    assert "webhook_url https://<your host>/webhooks/ottu for" in never["advice"]
    monkeypatch.setenv("CARDSYNC_WEBHOOK_PATH", "/webhooks/a-path-of-ones-own")
    own = check_of(cardsync("doctor", "--offline", "--json"), "webhooks")
    assert "webhook_url https://<your host><CARDSYNC_WEBHOOK_PATH> for" in own["advice"]
    now = dt.datetime.now(dt.UTC)
    EventFactory(settled=True, scheme="inquiry")  # asked for by us
    EventFactory(settled=True, signature_hash=b"s" * 32, received_at=now - dt.timedelta(days=3))
    quiet = check_of(cardsync("doctor", "--offline", "--json"), "webhooks")
    assert quiet["status"] == "warning"
    assert "3 days ago: they may be off, limited to some states, or sent to another address" in quiet["found"]
    EventFactory(settled=True, signature_hash=b"t" * 32, received_at=now - dt.timedelta(hours=23))
    assert check_of(cardsync("doctor", "--offline", "--json"), "webhooks")["status"] == "ok"


@pytest.mark.parametrize(("days", "status"), [(31, "ok"), (30, "warning"), (0, "warning"), (-1, "failed")])
def test_the_doctor_warns_before_the_api_key_expires(cardsync, ottu, monkeypatch, days, status):
    today = dt.datetime.now(dt.timezone(dt.timedelta(hours=3))).date()  # Kuwait's
    monkeypatch.setenv("OTTU_API_KEY_EXPIRES_ON", (today + dt.timedelta(days=days)).isoformat())
    assert check_of(cardsync("doctor", "--offline", "--json"), "api key")["status"] == status


def test_a_user_and_a_password_are_not_what_user_cards_take():
    def found(**more):
        return [c.status for c in setup.credentials(Settings.model_validate(more))]

    assert found(ottu_username="user", ottu_password="pass") == ["warning"]
    assert found(ottu_username="user", ottu_password="pass", ottu_cards_api="unavailable") == []
    assert found(ottu_api_key="key") == []


def test_the_doctor_tells_of_a_time_zone_that_the_views_do_not_go_by(cardsync, ottu, monkeypatch):
    assert check_of(cardsync("doctor", "--offline", "--json"), "time zone")["status"] == "ok"
    monkeypatch.setenv("CARDSYNC_TIME_ZONE", "Asia/Dubai")
    differs = check_of(cardsync("doctor", "--offline", "--json"), "time zone")
    assert (differs["status"], "cardsync db upgrade" in differs["advice"]) == ("warning", True)
    assert "Asia/Dubai" in cardsync("db", "upgrade").stdout
    assert check_of(cardsync("doctor", "--offline", "--json"), "time zone")["status"] == "ok"


def test_a_405_is_explained(cardsync, ottu, monkeypatch):
    def refuse(*_, **__):
        raise OttuRejected("Ottu rejects the list: 405", status_code=405)

    monkeypatch.setattr(OttuClient, "list_cards", refuse)
    check = check_of(cardsync("doctor", "--json"), "ottu")
    assert check["status"] == "failed"
    assert "takes no POST for card lists" in check["advice"]


def test_the_doctor_says_who_paused_all_calls(cardsync, ottu, engine):
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE cardsync.gate SET operator_paused_at = '2026-03-01 12:00Z', operator_paused_by = 'Amal'"
        )
    result = cardsync("doctor", "--json")
    assert result.exit_code == 1
    assert check_of(result, "calls")["found"].startswith("no calls to Ottu since 2026-03-01T12:00:00")
    assert "Amal paused them" in check_of(result, "calls")["found"]
    assert "resume them in the console" in check_of(result, "calls")["advice"]
    assert ottu.calls("list") == []
