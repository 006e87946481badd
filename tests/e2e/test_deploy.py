"""A deploy without a gap: migrations come first, and the code that is there goes on beside a schema that is newer than it.

The newer schema is made as a deploy makes it, by Alembic and while hints arrive: our migrations and one that only adds. What
may stand in such a one, tests/project/test_migrations.py says.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from alembic import command

from cardsync import db
from cardsync.store.access.keys import SCOPES
from tests.e2e.marks import ONE_BROKER
from tests.e2e.processes import run
from tests.e2e.system import ENVIRONMENT, System
from tests.logins import ProcessLogins
from tests.waiting import until

pytestmark = ONE_BROKER

TOMORROW = '''
"""Columns that today's code knows nothing of, in every table that it writes and at the end of a view that it reads."""

from alembic import op

revision = "9999"
down_revision = "{before}"
TABLES = ("events", "customers", "cards", "agreements", "observations", "deletions", "deletion_steps", "api_keys", "gate")


def upgrade():
    for table in TABLES:
        op.execute(f"ALTER TABLE cardsync.{{table}} ADD COLUMN tomorrow text, ADD COLUMN later int NOT NULL DEFAULT 1")
    op.execute("CREATE TABLE cardsync.tomorrow (x int)")
    with op.get_context().autocommit_block():
        op.execute("CREATE INDEX CONCURRENTLY cards_tomorrow ON cardsync.cards (tomorrow)")
'''
HINTS = 8  # statements are prepared after the fifth time: a prepared one, too, must outlive the change


def upgrade_to_tomorrow(database_url: str, folder: Path) -> None:
    scripts = folder / "migrations"
    shutil.copytree(db.migrations_path(), scripts, ignore=shutil.ignore_patterns("__pycache__"))
    newest = db.newest_revision()
    (scripts / "versions" / "9999_tomorrow.py").write_text(TOMORROW.format(before=newest), encoding="utf-8")
    config = db.alembic_config(database_url)
    config.set_main_option("script_location", str(scripts))
    command.upgrade(config, "head")


def test_todays_processes_go_on_and_start_anew_on_the_schema_of_tomorrow(system: System, tmp_path: Path) -> None:
    customers = [system.customer() for _ in range(HINTS)]
    for customer in customers:
        system.save_card(customer)
    system.until_active(*customers)
    upgrade_to_tomorrow(system.settings["CARDSYNC_DATABASE_URL"], tmp_path)

    for customer in customers:  # the processes that were there before
        system.save_card(customer)
    system.until_active(*customers, cards=2)
    key = system.key(*(scope for scope in SCOPES if scope != "tokens:read"))
    for name in ("web", "worker", "beat"):  # ... and such as a restart brings, in the middle of the deploy
        system.end(name)
        system.start(name)
    until(lambda: system.get("/readyz").status_code == 200, "the web is ready")
    newcomer = system.customer()
    system.save_card(newcomer)
    system.until_active(newcomer)
    (card,) = system.cards(newcomer)
    shown = system.get("/v1/cards", key, environment=ENVIRONMENT, customer_id=newcomer).json()["cards"]
    assert [one["card_id"] for one in shown] == [str(card["card_id"])]
    asked = system.post("/v1/deletions", key, idempotency_key="tomorrow", card_id=str(card["card_id"]))
    assert asked.status_code == 202
    until(lambda: system.statuses(newcomer) == ["removed"], "the card is proved to be gone")

    # The way back from tomorrow's release is to start today's: its step of migrations changes nothing, and succeeds.
    done = run(system.folder, system.settings, "db", "upgrade")
    assert (done.returncode, "newer" in done.stdout + done.stderr) == (0, True), done.stdout + done.stderr

    checked = run(system.folder, system.settings, "doctor", "--offline", "--json")
    states = {check["name"]: check["status"] for check in json.loads(checked.stdout)["checks"]}
    assert (checked.returncode, states["migrations"]) == (0, "ok"), checked.stdout


def test_each_process_talks_to_the_database_as_itself(system: System) -> None:
    customer = system.customer()
    system.save_card(customer)
    system.until_active(customer)
    query = (
        "SELECT DISTINCT application_name AS process, m.roleid::regrole::text AS role, r.rolsuper AS owns"
        " FROM pg_stat_activity AS a JOIN pg_roles AS r ON r.rolname = a.usename"
        " LEFT JOIN pg_auth_members AS m ON m.member = r.oid"
        " WHERE datname = current_database() AND application_name LIKE 'cardsync %'"
    )
    wanted = {
        "cardsync webhook": "cardsync_web",
        "cardsync web": "cardsync_web",
        "cardsync worker": "cardsync_worker",
        "cardsync listener": "cardsync_worker",
        "cardsync courier": "cardsync_worker",
        "cardsync beat": "cardsync_worker",
    }

    def all_as_wanted() -> bool:  # a command's session may last a moment longer than the command
        rows = system.sql(query)
        found = {row["process"]: row["role"] for row in rows}
        return found == wanted and not any(row["owns"] for row in rows)

    until(all_as_wanted, "each process has sessions of its own login, and no other")


@pytest.mark.parametrize("process", ["web", "worker"])
def test_a_containers_own_check_of_itself_needs_no_more_rights_than_it_has(
    system: System, logins: ProcessLogins, process: str
) -> None:
    own = {**system.settings, "CARDSYNC_DATABASE_URL": logins.url(process, system.settings["CARDSYNC_DATABASE_URL"])}
    checked = run(system.folder, own, "doctor", "--offline")
    assert checked.returncode == 0, checked.stdout + checked.stderr
