"""``cardsync plan``: the same arithmetic for people and for programs, with a database and without one."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from cardsync.cli import main
from tests.cli.conftest import Runner
from tests.factories import CustomerFactory


def plan_without_a_database(*arguments: str):
    return CliRunner().invoke(main, ["plan", *arguments], prog_name="cardsync")


def test_a_number_of_customers_is_planned_for_without_a_database() -> None:
    done = plan_without_a_database("--customers", "1000000", "--changes-per-day", "3300", "--json")
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    assert (plan["from"], plan["daily_calls"], plan["customers"], plan["now"]) == ("estimate", 90_000, 1e6, None)
    assert plan["worst_age_days"] == pytest.approx(2 * 1_000_000 / 80_800, rel=0.01)
    assert plan["median_age_days"] < plan["worst_age_days"]
    assert plan["detect_p50_days"] < plan["detect_p95_days"] <= plan["oldest_days"]
    assert plan["changes_a_day"] == pytest.approx(3_300)
    worst = [budget["worst_age_days"] for budget in plan["budgets"]]
    assert [budget["daily_calls"] for budget in plan["budgets"]] == [45_000, 90_000, 180_000]
    assert worst[0] / worst[1] == pytest.approx(2, rel=0.01)
    assert sum(plan["lanes"].values()) == pytest.approx(1)


def test_people_get_a_table_of_budgets_and_a_plot_in_plain_characters() -> None:
    done = plan_without_a_database("--customers", "1000000")
    assert done.exit_code == 0, done.output
    assert "24.7 d at the most" in done.stdout
    assert "half\t45,000\t49.5 d" in done.stdout
    bars = [line.count("#") for line in done.stdout.split("found within:")[1].splitlines() if "%" in line]
    assert bars == sorted(bars)
    assert bars[-1] == 40
    assert done.stdout.isascii()


def test_the_settings_budget_is_planned_with(monkeypatch) -> None:
    monkeypatch.setenv("OTTU_DAILY_CALLS", "9000")
    plan = json.loads(plan_without_a_database("--customers", "1000000", "--json").stdout)
    assert plan["worst_age_days"] == pytest.approx(2 * 1_000_000 / 8_080, rel=0.01)


def test_a_database_is_planned_for_by_its_customers_history(cardsync: Runner, bound_factories, engine) -> None:
    for n in range(20):
        CustomerFactory(cadence=0 if n else 8, reconciled_at=f"2026-01-{n + 1:02}")
    CustomerFactory()
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO cardsync.call_minutes VALUES (now(), 'sweep', 900), (now(), 'hint', 45000)"
        )
    done = cardsync("plan", "--json")
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    assert (plan["from"], plan["customers"]) == ("database", 21)
    assert plan["lanes"] == {"hint": 0.5, "sweep": 0.01}
    assert plan["routine_calls_a_day"] == pytest.approx(36_000, rel=0.003)  # what hints take is not there for looks
    assert plan["now"]["newcomers"] == 1
    assert plan["now"]["worst_age_seconds"] > plan["now"]["median_age_seconds"] > 0
    assert {g["cadence"]: g["customers"] for g in plan["cadences"]} == {0: 19, 1: 1, 8: 1}
    people = cardsync("plan")
    assert people.exit_code == 0, people.output
    assert "hint 50.0%, sweep 1.0% (last 24 hours)" in people.stdout


def test_without_customers_there_is_nothing_to_plan(cardsync: Runner) -> None:
    done = cardsync("plan")
    assert done.exit_code == 1
    assert "--customers" in done.stderr


@pytest.mark.parametrize(
    "wrong", [["--customers", "0"], ["--changes-per-day", "5"], ["--customers", "9", "--changes-per-day", "0"]]
)
def test_wrong_usage_is_said_so(wrong: list[str]) -> None:
    assert plan_without_a_database(*wrong).exit_code == 2
