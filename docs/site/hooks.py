"""What MkDocs calls while it builds the documentation site: pages that are made, and links that must hold in two places.

Rules: a document is written once, and its links work where it lies in the repository. The site has another tree (README and its
neighbours stand beside the pages of ``docs/``), so that each link is moved as its page is. The reference is made again at each
build, its SQL from a database that was just migrated.
"""

from __future__ import annotations

import posixpath
import re
import tempfile
from pathlib import Path
from typing import Any, Final

import reference  # beside this file; MkDocs looks there while it loads a hook
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from sqlalchemy import create_engine

from cardsync import db
from cardsync.dev.servers.postgres import EmbeddedPostgres

AT_THE_TOP: Final = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE")
# A page whose words were taken from another document: its links are as they are there.
TAKEN_FROM: Final = {"reference/settings.md": "README.md"}
FOUND_IN: Final = {"Deployment": "deployment", "Runbooks": "runbooks"}
MARK: Final = re.compile(r"(?:[-*]|\d+\.) +")  # of an entry of a list
LINK: Final = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put each page of these folders into the navigation: a new alert's page is there by itself, under its own title."""
    for title, folder in FOUND_IN.items():
        section = _section(config.nav, title)
        named = {page for entry in section for page in (entry.values() if isinstance(entry, dict) else (entry,))}
        pages = sorted(f"{folder}/{path.name}" for path in (reference.ROOT / "docs" / folder).glob("*.md"))
        section.extend(page for page in pages if page not in named)
    return config


def _section(nav: list[Any], title: str) -> list[Any]:
    """The entries under this title, wherever it stands; an empty list if it stands nowhere."""
    for entry in nav:
        for name, below in entry.items() if isinstance(entry, dict) else ():
            found = below if name == title else _section(below, title) if isinstance(below, list) else []
            if found:
                return found
    return []


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents of the repository's top folder, and the reference."""
    for name in AT_THE_TOP:
        files.append(File.generated(config, name, content=(reference.ROOT / name).read_text(encoding="utf-8")))
    pages = {
        "settings": reference.settings(),
        "commands": reference.command_line(),
        "http": reference.http(),
        "sql": _sql(),
        "metrics": reference.metric_table(),
    }
    for name, content in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files


def _sql() -> str:
    with tempfile.TemporaryDirectory(prefix="cardsync-docs-") as folder:
        Path(folder).chmod(0o711)  # run by root, PostgreSQL is another user, and must get through to its own folder
        with EmbeddedPostgres(Path(folder) / "postgres", durable=False) as server:
            server.create_database("docs")
            db.upgrade(server.url_for("docs"))
            engine = create_engine(server.url_for("docs").replace("postgresql://", "postgresql+psycopg://"))
            with engine.connect() as connection:
                made = reference.sql(connection)
            engine.dispose()
    return made


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let each link lead where its target is on the site."""
    here = page.file.src_uri
    written_in = TAKEN_FROM.get(here) or (here if here in AT_THE_TOP else f"docs/{here}")

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(written_in), link[1]))
        return posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(here) or ".")

    return with_wide_lists(LINK.sub(moved, markdown))


def with_wide_lists(markdown: str) -> str:
    """Indent what belongs to a list's entry by four, as MkDocs reads it; GitHub goes by the width of the entry's mark."""
    lines: list[str] = []
    width, is_code = 0, False
    for line in markdown.split("\n"):
        if mark := None if is_code else MARK.match(line):
            if lines and lines[-1].strip() and (not width or lines[-1].startswith("    ")):
                lines.append("")  # MkDocs sees no entry in the midst of a paragraph
            width = len(mark[0])
        elif width and line[:width].strip():
            width = 0 if is_code or not lines[-1].strip() or line.startswith(("#", "|", "```")) else width
        elif width and line.strip():
            line = "    " + line[width:]
        is_code ^= line.lstrip().startswith("```")
        lines.append(line)
    return "\n".join(lines)
