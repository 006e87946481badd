"""The documents lead somewhere: each path, function, setting, command and link that they name exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS: Final = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
# These describe the code as it is; a changelog names what was.
GUIDES: Final = [ROOT / name for name in ("CONTRIBUTING.md", "docs/architecture.md", "docs/glossary.md")]
TOPS: Final = "cardsync|workers|tests|migrations|docs|deploy|requirements|benchmarks"
PATH: Final = re.compile(rf"`((?:{TOPS})/[\w./-]*|[A-Z]\w+\.md|pyproject\.toml|\.ci/run|\.env\.example)`")
# A step of a walk: `path` | `function`, or in a sentence (`path`: `function`).
STEP: Final = re.compile(r"`([\w/]+\.py)`(?: \| |: )`(\w+)`")
SHORT_PATH: Final = re.compile(r"`((?:core|store|stories|ottu|web|cli|dev)/[\w/]+\.py)`")
LINK: Final = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
TABLE_NAME: Final = re.compile(r"`cardsync\.([a-z_]+)`")

FILES_MOST: Final = 8  # from a notification's bytes to its answer, and fewer to the removal of a card


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", GUIDES, ids=_name)
def test_every_path_that_a_guide_names_exists(document: Path) -> None:
    named = set(PATH.findall(document.read_text(encoding="utf-8")))
    assert len(named) > 5
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


def test_the_tree_has_every_file_and_folder_that_stands_directly_in_the_package() -> None:
    guide = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = guide.partition("## The tree")[2].partition("\n## ")[0]
    there = [f"cardsync/{path.name}" for path in (ROOT / "cardsync").glob("*.py")]
    there += [f"cardsync/{path.parent.name}/" for path in (ROOT / "cardsync").glob("*/__init__.py")]
    assert len(there) > 20
    assert sorted(path for path in there if f"`{path}`" not in tree) == []


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d.name != "CHANGELOG.md"], ids=_name)
def test_every_short_path_in_a_document_exists(document: Path) -> None:
    named = set(SHORT_PATH.findall(document.read_text(encoding="utf-8")))
    assert sorted(path for path in named if not (ROOT / "cardsync" / path).exists()) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_link_between_documents_resolves(document: Path) -> None:
    links = [link for link in LINK.findall(document.read_text(encoding="utf-8")) if "://" not in link]
    broken = []
    for link in links:
        file, _, anchor = link.partition("#")
        target = (document.parent / file).resolve() if file else document
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_in_the_navigation_of_the_documentation_site() -> None:
    config = (ROOT / "docs" / "site" / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"^ +- (?:[\w\- ]+: )?(\S+\.md)$", config, re.MULTILINE))
    # Pages of these two folders are found by themselves (docs/site/hooks.py).
    found = {page for folder in ("deployment", "runbooks") for page in (ROOT / "docs" / folder).glob("*.md")}
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md") if page not in found}
    assert len(pages) > 5
    assert pages - listed == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_link_leads_to_something_that_is_on_the_documentation_site(document: Path) -> None:
    links = [link.partition("#")[0] for link in LINK.findall(document.read_text(encoding="utf-8")) if "://" not in link]
    targets = {(document.parent / link).resolve() for link in links if link}
    on_the_site = {*DOCUMENTS, ROOT / "LICENSE", *(ROOT / "docs" / "images").iterdir()}
    assert targets - on_the_site == set()  # name a file of the code as code, without a link


def _anchors(document: Path) -> set[str]:
    """The anchors that a Markdown reader makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_function_of_a_walk_is_where_the_walk_says() -> None:
    steps = STEP.findall((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    assert len(steps) > 30
    assert [step for step in steps if step[1] not in _defined(ROOT / step[0])] == []


def _defined(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}


def test_every_table_that_the_glossary_names_exists() -> None:
    from cardsync.store.schema import Base

    tables = {table.name for table in Base.metadata.tables.values()} | {"observation_no"}
    named = set(TABLE_NAME.findall((ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")))
    assert len(named) > 10
    assert named - tables == set()


def test_a_notification_is_answered_within_eight_files_and_a_removal_is_decided_within_five() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    first, third = text.split("## Walk 1")[1], text.split("## Walk 3")[1]
    until_the_answer = first.split("**after the commit, the answer**")[0]
    assert len(set(re.findall(r"`(cardsync/[\w/]+\.py)`", until_the_answer))) <= FILES_MOST
    assert "docs/architecture.md" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert re.search(r"`cardsync/core/diff\.py` \| `plan` \| \*\*a card is removed", third)
