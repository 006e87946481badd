"""A real Prometheus scrapes a running system: dashboards have data, and the alerts that are shipped fire and end.

Nothing here waits for hours: where an alert is about an age, rows are made older in the database, as a night would make them.
``tests.e2e.prometheus`` says what is shortened of the rules; ``promtool test rules`` tests them whole
(``tests/project/test_alerts.py``).
"""

from __future__ import annotations

import datetime as dt
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from cardsync import feed_watch
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.files import Lock
from cardsync.spool import FOLDER
from tests.e2e.marks import ONE_BROKER
from tests.e2e.processes import run
from tests.e2e.prometheus import SECONDS, WINDOW, Prometheus
from tests.e2e.system import ENVIRONMENT, Row, System, token_of
from tests.receivers import Receiver
from tests.waiting import until

pytestmark = ONE_BROKER

DATA_IN_MEMORY = True  # within a second a hint is on disk, or refused: a busy disk takes longer
ROOT: Final = Path(__file__).resolve().parents[2]
# A disk with room for one hint, and brakes that the second deletion and the first missing card engage.
SETTINGS = {
    "OTTU_TIMEOUT_S": "1",
    "CARDSYNC_SPOOL_MAX_FILES": "1",
    "CARDSYNC_REMOVAL_BRAKE_FLOOR": "0",
    "CARDSYNC_DELETION_BRAKE_FLOOR": "1",
}

# Which alerts each test is about; together they are all that are shipped (``tests/project/test_alerts.py``).
CREDENTIALS: Final = ("CardsyncCredentialsRefused",)
DOWN: Final = ("CardsyncOttuDown", "CardsyncCallsFailing")
THROTTLED: Final = ("CardsyncCallsThrottled",)
LOST: Final = (
    "CardsyncNotificationsLost",
    "CardsyncDatabaseAway",
    "CardsyncSpoolFilling",
    "CardsyncObjectiveTakingNotifications",
    "CardsyncObjectiveAnsweringNotifications",
)
NOT_DRAINED: Final = ("CardsyncSpoolNotDrained",)
WITHOUT_A_WORKER: Final = (
    "CardsyncProcessesMissing",
    "CardsyncSweepStopped",
    "CardsyncInboxBehind",
    "CardsyncNotificationsSilent",
    "CardsyncForgettingBehind",
    "CardsyncDeletionsLate",
)
TOO_LATE: Final = (
    "CardsyncInboxFailed",
    "CardsyncDeletionsFailed",
    "CardsyncObjectiveBelievingNotifications",
    "CardsyncObjectiveProvingDeletions",
)
FROZEN: Final = ("CardsyncTargetMissing",)
SENDERS: Final = ("CardsyncNotificationsAtUnknownPath", "CardsyncNotificationsRefused")
PROCESSES: Final = (
    "CardsyncLockNotFree",
    "CardsyncFeedWentBack",
    "CardsyncNotificationQueueFilling",
    "CardsyncVersionsMixed",
)
BROKER: Final = ("CardsyncBellsNotRung",)
FOR_A_PERSON: Final = (
    "CardsyncRemovalBrakeEngaged",
    "CardsyncDeletionsHeld",
    "CardsyncDriftTooHigh",
    "CardsyncBudgetNearlySpent",
    "CardsyncEndpointBehind",
    "CardsyncEndpointDisabled",
    "CardsyncSpoolBadFiles",
)
ANNOUNCED: Final = ("CardsyncCallsPaused", "CardsyncKeyExpires")
READERS: Final = ("CardsyncObjectiveServingReaders",)
EACH: Final = (
    *(*READERS, *ANNOUNCED, *CREDENTIALS, *DOWN, *THROTTLED, *LOST, *NOT_DRAINED, *WITHOUT_A_WORKER, *TOO_LATE),
    *(*FROZEN, *SENDERS, *PROCESSES, *BROKER, *FOR_A_PERSON),
)


@pytest.fixture(scope="module")
def prometheus(module_system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    program = shutil.which("prometheus")
    if program is None:
        assert not os.environ.get("CARDSYNC_REQUIRE_SERVICES"), "prometheus is missing: it is a package of Debian's"
        pytest.skip("prometheus is not here: it is a package of Debian's")
    made = Prometheus(tmp_path_factory.mktemp("prometheus"), module_system.url.removeprefix("http://"))
    with made.running(program) as running:
        yield running


def panels() -> list[tuple[str, str]]:
    """Title and query of each panel of each dashboard."""
    boards = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
    assert len(boards) == 3
    return [
        (f"{board.stem}: {panel['title']}", target["expr"].replace("$__rate_interval", "5m"))
        for board in boards
        for panel in json.loads(board.read_text(encoding="utf-8"))["panels"]
        for target in panel["targets"]
    ]


def test_each_panel_of_each_dashboard_has_data(system: System, prometheus: Prometheus) -> None:
    customers = [system.customer() for _ in range(3)]
    for customer in customers:
        system.save_card(customer)
    system.until_active(*customers)
    system.get("/v1/cards", system.key("cards:read"), environment=ENVIRONMENT, customer_id=customers[0])
    empty: list[str] = []

    def all_there() -> bool:
        empty[:] = [title for title, expr in panels() if not prometheus.query(expr)]
        return not empty

    try:
        until(all_there, "each panel has data", seconds=SECONDS)
    except AssertionError:
        pytest.fail(f"no data: {empty}")


def test_refused_credentials_fire_an_alert_that_ends_with_them(system: System, prometheus: Prometheus) -> None:
    watch = prometheus.watch(*CREDENTIALS)
    with turned(system, credentials="refuse_401"):
        for _ in range(4):  # a key that is revoked stops calls at the third customer
            system.save_card(system.customer())
        watch.until_fired()
    watch.until_over()


def test_a_pause_by_an_operator_and_a_key_that_expires_fire_alerts_that_end_with_them(
    system: System, prometheus: Prometheus
) -> None:
    watch = prometheus.watch(*ANNOUNCED)
    soon = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=10)
    system.sql("UPDATE cardsync.gate SET operator_paused_at = now(), operator_paused_by = 'Amal'")
    system.end("web")
    system.start("web", OTTU_API_KEY_EXPIRES_ON=soon.isoformat())
    watch.until_fired()
    system.sql("UPDATE cardsync.gate SET operator_paused_at = NULL, operator_paused_by = NULL")
    system.end("web")
    system.start("web")
    watch.until_over()


def test_an_ottu_that_is_down_and_then_throttles_fires_alerts_that_end_with_it(
    system: System, prometheus: Prometheus
) -> None:
    down, throttled = prometheus.watch(*DOWN), prometheus.watch(*THROTTLED)
    with turned(system, throttle_rate=0):
        with away(system):
            for _ in range(12):
                system.save_card(system.customer())
            down.until_fired()
            system.simulator.turn(throttle_rate=1)
        throttled.until_fired()

    def is_free() -> bool:
        """The limit grows back within three minutes; the test does not wait so long."""
        system.sql("UPDATE cardsync.gate SET paused_until = now(), pace_since = pace_since - interval '3 minutes'")
        return bool(prometheus.query("cardsync_ottu_calls_per_second_limit == Inf"))

    until(is_free, "nothing limits calls", seconds=SECONDS)
    down.until_over()
    throttled.until_over()


def test_the_first_lost_notification_fires_an_alert_that_ends(
    system: System, prometheus: Prometheus, postgres: EmbeddedPostgres
) -> None:
    contents = [system.notification(system.customer())[0] for _ in range(2)]
    spool = spool_of(system)
    lost, not_drained = prometheus.watch(*LOST), prometheus.watch(*NOT_DRAINED)
    with Lock.take(spool / "drain.lock"):  # as a frozen process that shares the folder holds it
        postgres.pause()
        try:
            statuses = [system.post_hint(contents[0]).status_code]  # a second for the database, then the disk
            postgres.kill()
            statuses.append(system.post_hint(contents[1]).status_code)
            assert statuses == [200, 503]  # the disk has room for one
            lost.until_fired()
        finally:
            postgres.kill()
            postgres.start()
        (segment,) = spool.glob("*.segment")
        segment.rename(spool / re_dated(segment.name, seconds=120))
        not_drained.until_fired()
    lost.until_over()
    not_drained.until_over()


def test_what_stands_still_without_a_worker_fires_alerts_that_end_with_its_return(
    system: System, prometheus: Prometheus
) -> None:
    _, _, late = saved(system)
    customer, _, given_up = saved(system)
    still, too_late = prometheus.watch(*WITHOUT_A_WORKER), prometheus.watch(*TOO_LATE)
    readers = prometheus.watch(*READERS)
    system.end("worker")
    unreadable, _ = [hint_of(system) for _ in range(2)]
    ask(system, late)
    system.sql("SELECT registry.request_deletion(%s, %s, %s)", given_up, "a service", f"key-{given_up}")
    let_hours_pass(system, {late: 2, given_up: 25}, unreadable["event_id"])
    key = system.key("cards:read")

    def read(max_age: int = 0) -> bool:
        """Read as a service does; whether the answer is stale."""
        asked = {"environment": ENVIRONMENT, "customer_id": customer, "max_age": max_age}
        return bool(system.get("/v1/cards", key, **asked).json()["stale"])

    assert read()  # after five seconds
    readers.until_fired(meanwhile=read)  # one slow read alone may fall between two scrapes of a busy machine
    still.until_fired()
    system.simulator.script_delete("error", "error")  # of one of them it was the last try
    system.start("worker")
    too_late.until_fired()
    system.sql("UPDATE cardsync.events SET token = %s WHERE event_id = %s", unreadable["token"], unreadable["event_id"])
    command(system, "events", "replay", str(unreadable["event_id"]))
    system.save_card(system.customer())
    until(lambda: not read(max_age=60), "readers are served")
    still.until_over()
    too_late.until_over()
    readers.until_over()


def test_senders_and_processes_that_are_wrong_fire_alerts_that_end_with_them(
    system: System, prometheus: Prometheus, tmp_path: Path
) -> None:
    frozen = prometheus.watch(*FROZEN)
    system.processes["web"].pause()
    try:
        frozen.until_fired()
    finally:
        system.processes["web"].resume()
    frozen.until_over()

    wrong, silent = prometheus.watch(*SENDERS, *PROCESSES), prometheus.watch(*BROKER)
    with another_version(system, tmp_path):
        taken = f'rate(cardsync_hints_total{{outcome=~"accepted|duplicate|ignored"}}[{WINDOW}]) > 0'
        until(lambda: not prometheus.query(taken), "none was taken lately", seconds=SECONDS)
        assert system.post("/webhooks/otu").status_code == 404
        content, _ = system.notification(system.customer())
        assert system.post_hint(content.replace(b'"signature": "', b'"signature": "0')).status_code == 401
        seen_further(system)
        with (
            in_a_transaction(system, "SELECT 1 FROM cardsync.locks WHERE name = 'sweep' FOR UPDATE"),
            in_a_transaction(system, "SELECT 1", listens=True),
        ):
            system.sql("UPDATE cardsync.gate SET swept_at = swept_at - interval '1 minute'")
            for _ in range(20):  # a page of the queue each
                system.sql("SELECT pg_notify('not_ours', repeat('x', 7900))")
            wrong.until_fired()
    (Path(system.settings["CARDSYNC_DATA_DIR"]) / feed_watch.FILE).unlink()

    system.broker.go_away()
    try:
        for _ in range(3):
            system.save_card(system.customer())
        silent.until_fired()
    finally:
        system.broker.come_back()
    wrong.until_over()
    silent.until_over()


def test_what_waits_for_a_person_fires_alerts_that_end_with_the_decision(
    system: System, prometheus: Prometheus
) -> None:
    customer, token, _ = saved(system)
    unwanted = [saved(system)[2] for _ in range(2)]
    until(lambda: system.sql("SELECT 1 FROM cardsync.deletion_brake WHERE floor = 1"), "the worker has said the floor")
    watch = prometheus.watch(*FOR_A_PERSON)
    with failing_endpoint(system) as receiver:
        for card_id in unwanted:
            ask(system, card_id)
        hint_of(system)
        until(lambda: receiver.received, "the endpoint was asked")
        system.sql("UPDATE cardsync.deliveries SET made_at = made_at - interval '20 minutes'")
        lose_in_silence(system, customer, token)
        spend_calls(system)
        damage_a_file(spool_of(system))
        command(system, "endpoints", "add", "--name", "left", "--url", "https://left.example.test", "--kind", "changes")
        command(system, "endpoints", "disable", "left")
        watch.until_fired()
        receiver.answer = lambda _: 200
        system.sql("UPDATE cardsync.deliveries SET due_at = now() WHERE status = 'pending'")
        system.sql("UPDATE cardsync.call_minutes SET minute = minute - interval '2 days'")
        command(system, "brake", "release", "--accept", "1")
        command(system, "brake", "release", "--requests")
        command(system, "spool", "drop", "--all")
        command(system, "endpoints", "remove", "left")
        system.sql("UPDATE cardsync.audits SET judged_at = judged_at - interval '31 days'")
        watch.until_over()
    until(lambda: system.statuses(customer) == ["removed"], "what was held is believed")


# What is wrong.


@contextmanager
def turned(system: System, **knobs: Any) -> Iterator[None]:
    """Ottu behaves otherwise for the block."""
    before = {name: getattr(system.simulator.knobs, name) for name in knobs}
    system.simulator.turn(**knobs)
    try:
        yield
    finally:
        system.simulator.turn(**before)


@contextmanager
def away(system: System) -> Iterator[None]:
    """Ottu does not answer for the block."""
    system.simulator.go_away()
    try:
        yield
    finally:
        system.simulator.come_back()


@contextmanager
def another_version(system: System, folder: Path) -> Iterator[None]:
    """A second beat runs, of another version of the package."""
    installed = folder / "cardsync-0.0.1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: cardsync\nVersion: 0.0.1\n", encoding="utf-8")
    system.start("beat", "older", PYTHONPATH=str(folder))
    yield
    system.end("older")


@contextmanager
def in_a_transaction(system: System, statement: str, *, listens: bool = False) -> Iterator[None]:
    """A session keeps a transaction open for the block, after this statement."""
    with psycopg.connect(system.settings["CARDSYNC_DATABASE_URL"], autocommit=True) as session:
        if listens:
            session.execute("LISTEN not_ours_either")
        with session.transaction():
            session.execute(statement)
            yield


def seen_further(system: System) -> None:
    """The data folder remembers a number of the feed that the database has not reached: it is an older state."""
    (head,) = system.sql("SELECT seq FROM cardsync.feed_head")
    remembered = {"seq": head["seq"] + 1_000, "went_back": None}
    file = Path(system.settings["CARDSYNC_DATA_DIR"]) / feed_watch.FILE
    file.write_text(json.dumps(remembered), encoding="utf-8")


def lose_in_silence(system: System, customer: str, token: str) -> None:
    """A card goes at Ottu, nothing says so, and an audit's list lacks it."""
    system.simulator.checkout().delete_card(ENVIRONMENT, customer, token)
    system.sql(
        "INSERT INTO cardsync.audits (customer) SELECT id FROM cardsync.customers WHERE customer_id = %s", customer
    )
    asked = system.post(
        "/v1/reconciliations", system.key("cards:reconcile"), environment=ENVIRONMENT, customer_id=customer
    )
    assert asked.status_code == 202, asked.text


def spend_calls(system: System) -> None:
    """Nearly all calls of the day were made an hour ago."""
    system.sql(
        "INSERT INTO cardsync.call_minutes (minute, lane, calls)"
        " VALUES (date_trunc('minute', now()) - interval '1 hour', 'hint', 86400)"
    )


def damage_a_file(spool: Path) -> None:
    """A file that waits on disk holds no record whose checksum is right."""
    file = f"{time.time_ns():020d}-{secrets.token_hex(4)}-00000000.1.0.8.segment"
    (spool / file).write_bytes(b"damaged\n")


def let_hours_pass(system: System, hours: dict[str, int], unreadable: Any) -> None:
    """Settled notifications become a month old, the others and deletions some hours; one could not be read, nine times so far."""
    system.sql(
        "UPDATE cardsync.events SET received_at = received_at"
        " - CASE WHEN status = 'pending' THEN interval '7 hours' ELSE interval '34 days' END"
    )
    system.sql(  # what is encrypted for another customer
        "UPDATE cardsync.events SET attempts = 9, token = (SELECT o.token FROM cardsync.events AS o"
        " WHERE o.status = 'pending' AND o.event_id <> %s LIMIT 1) WHERE event_id = %s",
        *[unreadable] * 2,
    )
    for card_id, age in hours.items():
        system.sql(
            "UPDATE cardsync.deletions SET requested_at = requested_at - make_interval(hours => %s),"
            " tried_since = tried_since - make_interval(hours => %s) WHERE card_id = %s",
            *[age] * 2,
            card_id,
        )
    system.sql("UPDATE cardsync.gate SET swept_at = swept_at - interval '1 minute'")


# What a test needs of the system.


@contextmanager
def failing_endpoint(system: System) -> Iterator[Receiver]:
    """An endpoint that fails, for the block."""
    made = Receiver(lambda _: 500)
    add = ("endpoints", "add", "--name", "orders", "--url", made.url, "--kind", "notifications", "--json")
    made.secret = system.keep_secret(json.loads(command(system, *add))["secret"])
    yield made
    command(system, "endpoints", "remove", "orders")
    made.close()


def command(system: System, *arguments: str) -> str:
    """What an operator's command says."""
    done = run(system.folder, system.settings, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def saved(system: System) -> tuple[str, str, str]:
    """A customer with one active card and nothing left to do: the customer's id, the token and our id of the card."""
    customer = system.customer()
    token = token_of(system.save_card(customer))
    system.until_active(customer)
    system.until_settled(customer)
    (card,) = system.cards(customer)
    return customer, token, str(card["card_id"])


def ask(system: System, card_id: str) -> None:
    """Ask for a deletion as a service does."""
    key = system.key("cards:delete")
    asked = system.post("/v1/deletions", key, idempotency_key=secrets.token_hex(8), card_id=card_id)
    assert asked.status_code == 202, asked.text


def hint_of(system: System) -> Row:
    """The stored row of a notification that was just taken."""
    content, _ = system.notification(system.customer())
    event_id = system.post_hint(content).json()["event_id"]
    stored = "SELECT event_id, token FROM cardsync.events WHERE event_id = %s"  # where the database is slow, by way of the disk
    return until(lambda: system.sql(stored, event_id), "the hint has a row")[0]


def spool_of(system: System) -> Path:
    """The folder of hints that wait on disk; there is none before the first."""
    folder = Path(system.settings["CARDSYNC_DATA_DIR"]) / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def re_dated(name: str, *, seconds: int) -> str:
    """The name of a file in the spool, had it been written so long before."""
    written, rest = name.split("-", 1)
    return f"{int(written) - seconds * 1_000_000_000:020d}-{rest}"
