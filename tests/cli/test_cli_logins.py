"""Which command runs as which login, as docs/deployment.md has it: who may does, who may not is told where to read of it."""

from __future__ import annotations

import json

import pytest

from tests.stories.shop import listed

OWNER, WORKER, WEB = "owner", "worker", "web"


@pytest.fixture
def names(shop, tmp_path) -> dict[str, str]:
    """What the commands name: a card with its deletion, an event, a file of customers."""
    shop.ottu.cards = listed("9999000000000001")
    receipt = shop.receive()
    shop.reconcile(shop.process(receipt)[0])
    (tmp_path / "customers.csv").write_text("environment,customer_id\nsandbox,cust-2\n")
    card_id = shop.execute("SELECT card_id FROM registry.active_cards")[0].card_id
    return {"card": str(card_id), "event": str(receipt.event_id)}


@pytest.fixture
def run_as(cardsync, monkeypatch, logins, database_url):
    def run(who: str, command: str):
        url = database_url if who == OWNER else logins.url(who, database_url)
        monkeypatch.setenv("CARDSYNC_DATABASE_URL", url)
        return cardsync(*command.split())

    return run


@pytest.mark.parametrize("who", [WORKER, OWNER])
def test_the_workers_commands_run_as_the_worker_and_as_the_owner(run_as, ottu, names, who):
    asked = run_as(who, f"deletions request {names['card']} --json")
    assert asked.exit_code == 0, asked.output
    for command in (
        "customers import customers.csv",
        "plan",
        "events list",
        f"events show {names['event']}",
        "deletions list",
        "brake show",
        "brake release",
        "reconcile --environment sandbox --customer cust-2",
        "reconcile --all --max-wait 5",
        "doctor --offline",
        "db current",
        "db check",
    ):
        result = run_as(who, command)
        assert "may not do this" not in result.output, command
        if "doctor" not in command:  # it misses a broker here
            assert result.exit_code == 0, (command, result.output)


def test_the_owners_commands_run_as_the_owner_alone(run_as, names):
    deletion = json.loads(run_as(OWNER, f"deletions request {names['card']} --json").stdout)["deletion_id"]
    for command in (
        "keys create --name shop --scope cards:read",
        f"explain {names['card']}",
        f"deletions show {deletion}",
        "deletions verify",
    ):
        refused = run_as(WORKER, command)
        assert refused.exit_code == 1, command
        assert "docs/deployment.md" in refused.stderr, command
        done = run_as(OWNER, command)
        assert done.exit_code == 0, (command, done.output)


def test_the_doctor_says_that_the_webs_login_calls_nobody(run_as, ottu, names):
    result = run_as(WEB, "doctor --json")
    found = {check["name"]: check for check in json.loads(result.stdout)["checks"] if check["status"] == "failed"}
    assert result.exit_code == 1
    assert "may not do this" in found["database"]["found"]
    assert "--offline" in found["database"]["advice"]
    assert ottu.calls("list") == []
