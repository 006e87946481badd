"""The documentation site: its reference has everything that the code has, and its tutorial says what can be done."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from flask import Flask
from sqlalchemy import Engine, text

from cardsync.cli import COMMANDS
from cardsync.settings import NAMES, Settings
from cardsync.spool import Spool
from cardsync.web.openapi import document
from cardsync.web.ops import metrics

ROOT: Final = Path(__file__).resolve().parents[2]
SITE: Final = ROOT / "docs" / "site"
REFERENCE: Final[dict[str, Any]] = runpy.run_path(str(SITE / "reference.py"))


def _rows(page: str) -> dict[str, list[str]]:
    """The rows of a page's tables, by the name in their first cell."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in page.splitlines() if line.startswith("| `")]
    return {cells[0].strip(" `"): [cell.strip() for cell in cells[1:]] for cells in lines}


def test_the_reference_has_every_setting_with_its_type_default_and_purpose() -> None:
    rows = _rows(REFERENCE["settings"]())
    assert set(rows) == set(NAMES.values())
    assert [name for name, cells in rows.items() if len(cells) != 3 or not all(cells)] == []
    assert rows["CARDSYNC_KEEP_MINUTES"][:2] == ["whole number ≥ 0, ≤ 1440", "`10`"]
    assert rows["CARDSYNC_HEALTH_PORT"][:2] == ["whole number ≥ 1, ≤ 65535", "none"]
    assert rows["CARDSYNC_TOKENS_AT_REST"][:2] == ["`clear`, `encrypted`", "`clear`"]
    assert rows["OTTU_API_KEY"][0] == "secret"


def test_the_reference_has_the_help_of_every_command() -> None:
    page = REFERENCE["command_line"]()
    headings = set(re.findall(r"^#+ (cardsync.*)$", page, re.MULTILINE))
    assert {f"cardsync {name}" for name in COMMANDS} < headings
    assert {"cardsync deletions request", "cardsync endpoints add", "cardsync db upgrade"} < headings
    assert page.count("\nUsage: cardsync") == len(headings)
    assert "--drain-seconds" in page


def test_the_reference_has_every_operation_and_schema_of_the_description() -> None:
    page, described = REFERENCE["http"](), document.build("0")
    headings = set(re.findall(r"^### (.+)$", page, re.MULTILINE))
    operations = {f"{method.upper()} {path}" for path, methods in described["paths"].items() for method in methods}
    assert headings == operations | set(described["components"]["schemas"])


def test_the_reference_has_every_view_column_and_function_with_its_comment(engine: Engine) -> None:
    with engine.connect() as connection:
        page = REFERENCE["sql"](connection)
        columns = connection.execute(
            text("SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'registry'")
        ).all()
    sections = {part.split("\n")[0]: part for part in page.split("\n## ")[1:]}
    assert columns
    missing = [(v, c) for v, c in columns if not _rows(sections[f"registry.{v}"]).get(c, ["", ""])[1]]
    assert missing == []
    assert "idempotency_key" in sections["registry.request_deletion"]
    assert [name for name, part in sections.items() if not re.search(r"^[A-Z].+\.", part, re.MULTILINE)] == []


def test_the_reference_has_every_metric_that_a_process_shows_or_an_alert_asks_for(
    web_engine: Engine, tmp_path: Path
) -> None:
    rows = _rows(REFERENCE["metric_table"]())
    assert [name for name, cells in rows.items() if not cells[0] or not cells[2]] == []
    shown = set(re.findall(r"^# TYPE (cardsync_\w+)(?<!_created) ", _exposed(web_engine, tmp_path), re.MULTILINE))
    assert {"cardsync_hints_total", "cardsync_feed_head", "cardsync_spool_files", "cardsync_customers"} < shown
    assert shown - set(rows) == set()
    rules = (ROOT / "deploy" / "prometheus" / "rules.yaml").read_text(encoding="utf-8")
    asked = {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\bcardsync_[a-z_]+\b", rules)}
    assert len(asked) > 20
    assert asked - set(rows) == set()
    assert rows["cardsync_hints_total"][:2] == ["counter", "`outcome`"]
    assert rows["cardsync_endpoint_enabled"][:2] == ["gauge", "`endpoint`"]


def _exposed(engine: Engine, folder: Path) -> str:
    app = Flask(__name__)
    app.register_blueprint(
        metrics.blueprint(engine, Settings(data_dir=folder), Spool(folder / "spool", max_files=1, max_bytes=4_096))
    )
    return app.test_client().get("/metrics").get_data(as_text=True)


def test_the_tutorial_names_commands_and_lines_of_the_screen_that_exist() -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    known = {one.path for one in REFERENCE["commands"]()}
    shell = "".join(re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    called = re.findall(r"^(cardsync(?: [a-z]+)+)", shell, re.MULTILINE)
    assert len(called) > 3
    assert [command for command in called if command not in known] == []
    screen = (ROOT / "cardsync" / "dev" / "live" / "welcome.py").read_text(encoding="utf-8")
    lines = re.findall(r"\*\*(.+?)\*\*", page)
    assert len(lines) > 2
    assert [line for line in lines if f'Fact("{line}"' not in screen] == []


@pytest.mark.parametrize("what", ["omitted_files", "absolute_links", "unrecognized_links", "anchors"])
def test_the_site_is_built_strictly_and_by_ci(what: str) -> None:
    # Python's own objects in the file (the maker of anchors) are MkDocs' affair.
    config = re.sub(r"!!python\S+", "", (SITE / "mkdocs.yml").read_text(encoding="utf-8"))
    assert yaml.safe_load(config)["validation"][what] == "warn"
    build = re.findall(r"mkdocs build (.*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert len(build) == 1
    assert "--strict" in build[0]
    assert "--quiet" not in build[0]  # what is not said is not counted, and the build would pass
    assert "\nmake docs\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
