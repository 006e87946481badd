"""What ``cardsync --version`` prints: the package's version, and the commit wherever it is no release.

A checkout is asked at each call; a package that was built from one carries the commit in a file, which ``hatch_build.py`` writes.
A commit that has the tag of its version is that release, and so is what was built of it.
"""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import click

PACKAGE: Final = Path(__file__).resolve().parents[1]
COMMIT_FILE: Final = "commit"  # in the package, as hatch_build.py names it
GIT_SECONDS: Final = 5


def full_version(package: Path = PACKAGE) -> str:
    """The version, with ``+g`` and the commit if it is no release."""
    release = version("cardsync")
    commit = _commit(package, release)
    return f"{release}+g{commit}" if commit else release


def _commit(package: Path, release: str) -> str:
    if (package.parent / ".git").exists():
        tags = _git(package.parent, "tag", "--points-at", "HEAD").split()
        return "" if f"v{release}" in tags else _git(package.parent, "rev-parse", "--short=12", "HEAD")
    try:
        return (package / COMMIT_FILE).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _git(root: Path, *asked: str) -> str:
    """What git answers; nothing where it is not installed, or does not trust the folder."""
    try:
        answer = subprocess.run(
            ["git", *asked], cwd=root, capture_output=True, text=True, timeout=GIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def show(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
    """Print it and end."""
    if value and not ctx.resilient_parsing:
        click.echo(f"cardsync {full_version()}")
        ctx.exit()
