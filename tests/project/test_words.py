"""Plain English: the habits of language that make a sentence hard to read must not come back.

The tests look at what people read: docstrings, comments and texts of ``cardsync`` and ``workers`` (with the command line's help),
the templates of pages, and the documents. They do not look at names in code: PostgreSQL's own user is called ``nobody``.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What to write instead stands beside each.
HABITS: Final = {
    "whoever": r"\bwhoever\b",  # name the subject: "the process that ..."
    "whom": r"\bwhom\b",  # "a customer without a list", not "one of whom no list was believed"
    "of which nothing": r"\bof which nothing\b",  # "without a trace"
    "so many": r"\bso many\b",  # "at most N", "this number of"
    "anew": r"\banew\b",  # "again"
    "nobody": r"\bnobody\b",  # "no process", "no login", or turn the sentence round
}
PATTERNS: Final = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in HABITS.items()}
CODE_SPAN: Final = re.compile(r"```.*?```|``[^`]+``|`[^`]+`", re.DOTALL)

CODE: Final = sorted(path for room in ("cardsync", "workers") for path in (ROOT / room).rglob("*.py"))
TEMPLATES: Final = sorted((ROOT / "cardsync").rglob("templates/*.html"))
DOCUMENTS: Final = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])


def habits_in(path: Path) -> list[str]:
    """Each habit in a file's prose, as ``line: habit``."""
    texts = _python(path) if path.suffix == ".py" else [(1, path.read_text(encoding="utf-8"))]
    return [
        f"{first + prose.count(chr(10), 0, match.start())}: {name}"
        for first, said in texts
        for prose in [CODE_SPAN.sub(_only_its_lines, said)]
        for name, pattern in PATTERNS.items()
        for match in pattern.finditer(prose)
    ]


def _only_its_lines(span: re.Match[str]) -> str:
    return "\n" * span[0].count("\n")


def _python(path: Path) -> Iterator[tuple[int, str]]:
    """Comments, and texts of more than one word, each with the line where it begins."""
    source = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def test_every_kind_of_text_is_read() -> None:
    assert len(CODE) > 100
    assert len(TEMPLATES) > 20
    assert {"CHANGELOG.md", "README.md", "CONTRIBUTING.md", "glossary.md"} <= {path.name for path in DOCUMENTS}


@pytest.mark.parametrize("path", [*CODE, *TEMPLATES, *DOCUMENTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_is_free_of_words_that_make_it_hard_to_read(path: Path) -> None:
    assert habits_in(path) == []


@pytest.mark.parametrize(
    ("source", "habits"),
    [
        ('"""Whoever asks is served."""\n', ["1: whoever"]),
        ("ONE = 1  # so many, and\n# begun anew\n", ["1: so many", "2: anew"]),
        ('say("nobody waits")\nuser = "nobody"\nwhom = 1\n', ["1: nobody"]),
        ('"""As ``nobody`` or\n`whom`, and of whom."""\n', ["2: whom"]),
        ('f"{one} of whom"\n', ["1: whom"]),
    ],
)
def test_prose_is_read_and_names_are_not(source: str, habits: list[str], tmp_path: Path) -> None:
    path = tmp_path / "example.py"
    path.write_text(source, encoding="utf-8")
    assert sorted(habits_in(path)) == habits
