"""The alerts that are shipped: Prometheus takes them, each fires and ends, each has a page that says what to do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import click
import pytest
import yaml

from cardsync.cli import main
from tests.e2e import test_prometheus

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "deploy/prometheus"
DASHBOARDS: Final = ROOT / "deploy/grafana/dashboards"
RUNBOOKS: Final = ROOT / "docs/runbooks"
HEADINGS: Final = ["Symptom", "Metric", "What to do", "How to see that it is over"]
# What a person begins, and no alert tells of. The index names each one.
WITHOUT_AN_ALERT: Final = {"backup-restored.md"}
# Prometheus's own, and what the rules record themselves.
NOT_OURS: Final = {"up"}
GRID_COLUMNS: Final = 24  # of a dashboard of Grafana's


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "rules.yaml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def promtool(*arguments: str) -> None:
    found = shutil.which("promtool")
    if found is None:
        assert not os.environ.get("CARDSYNC_REQUIRE_SERVICES"), (
            "promtool is missing: Debian's package prometheus has it"
        )
        pytest.skip("promtool is not here: Debian's package prometheus has it")
    done = subprocess.run([found, *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_rules_and_the_example() -> None:
    promtool("check", "rules", "rules.yaml")
    promtool("check", "config", "prometheus.yaml")


def test_each_alert_fires_and_ends() -> None:
    promtool("test", "rules", "rules.test.yaml")


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_over() -> None:
    tests = yaml.safe_load((FOLDER / "rules.test.yaml").read_text(encoding="utf-8"))["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    for name in {alert["alert"] for alert in alerts()}:
        assert {bool(case["exp_alerts"]) for case in cases if case["alertname"] == name} == {True, False}, name


def test_each_alert_is_made_to_fire_and_end_in_a_running_system() -> None:
    assert sorted(test_prometheus.EACH) == sorted({alert["alert"] for alert in alerts()})


def test_each_alert_has_a_page_that_says_what_to_do_and_each_page_an_alert() -> None:
    pages = {alert["annotations"]["runbook"]: alert for alert in alerts()}
    there = {
        str(page.relative_to(ROOT))
        for page in RUNBOOKS.glob("*.md")
        if page.name not in {"README.md"} | WITHOUT_AN_ALERT
    }
    assert pages.keys() == there
    for page, alert in pages.items():
        said = (ROOT / page).read_text(encoding="utf-8")
        assert said.startswith(f"# {alert['alert']}\n"), page
        assert re.findall(r"^## (.*)$", said, re.MULTILINE) == HEADINGS, page
        assert alert["expr"] in said, f"{page} shows another expression than the rule"


def test_the_index_lists_each_alert() -> None:
    index = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[(\w+)\]\(([\w-]+\.md)\)", index, re.MULTILINE)
    assert {name: f"docs/runbooks/{page}" for name, page in listed} == {
        alert["alert"]: alert["annotations"]["runbook"] for alert in alerts()
    }


def test_the_index_names_each_page_without_an_alert_which_says_what_to_do() -> None:
    index = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    for page in WITHOUT_AN_ALERT:
        assert f"({page})" in index
        said = (RUNBOOKS / page).read_text(encoding="utf-8")
        assert re.findall(r"^## (.*)$", said, re.MULTILINE) == [one for one in HEADINGS if one != "Metric"]


def boards() -> dict[str, dict[str, Any]]:
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(DASHBOARDS.glob("*.json"))}


def test_each_dashboard_has_an_id_and_a_title_of_its_own_and_asks_for_its_source() -> None:
    found = boards()
    assert {board["uid"] for board in found.values()} == {f"cardsync-{name}" for name in found}
    assert len({board["title"] for board in found.values()}) == len(found)
    for board in found.values():
        assert isinstance(board["schemaVersion"], int)
        (variable,) = board["templating"]["list"]
        assert (variable["name"], variable["type"], variable["query"]) == ("datasource", "datasource", "prometheus")


@pytest.mark.parametrize("name", boards())
def test_each_panel_of_a_dashboard_has_its_own_id_place_and_source(name: str) -> None:
    panels = boards()[name]["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] >= 0
        assert at["x"] + at["w"] <= GRID_COLUMNS, panel["title"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert cells, panel["title"]
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert references, panel["title"]
        assert len(set(references)) == len(references), panel["title"]
        assert all(target["expr"] for target in panel["targets"]), panel["title"]


def commands() -> list[tuple[str, str]]:
    """Each page's name and each command that it tells a person to type, one line each."""
    return [
        (page.name, " ".join(said.split()))
        for page in sorted(RUNBOOKS.glob("*.md"))
        for said in re.findall(r"`(cardsync [a-z][^`]*)`", page.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize(("page", "said"), sorted(set(commands())))
def test_each_command_of_a_page_can_be_typed(page: str, said: str) -> None:
    _, *words = said.split()
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group):
        assert words, f"{page}: {said} is a group"
        found = command.get_command(context, words.pop(0))
        assert found is not None, f"{page}: {said}"
        command = found
    named = {option: one for one in command.params for option in one.opts}
    given = []
    while words:
        if (word := words.pop(0)).startswith("-"):
            option = named[word]
            if not (isinstance(option, click.Option) and option.is_flag):
                words.pop(0)
        else:
            given.append(word)
    needed = [one for one in command.params if isinstance(one, click.Argument) and one.required]
    assert len(given) >= len(needed), f"{page}: {said} lacks {[one.name for one in needed]}"


def expressions() -> list[str]:
    """Those of the rules, and of the panels of the dashboards."""
    boards = [json.loads(board.read_text(encoding="utf-8")) for board in DASHBOARDS.glob("*.json")]
    assert boards
    shown = [target["expr"] for board in boards for panel in board["panels"] for target in panel["targets"]]
    return [rule["expr"] for rule in rules()] + shown


def test_each_metric_of_the_rules_and_dashboards_is_one_of_ours() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "cardsync").rglob("*.py"))
    named = set(re.findall(r'"(cardsync_[a-z_]+)"', code))
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for expr in expressions():
        used = set(re.findall(r"\b(cardsync:[a-z_:0-9]+|cardsync_[a-z_]+|up)\b", re.sub(r'"[^"]*"', "", expr)))
        bare = {re.sub(r"_(total|bucket|count|sum)$", "", name) if name not in named else name for name in used}
        assert bare <= named | recorded | NOT_OURS, expr
