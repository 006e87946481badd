"""A database in another zone: every round trip takes twenty milliseconds, and everything holds as if it were next door.

Web, worker, beat, command line and the test itself speak to it through the same slow network.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from tests.e2e.marks import ONE_BROKER
from tests.e2e.processes import run
from tests.e2e.system import ENVIRONMENT, System, token_of
from tests.waiting import until

pytestmark = ONE_BROKER

DATABASE_ONE_WAY_SECONDS: Final = 0.010
SETTINGS: Final = {"CARDSYNC_CONFIRM_S": "4"}
SENDERS: Final = 8
HINTS: Final = 80
LONG_SECONDS: Final = 180.0  # eighty customers' work is some thousand round trips


def said(system: System, *arguments: str) -> Any:
    """What a command says with ``--json``; it must succeed."""
    done = run(system.folder, system.settings, *arguments, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def lost(system: System) -> int:
    """How often the web thought that the database is away."""
    return system.processes["web"].output().count('"database_lost"')


def spooled(system: System) -> float:
    return system.metrics().get(("cardsync_spooled_hints_total", ("written",)), 0.0)


def test_hints_are_taken_by_the_database_itself_and_lead_to_active_cards(system: System) -> None:
    def took_all() -> bool:
        """A machine that stands still for a second has some of them go to the disk; the distance would have it so each time."""
        before = lost(system), spooled(system)
        hints = {customer: system.notification(customer)[0] for customer in (system.customer() for _ in range(HINTS))}
        with ThreadPoolExecutor(SENDERS) as senders:
            answers = list(senders.map(system.post_hint, hints.values()))
        assert {(answer.status_code, answer.json()["status"]) for answer in answers} == {(200, "accepted")}
        system.until_active(*hints, seconds=LONG_SECONDS)
        return (lost(system), spooled(system)) == before

    until(took_all, "the database itself took all hints", seconds=LONG_SECONDS)


def test_a_deletion_is_proved_and_a_reader_gets_fresh_cards(system: System) -> None:
    customer, reader, deleter = system.customer(), system.key("cards:read"), system.key("cards:delete")
    system.save_card(customer)
    system.until_active(customer)
    answer = system.get("/v1/cards", reader, environment=ENVIRONMENT, customer_id=customer, max_age="0")
    assert answer.status_code == 200, answer.text
    (card,) = answer.json()["cards"]
    asked = system.post("/v1/deletions", deleter, idempotency_key=f"key-{card['card_id']}", card_id=card["card_id"])
    assert asked.status_code == 202, asked.text
    until(
        lambda: system.get(asked.headers["Location"], reader).json()["status"] == "done",
        "the deletion is proved",
        seconds=LONG_SECONDS,
    )
    assert system.statuses(customer) == ["removed"]


def test_commands_work_and_doctor_finds_all_in_order(system: System) -> None:
    imported, named = system.customer("imported"), system.customer()
    visit = system.save_card(imported, notify=False)
    file = system.folder / "customers.csv"
    file.write_text(f"environment,customer_id\n{ENVIRONMENT},{imported}\n", encoding="utf-8")
    said(system, "customers", "import", str(file))
    system.until_active(imported, seconds=LONG_SECONDS)

    system.save_card(named, notify=False)
    said(system, "reconcile", "--environment", ENVIRONMENT, "--customer", named)
    system.until_active(named)

    (card,) = system.cards(imported)
    assert token_of(visit) not in json.dumps(said(system, "explain", str(card["card_id"])))
    closed = run(system.folder, system.settings, "db", "close")  # as docker-compose.yml does
    assert closed.returncode == 0, closed.stdout + closed.stderr
    found = said(system, "doctor")
    assert found["failed"] == 0, found
    unwanted = {check["name"] for check in found["checks"] if check["status"] != "ok"}
    assert unwanted <= {"durability", "drift"}  # the tests' server does not flush, and no customer was audited yet
    until(lambda: system.get("/readyz").json()["status"] == "ready", "the web says that it is ready")
