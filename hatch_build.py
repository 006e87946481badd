"""Hatch's build hook: a package that is built from a checkout carries the commit, unless that is the release of its version.

``cardsync/cli/version.py`` reads the file. A source distribution carries it on to the wheels that are built from it. An editable
installation has none: its checkout is asked.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds ``cardsync/commit``."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the commit down for the build, if there is one to tell."""
        if version == "editable" or not (Path(self.root) / ".git").exists():
            return
        if f"v{self.metadata.version}" in self._git("tag", "--points-at", "HEAD").split():
            return
        if commit := self._git("rev-parse", "--short=12", "HEAD"):
            self._folder = tempfile.TemporaryDirectory()
            file = Path(self._folder.name) / "commit"
            file.write_text(commit + "\n", encoding="ascii")
            build_data["force_include"][str(file)] = "cardsync/commit"

    def _git(self, *asked: str) -> str:
        try:
            answer = subprocess.run(["git", *asked], cwd=self.root, capture_output=True, text=True, check=False)
        except OSError:
            return ""
        return answer.stdout.strip() if answer.returncode == 0 else ""
