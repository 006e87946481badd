"""What commands share: output that is safe on a terminal and readable by programs, and errors that show no value."""

from __future__ import annotations

import datetime as dt
import json
import uuid

import pytest
from click.testing import CliRunner
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from cardsync.cli import console
from cardsync.errors import Misconfigured

MOMENT = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.timezone(dt.timedelta(hours=3)))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        ([], "-"),
        (["a", None], "a, -"),
        (MOMENT, "2026-01-02T00:04:05Z"),
        ("عميل é", "عميل é"),
        ("\x1b[2Jgone\n", r"\x1b[2Jgone\n"),
        ("a\u202eb", r"a\u202eb"),
    ],
)
def test_a_value_stays_on_one_line_and_drives_no_terminal(value: object, shown: str) -> None:
    assert console.printable(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.2, "1 s"), (119, "119 s"), (121, "3 min"), (7_201, "3 h"), (86_400 * 2, "2 days"), (86_400 * 2 + 1, "3 days")],
)
def test_a_time_is_rounded_up_in_its_largest_unit(seconds: float, shown: str) -> None:
    assert console.duration(seconds) == shown


def test_json_has_moments_in_utc_and_no_unknown_kind(capsys: pytest.CaptureFixture[str]) -> None:
    one_id = uuid.uuid4()
    console.print_json({"at": MOMENT, "day": dt.date(2026, 1, 2), "id": one_id, "name": "é"})
    assert json.loads(capsys.readouterr().out) == {
        "at": "2026-01-02T00:04:05Z",
        "day": "2026-01-02",
        "id": str(one_id),
        "name": "é",
    }
    with pytest.raises(TypeError):
        console.print_json({"what": object()})


def test_rows_are_parted_by_tabs_where_no_person_looks(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_rows(("a", "b"), [{"a": 1, "b": "x\ty", "c": "left out"}])
    assert capsys.readouterr().out == "a\tb\n1\tx\\ty\n"


def test_progress_without_a_terminal_says_nothing_until_it_is_worth_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress("cards", 3) as advance:
        advance(1, "")
        now[0] = console.PLAIN_PROGRESS_SECONDS
        advance(1, "half way")
        now[0] += console.PLAIN_PROGRESS_SECONDS
        advance(0, "half way")  # the same again
        now[0] += console.STILL_THERE_SECONDS
        advance(0, "half way")
    assert capsys.readouterr().err.splitlines() == ["cards: 2 of 3, half way"] * 2


def test_an_error_of_the_database_is_one_line_without_the_row(engine) -> None:
    with pytest.raises(DBAPIError) as caught, engine.begin() as connection:
        connection.execute(
            text("INSERT INTO cardsync.customers (environment, customer_id) VALUES ('nowhere', 'a person')")
        )
    said = console.database_error(caught.value)
    assert said is not None
    assert "customers_environment_known" in said
    assert "a person" not in said
    assert "\n" not in said


def test_another_error_is_none_of_the_databases() -> None:
    assert console.database_error(ValueError("x")) is None


def test_a_missing_or_malformed_address_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Misconfigured, match="missing"), console.engine(console.load()):
        pass
    monkeypatch.setenv("CARDSYNC_DATABASE_URL", "postgresql://u:fakepass@host:notaport/x")
    with pytest.raises(Misconfigured, match="CARDSYNC_DATABASE_URL is wrong") as caught, console.engine(console.load()):
        pass
    assert "fakepass" not in str(caught.value)


def test_a_failure_is_one_line_and_status_1() -> None:
    import click

    @click.command()
    def fails() -> None:
        console.fail("it did not work")

    result = CliRunner().invoke(fails)
    assert (result.exit_code, result.stderr) == (1, "cardsync: it did not work\n")


def test_json_has_no_power_over_a_terminal_and_keeps_every_script(capsys: pytest.CaptureFixture[str]) -> None:
    text = "\x9b31m \x7f \u202eabc\u2066 \u200f \ufeff \U000e0041 مرحبا हिन्दी é"
    console.print_json({"name": text})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"name": text}
    assert "مرحبا हिन्दी é" in printed
    assert all(character.isprintable() or character == "\n" for character in printed)
