"""``cardsync spool``: what was set aside is listed without its content, put back, or removed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from cardsync.ciphers import encrypted
from cardsync.cli import main
from cardsync.core.cards import CardFacts, Token
from cardsync.spool import FOLDER, Spool, names
from tests.factories import RING
from tests.stories.test_drain import waiting_row
from tests.test_spool import contents, row

TOKEN = "9999000000000001"


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """Three rows: one was refused, one is damaged, one waits."""
    made = Spool(tmp_path / ".cardsync" / FOLDER, max_files=100, max_bytes=2**20)
    facts = CardFacts(name_on_card="FAKE SHOPPER")
    made.put(
        [encrypted(RING, replace(row(n), customer_id="cust-1", token=Token(TOKEN), facts=facts)) for n in (1, 2, 3)]
    )
    (file,) = made.waiting()
    first, second, third = made.read(file)
    made.set_aside(file, first, "refused-23514")
    made.set_aside(file, replace(second, content=(second.content or b"")[:-9]), "damaged")
    made.remove([file])
    (made.folder / names.SegmentName("1", 1, 0, 9).text).write_bytes(third.content or b"")
    return made


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["spool", *arguments], prog_name="cardsync")


def test_the_list_says_which_and_why_and_nothing_of_what_they_say(spool: Spool) -> None:
    listed = json.loads(run("list", "--json").stdout)
    assert [(one["event_id"], one["reason"]) for one in listed] == [
        (str(row(1).event_id), "refused-23514"),
        (None, "damaged"),
    ]
    for output in (run("list").stdout, json.dumps(listed)):
        assert output.count("refused-23514") >= 1
        for content in (TOKEN, "FAKE SHOPPER", "cust-1"):
            assert content not in output
    assert len(json.loads(run("list", "--json", "--limit", "1").stdout)) == 1


def test_one_is_restored_and_waits_again(spool: Spool) -> None:
    (first, second) = json.loads(run("list", "--json").stdout)
    answer = run("restore", first["id"])
    assert (answer.exit_code, answer.stdout) == (0, "1 restored.\n")
    assert contents(spool) == ["1", "3"]
    assert [one["id"] for one in json.loads(run("list", "--json").stdout)] == [second["id"]]


def test_all_are_restored_or_dropped_and_those_that_wait_stay(spool: Spool) -> None:
    assert run("restore", "--all").stdout == "2 restored.\n"
    assert spool.state().waiting == 3
    assert run("drop", "--all").stdout == "0 dropped.\n"
    assert spool.state().waiting == 3


def test_one_is_dropped(spool: Spool) -> None:
    (first, second) = json.loads(run("list", "--json").stdout)
    assert run("drop", first["id"]).stdout == "1 dropped.\n"
    assert [one["id"] for one in json.loads(run("list", "--json").stdout)] == [second["id"]]


@pytest.mark.parametrize("command", ["restore", "drop"])
def test_what_is_not_there_and_what_is_not_said_is_told_and_changes_nothing(spool: Spool, command: str) -> None:
    before = spool.set_aside_files()
    known = run("list", "--json")
    first = json.loads(known.stdout)[0]["id"]
    unknown = run(command, first, "../../etc/passwd")
    assert (unknown.exit_code, unknown.stderr) == (1, "cardsync: ../../etc/passwd is not set aside here\n")
    assert run(command).exit_code == 2
    assert run(command, first, "--all").exit_code == 2
    assert spool.set_aside_files() == before


def test_without_a_spool_there_is_nothing_to_list() -> None:
    assert json.loads(run("list", "--json").stdout) == []


@pytest.mark.parametrize("command", [["list"], ["restore", "--all"], ["drop", "--all"]])
def test_a_folder_that_cannot_be_read_is_told_in_one_line(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / ".cardsync").mkdir()
    (tmp_path / ".cardsync" / FOLDER).write_text("in its place", encoding="utf-8")
    ended = run(*command)
    assert (ended.exit_code, ended.stderr) == (1, "cardsync: the spool cannot be read: Not a directory\n")


def test_what_waits_is_stored_now_and_a_failure_is_told(
    cardsync: Callable[..., Any], engine: Engine, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as away:
        away.setenv("CARDSYNC_DATABASE_URL", "postgresql://nobody:fake@127.0.0.1:1/none")
        told = cardsync("spool", "drain")
        assert (told.exit_code, "still wait on this disk: the database does not answer" in told.stderr) == (1, True)
    assert contents(spool) == ["3"]
    spool.put([waiting_row(4)])
    done = cardsync("spool", "drain", "--wait", "60")
    assert (done.exit_code, done.stdout) == (0, "1 stored, 1 set aside; none waits.\n")  # 3 names no environment
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM cardsync.events").scalar_one() == 1
    assert len(spool.set_aside_files()) == 3  # those wait for a person
