"""A thread that ends ends its process: in a process of its own, since that is what ends."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
# Plain threads: each is for one question, or one way out. What waits for them has a bound.
PLAIN: Final = {
    "cardsync/log_lines.py": ["log"],  # its loop lets no error end it, and a line that is lost costs nothing else
    "cardsync/stories/carry_out.py": ["try endpoint"],
    "cardsync/threads.py": ["before-end"],
    "cardsync/web/cached_check.py": ["cached-check"],
    "cardsync/web/database_breaker.py": ["database-probe"],
    "cardsync/spool/room.py": ["spool-count"],
    "workers/roll_call.py": ["roll-call"],
    "cardsync/db/migrating.py": ["another-schema"],
    "cardsync/db/lock_watch.py": ["lock-watch"],  # it tells who holds a lock; a migration goes on without it
}
_PROGRAM: Final = """
import threading, time
from cardsync.threads import VitalThread, before_end
told = threading.Event()
before_end(lambda: print("left", flush=True))
def work():
    {work}
{before}
one = VitalThread(work, name="one", may_end=told.is_set)
one.start()
one.join()
{after}
print("goes on", flush=True)
"""
SECONDS: Final = 60  # a deadline: only a bug takes so long


def run(work: str, before: str = "", after: str = f"time.sleep({SECONDS})") -> subprocess.CompletedProcess[str]:
    program = _PROGRAM.format(work=work, before=before, after=after)
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=2 * SECONDS, check=False
    )


@pytest.mark.parametrize("work", ["raise KeyError('9999000000000017')", "raise SystemExit(0)", "return"])
def test_a_thread_that_ends_ends_its_process_which_leaves_first(work: str) -> None:
    ended = run(f"time.sleep(0.01); {work}" if work != "return" else work)
    assert ended.returncode == 1
    assert ended.stdout.splitlines()[-1] == "left"
    assert "thread_ended" in ended.stdout
    assert "9999000000000017" not in ended.stdout + ended.stderr


@pytest.mark.parametrize("work", ["raise KeyError('9999000000000017')", "return"])
def test_a_thread_that_may_end_ends_nothing(work: str) -> None:
    ended = run(work, before="told.set()", after="")
    assert (ended.returncode, ended.stdout) == (0, "goes on\n")


def test_a_process_that_cannot_leave_ends_all_the_same() -> None:
    stuck = "from cardsync import threads; threads.BEFORE_END_SECONDS = 0.1; before_end(lambda: time.sleep(3600))"
    assert run("return", before=stuck).returncode == 1


def test_each_thread_of_ours_ends_its_process_or_stands_in_the_list_of_those_for_one_question() -> None:
    assert dict(_threads("Thread")) == PLAIN


def names_of_vital_threads() -> set[str]:
    """Every name that a ``VitalThread`` is given; the two group commits' stand where they are made."""
    return {name for _, names in _threads("VitalThread") for name in names} | {
        name for _, names in _threads("GroupCommit") for name in names
    }


def _threads(kind: str) -> Iterator[tuple[str, list[str]]]:
    files = [*sorted((ROOT / "cardsync").rglob("*.py")), *sorted((ROOT / "workers").rglob("*.py"))]
    for file in files:
        if "dev" in file.relative_to(ROOT).parts:
            continue
        found = [name for call in ast.walk(ast.parse(file.read_text())) for name in _name(call, kind)]
        if found:
            yield str(file.relative_to(ROOT)), found


def _name(node: ast.AST, kind: str) -> Iterator[str]:
    if not isinstance(node, ast.Call) or ast.unparse(node.func).rsplit(".", 1)[-1] != kind:
        return
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    name = given.get("name")
    if isinstance(name, ast.Constant):
        yield str(name.value)
    elif name is None:
        yield "without a name"
