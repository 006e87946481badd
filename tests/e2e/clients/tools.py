"""What ``make clients`` installs: generators of clients, linters, Node, and a Python with what consumers need."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

HERE: Final = Path(__file__).resolve().parent
TOOLS: Final = HERE.parents[2] / ".venv" / "clients"
COMMAND_SECONDS: Final = 600


def folder() -> Path:
    """Where it is; the test is skipped, or fails in CI, if it is not installed."""
    if not (TOOLS / "node_modules").is_dir():
        reason = "the generators of clients are not installed: make clients"
        if os.environ.get("CARDSYNC_REQUIRE_SERVICES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return TOOLS


def python() -> Path:
    """The interpreter that has the packages of clients and consumers, and none of cardsync's."""
    return folder() / "python" / "bin" / "python"


def use(*arguments: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command to its end, with the tools' own Node and Python first; its output, if it succeeded."""
    path = f"{TOOLS / 'python' / 'bin'}:{TOOLS / 'node_modules' / '.bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        env={**os.environ, **environment, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_SECONDS,
    )
    assert done.returncode == 0, f"{arguments[0]}: {done.stdout[-4_000:]}{done.stderr[-4_000:]}"
    return done.stdout
