"""PgBouncer between cardsync and PostgreSQL: everything works, in both modes, and what would not hold is refused in one line."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import Engine, make_url, text
from sqlalchemy.exc import OperationalError

from cardsync import db
from cardsync.store.access import logins as access
from cardsync.store.access import privileges
from tests.e2e.brokers import Broker
from tests.e2e.marks import ONE_BROKER
from tests.e2e.pgbouncer import Mode, PgBouncer, new_folder
from tests.e2e.processes import run
from tests.e2e.system import ENVIRONMENT, System
from tests.logins import ProcessLogins
from tests.waiting import until

MISSING = r"does not have .*lock_timeout, .*client_connection_check_interval, tcp_keepalives_count, .* run cardsync db upgrade"
HINTS: Final = 60
SENDERS: Final = 12
SECRET_KEY: Final = secrets.token_hex(24)  # both modes use one database


@pytest.fixture(scope="module")
def owner_url(module_database_url: str, logins: ProcessLogins) -> str:
    """The database, whose logins have in it what a session relies on, as ``cardsync db upgrade --web-login`` leaves them."""
    engine = db.make_engine(module_database_url)
    with engine.begin() as connection:
        for process, role in (("web", privileges.WEB), ("worker", privileges.WORKER)):
            access.ensure(connection, make_url(logins.url(process, module_database_url)), role)
    engine.dispose()
    return module_database_url


@pytest.fixture(scope="module", params=["transaction", "session"])
def pooler(
    request: pytest.FixtureRequest, services: Path, owner_url: str, logins: ProcessLogins
) -> Iterator[PgBouncer]:
    mode: Mode = request.param
    users = [make_url(logins.url(process, owner_url)) for process in ("web", "worker")]
    # One refuses what it does not know, the other throws it away.
    made = PgBouncer(
        new_folder(services), owner_url, users, mode, ignored="options,extra_float_digits" if mode == "session" else ""
    )
    yield made
    made.stop()


@pytest.fixture(scope="module")
def module_system(
    tmp_path_factory: pytest.TempPathFactory, broker: Broker, owner_url: str, logins: ProcessLogins, pooler: PgBouncer
) -> Iterator[System]:
    """Web, worker and beat go through the pooler; what needs a session of its own goes past it."""
    made = System(tmp_path_factory.mktemp("system"), owner_url, broker, logins, CARDSYNC_SECRET_KEY=SECRET_KEY)
    try:
        for kind in ("worker", "beat", "web"):
            own = logins.url("web" if kind == "web" else "worker", owner_url)
            made.start(kind, CARDSYNC_DATABASE_URL=pooler.url(own), CARDSYNC_DATABASE_DIRECT_URL=own)
        yield made
    finally:
        made.close()


pytestmark = ONE_BROKER


def test_hints_lead_to_active_cards_and_a_deletion_is_proved(system: System) -> None:
    hints = {customer: system.notification(customer)[0] for customer in (system.customer() for _ in range(HINTS))}
    with ThreadPoolExecutor(SENDERS) as senders:
        answers = list(senders.map(system.post_hint, hints.values()))
    assert {(answer.status_code, answer.json()["status"]) for answer in answers} == {(200, "accepted")}
    system.until_active(*hints)
    reader, deleter, customer = system.key("cards:read"), system.key("cards:delete"), next(iter(hints))
    (card,) = system.get("/v1/cards", reader, environment=ENVIRONMENT, customer_id=customer).json()["cards"]
    asked = system.post("/v1/deletions", deleter, idempotency_key=f"key-{card['card_id']}", card_id=card["card_id"])
    until(
        lambda: system.get(asked.headers["Location"], reader).json()["status"] == "done",
        "the deletion is proved",
    )


def test_every_session_has_what_the_code_relies_on_and_prepares_nothing(
    system: System, pooler: PgBouncer, owner_url: str, logins: ProcessLogins
) -> None:
    engine = db.make_engine(pooler.url(logins.url("web", owner_url)), pool_size=20)
    for name, wanted in {"statement_timeout": "5s", "lock_timeout": "3s", "datestyle": "ISO, YMD"}.items():
        assert show(engine, name) == wanted

    def ask(number: int) -> bool:
        """The same texts from many sessions at once: prepared, their names would meet on a shared session of PostgreSQL."""
        with engine.connect() as connection:
            shapes = ("SELECT CAST(:n AS int)", "SELECT CAST(:n AS int) + 0", "SELECT CAST(:n AS int) * 1")
            return all(
                connection.execute(text(s), {"n": number}).scalar_one() == number for s in shapes for _ in "123456789"
            )

    with contextlib.ExitStack() as opened:  # one after the other: twenty at once may take longer than one may take
        for _ in range(20):
            opened.enter_context(engine.connect())
    with ThreadPoolExecutor(20) as threads:
        assert all(threads.map(ask, range(200)))
    engine.dispose()


def test_a_login_without_these_settings_is_refused_in_one_line(
    services: Path, module_database_url: str, broker: Broker
) -> None:
    owner = make_url(module_database_url)
    pooler = PgBouncer(new_folder(services), module_database_url, [owner], "transaction", ignored="options")
    engine = db.make_engine(pooler.url(module_database_url))
    try:
        with pytest.raises(OperationalError, match=MISSING) as caught:
            engine.connect()
        assert len(str(db.unusable(caught.value)).splitlines()) == 1
    finally:
        engine.dispose()
        pooler.stop()


def test_a_migration_through_a_pooler_is_refused_with_what_to_set(
    system: System, pooler: PgBouncer, owner_url: str, logins: ProcessLogins
) -> None:
    through = {"CARDSYNC_DATABASE_URL": pooler.url(logins.url("worker", owner_url))}
    done = run(system.folder, system.settings | through, "db", "upgrade")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "set CARDSYNC_DATABASE_DIRECT_URL to PostgreSQL's own address" in done.stderr
    past = run(system.folder, system.settings | through | {"CARDSYNC_DATABASE_DIRECT_URL": owner_url}, "db", "upgrade")
    assert past.returncode == 0, past.stdout + past.stderr


def show(engine: Engine, name: str) -> str:
    with engine.connect() as connection:
        return str(connection.execute(text(f"SHOW {name}")).scalar_one())
