"""Which code is measured: this checkout, and with ``--against`` that of another commit, installed beside it.

The other commit's files lie in ``.venv/against/<commit>``, with a ``.venv`` of their own that its own Makefile installs from its
own lock file. So an old commit runs with the libraries that it was released with. The folder is used again for the same commit;
the newest ``KEPT`` stay, and ``make clean`` removes all. Rejected: a worktree of git, which leaves an entry in the repository.

A benchmark that can compare takes a ``Checkout`` wherever it starts a process or makes a database (``benchmarks.stack``), and
measures its checkouts in turn (``figures.in_turn``). What is sent, and the stand-in for Ottu, are this checkout's for all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
_BESIDE: Final = ROOT / ".venv" / "against"
_INSTALLED: Final = ".installed"  # written last: an interrupted installation has none
KEPT: Final = 3
_COMMIT_CHARACTERS: Final = 12


class NoSuchCommitError(Exception):
    """Git knows no such commit, or it could not be installed; the text says which."""


@dataclass(frozen=True, slots=True)
class Checkout:
    """Files of one commit and the Python that runs them. ``name`` is what tables call it, ``label`` fits a file's name."""

    name: str
    label: str
    root: Path
    python: str

    def command(self, *arguments: str) -> tuple[str, ...]:
        """The ``cardsync`` command of this checkout, whatever else is installed."""
        return (self.python, "-c", "from cardsync.cli import main; main()", *arguments)


HERE: Final = Checkout("cardsync", "here", ROOT, sys.executable)


def installed(ref: str, say: Callable[[str], None]) -> Checkout:
    """Return the checkout of a commit that git knows by ``ref``, installed now or before. Raises ``NoSuchCommitError``."""
    commit = _commit(ref)
    folder = _BESIDE / commit
    stamp = folder / _INSTALLED
    if not stamp.exists():
        say(f"installing {ref} ({commit}) in {folder.relative_to(ROOT)}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _unpack(commit, folder)
        _install(folder)
    stamp.touch()
    _forget_all_but_the_newest()
    name = "cardsync at " + (commit if commit.startswith(ref) else f"{ref} ({commit})")
    return Checkout(name, commit, folder, str(folder / ".venv" / "bin" / "python"))


def _commit(ref: str) -> str:
    command = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoSuchCommitError(f"git knows no commit {ref!r} in {ROOT}")
    return done.stdout.strip()[:_COMMIT_CHARACTERS]


def _unpack(commit: str, folder: Path) -> None:
    """The commit's files as they were committed: nothing that lies about in this checkout goes along."""
    with subprocess.Popen(["git", "archive", "--format=tar", commit], cwd=ROOT, stdout=subprocess.PIPE) as git:
        assert git.stdout is not None
        with tarfile.open(fileobj=git.stdout, mode="r|") as archive:
            archive.extractall(folder, filter="data")
    if git.returncode != 0:
        raise NoSuchCommitError(f"git could not unpack {commit}")


def _install(folder: Path) -> None:
    """As a developer of that commit would. A ``make`` above this one must not pass its own ARGS on."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("MAKE") and name != "ARGS"}
    base = getattr(sys, "_base_executable", sys.executable)
    command = ["make", "-C", str(folder), f"PYTHON={base}", ".venv/.dev"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoSuchCommitError(f"{folder.name} could not be installed:\n{(done.stdout + done.stderr)[-2_000:]}")


def _forget_all_but_the_newest() -> None:
    used = sorted((f for f in _BESIDE.iterdir() if f.is_dir()), key=_used_at, reverse=True)
    for folder in used[KEPT:]:
        shutil.rmtree(folder, ignore_errors=True)


def _used_at(folder: Path) -> float:
    stamp = folder / _INSTALLED
    return stamp.stat().st_mtime if stamp.exists() else 0.0
