"""The account that runs PostgreSQL, and where that account may keep files: PostgreSQL refuses to run as root.

Rules: an ordinary user runs it as himself. Root runs it as an existing unprivileged account, and never opens one of root's
folders to that account: data that the account cannot reach goes to a private folder under ``/var/tmp``, whose name is a function
of the wanted path. A folder that exists there already is used only if its owner and mode show that no other user made it.

Rejected: a user namespace. It would need none of this, but the default seccomp profile of containers forbids it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cardsync.dev.servers.errors import ServiceError

ACCOUNTS: Final = ("postgres", "nobody")  # the first that exists; `nobody` is everywhere
SHARED: Final = Path("/var/tmp")  # noqa: S108  # every name below it is verified on use


@dataclass(frozen=True, slots=True)
class Account:
    """An account of this machine that runs programs; ``is_self`` if that needs no change of user."""

    uid: int
    gid: int
    is_self: bool

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program to its end as this account and return its output, whatever its exit status."""
        return subprocess.run(
            [str(part) for part in command], **self.spawning(), capture_output=True, text=True, check=False
        )

    def spawning(self) -> dict[str, Any]:
        """Return the arguments for ``subprocess`` that run a program as this account.

        The program gets none of the caller's ``PG*`` variables, and no working directory that it cannot read.
        """
        who = {} if self.is_self else {"user": self.uid, "group": self.gid, "extra_groups": []}
        env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        return {**who, "cwd": "/", "env": env, "stdin": subprocess.DEVNULL}

    def give(self, path: Path) -> None:
        """Make this account the owner of ``path``; of the link itself if it is one. Called as root."""
        os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def enters(self, directory: Path) -> bool:
        """Tell whether this account may enter ``directory``."""
        return self.run("/bin/sh", "-c", 'cd -- "$1"', "sh", directory).returncode == 0

    def executes(self, program: Path) -> bool:
        """Tell whether this account may run ``program``."""
        return self.run("/bin/sh", "-c", 'test -x "$1"', "sh", program).returncode == 0


def account_for(data: Path) -> Account:
    """Return the account that runs a server whose data is, or will be, at ``data``.

    Raises ``ServiceError`` if the data belongs to another user and we are not root.
    """
    owner = data.stat().st_uid if data.exists() else None
    if os.geteuid() != 0:
        if owner not in (None, os.geteuid()):
            raise ServiceError(
                f"{data} belongs to another user (id {owner}): an earlier run by root or by that user made it"
            )
        return Account(os.geteuid(), os.getegid(), is_self=True)
    if owner:  # the data of an ordinary user, now run by root: it stays that user's
        return Account(owner, data.stat().st_gid, is_self=False)
    return unprivileged()


def unprivileged() -> Account:
    """Return the account that root uses. Raises ``ServiceError`` if there is none."""
    for name in ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid, is_self=False)
    raise ServiceError(f"PostgreSQL does not run as root, and none of the users {', '.join(ACCOUNTS)} exists")


def substitute_for(directory: Path) -> Path:
    """Return the path that is used instead of a directory that the account cannot reach."""
    return SHARED / f"cardsync-{hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:20]}"


def own_private(directory: Path, account: Account) -> None:
    """Make ``directory`` a folder that only ``account`` can use, or verify that it is one. Called as root.

    Raises ``ServiceError`` if another user made it first.
    """
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = directory.lstat()  # not stat(): a link planted in a shared folder must not be followed
    if found.st_uid == 0 and stat.S_ISDIR(found.st_mode):  # just made; or made by a run that was killed right here
        account.give(directory)
        found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != account.uid or found.st_mode & 0o077:
        raise ServiceError(f"{directory} exists and is not a private folder of user {account.uid}: remove it")


def readable_copy(name: str, trees: Mapping[str, Path]) -> Path:
    """Copy trees of programs, once, to a folder that every account can read, and return it. Called as root.

    ``trees`` maps each name below the folder to the tree that is copied there. Raises ``ServiceError`` if another user has a
    folder of that name.
    """
    copy = SHARED / name
    if not copy.exists():
        draft = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=SHARED))
        try:
            for target, tree in trees.items():
                shutil.copytree(tree, draft / target, symlinks=True, ignore=shutil.ignore_patterns("include"))
            draft.chmod(0o755)
            draft.rename(copy)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            if not copy.exists():  # otherwise another run was faster
                raise
    found = copy.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
        raise ServiceError(f"{copy} exists and was not made by root alone: remove it")
    return copy
