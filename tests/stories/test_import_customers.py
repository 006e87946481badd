"""A file of customers, read in batches, interrupted between any two of them."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import Engine, text

from cardsync.core.import_lines import NoHeader, WrongFile
from cardsync.errors import Superseded
from cardsync.store.ops.imports import ImportState
from cardsync.stories import import_customers as story
from cardsync.stories.import_customers import Refusal, Source, import_customers

LINES = 95
BATCH = 10
NOISE = Random(1).randbytes(200_000)  # noqa: S311  (the same in every process: parameters name the tests)


class Interrupted(Exception):
    """What a test interrupts an import with."""


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(story, "BATCH_LINES", BATCH)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a bad line in every batch, and some that are empty."""
    lines = ["environment,customer_id"]
    for number in range(1, LINES):
        lines += [f"sandbox,cust-{number}" if number % 7 else "sandbox,", *([""] if number % 20 == 0 else [])]
    made = tmp_path / "customers.csv"
    made.write_text("\r\n".join(lines), encoding="utf-8")
    return made


def read(
    engine: Engine,
    path: Path,
    *,
    restart: bool = False,
    told: Callable[[ImportState], None] = lambda _: None,
    keep: Callable[[Sequence[Refusal]], None] = lambda _: None,
) -> ImportState:
    with path.open("rb") as file:
        source = Source.of(file)
        return import_customers(engine, source, source.begin(engine, restart=restart), keep=keep, told=told)


def after_batches(count: int) -> Callable[[ImportState], None]:
    """Interrupt once that number of batches is committed."""
    seen: list[ImportState] = []

    def told(state: ImportState) -> None:
        seen.append(state)
        if len(seen) == count:
            raise Interrupted

    return told


def known(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT customer_id FROM cardsync.customers")).scalars())


def begun(engine: Engine) -> int:
    with engine.connect() as connection:
        count: int = connection.execute(text("SELECT count(*) FROM cardsync.imports")).scalar_one()
        return count


def test_an_interrupted_import_goes_on_after_its_last_committed_batch(engine, path, tmp_path):
    refusals: list[Refusal] = []
    with pytest.raises(Interrupted):
        read(engine, path, told=after_batches(3), keep=refusals.extend)
    assert len(known(engine)) == 26
    with pytest.raises(Interrupted):
        read(engine, path, told=after_batches(2), keep=refusals.extend)
    states: list[ImportState] = []
    ended = read(engine, path, told=states.append, keep=refusals.extend)
    assert states[0].lines == 60  # it began with the sixth batch
    whole = read(engine, path)  # nothing is left to go on with: from the beginning
    assert (ended.lines, ended.customers, ended.new, ended.bad) == (94, 81, 81, 13)
    assert (whole.lines, whole.customers, whole.new, whole.bad) == (94, 81, 0, 13)
    assert ended.bad_lines == whole.bad_lines
    assert [r.line for r in refusals] == [bad["line"] for bad in whole.bad_lines]
    assert len(known(engine)) == 81


def test_a_batch_that_fails_takes_its_progress_with_it(engine, path, monkeypatch):
    kept: list[Refusal] = []

    def fail_in_the_third(connection, content_hash, before, after):
        if before.lines == 2 * BATCH:
            raise Interrupted
        advance(connection, content_hash, before, after)

    advance = story.imports.advance
    monkeypatch.setattr(story.imports, "advance", fail_in_the_third)
    with pytest.raises(Interrupted):
        read(engine, path, keep=kept.extend)
    assert len(known(engine)) == 18
    monkeypatch.undo()
    assert read(engine, path).new == 81


def test_a_changed_file_begins_anew_even_if_its_size_and_ends_are_the_same(engine, path):
    with pytest.raises(Interrupted):
        read(engine, path, told=after_batches(5))
    path.write_bytes(path.read_bytes().replace(b"cust-11\r", b"cust-XX\r"))
    assert read(engine, path).lines == 94
    assert "cust-XX" in known(engine)


def test_an_interrupted_import_begins_anew_where_that_is_wished(engine, path):
    with pytest.raises(Interrupted):
        read(engine, path, told=after_batches(5))
    states: list[ImportState] = []
    assert read(engine, path, restart=True, told=states.append).new == 81 - 43
    assert states[0].lines == BATCH
    assert begun(engine) == 0


def test_two_imports_of_one_file_do_not_count_over_each_other(engine, path):
    def other(state: ImportState) -> None:
        if state.lines == BATCH:
            read(engine, path)

    with pytest.raises(Superseded):
        read(engine, path, told=other)
    assert len(known(engine)) == 81


def test_nobody_who_is_imported_is_due_at_once(engine, path):
    read(engine, path)
    with engine.connect() as connection:
        due = connection.execute(text("SELECT count(*) FROM cardsync.customers WHERE due_at IS NOT NULL")).scalar_one()
    assert due == 0


def test_what_comes_through_a_pipe_has_no_name_to_go_on_with(engine):
    source = Source.of(io.BytesIO(b'\xef\xbb\xbf\n{"environment": "sandbox", "customer_id": "a\\tb"}\n'))
    state = source.begin(engine, restart=False)
    ended = import_customers(engine, source, state, keep=lambda _: None, told=lambda _: None)
    assert (source.content_hash, ended.new, ended.line) == (None, 1, 2)
    assert known(engine) == ["a\tb"]


def test_a_file_without_a_header_is_no_file_of_customers(engine, tmp_path):
    (tmp_path / "file").write_text("sandbox,one\n", encoding="utf-8")
    with pytest.raises(NoHeader):
        read(engine, tmp_path / "file")


def test_memory_holds_a_batch_and_not_the_file(engine, tmp_path, monkeypatch):
    sizes: list[int] = []
    add_known = story.customers.add_known

    def count(connection, batch):
        sizes.append(len(batch))
        return add_known(connection, batch)

    monkeypatch.setattr(story.customers, "add_known", count)
    (tmp_path / "file").write_text("customer_id,environment\n" + "a,sandbox\n" * 35, encoding="utf-8")
    read(engine, tmp_path / "file")
    assert sizes == [10, 10, 10, 5]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b",,\r\n,,\r\n"])
def test_an_empty_file_and_one_of_empty_rows_are_refused_alike(engine, content):
    with pytest.raises(WrongFile, match="the file is empty"):
        import_customers(engine, Source.of(io.BytesIO(content)), ImportState(), keep=print, told=print)


def test_a_header_alone_names_nobody_and_is_no_error(engine):
    source = Source.of(io.BytesIO(b"environment,customer_id\r\n"))
    assert import_customers(engine, source, ImportState(), keep=print, told=print).customers == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (gzip.compress(b"x" * 1_000_000, mtime=0), "line 1: the file is compressed"),
        (gzip.compress(NOISE, mtime=0), "line 1: the file is compressed"),
        ("environment,customer_id\r\nsandbox,a\r\n".encode("utf-16"), "line 1: the file is UTF-16"),
        (b'\n\n[{"environment": "sandbox", "customer_id": "a"}]', "line 3: the file is a JSON array"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_its_line(engine, content, says):
    with pytest.raises(WrongFile, match=says):
        import_customers(engine, Source.of(io.BytesIO(content)), ImportState(), keep=print, told=print)
    assert known(engine) == []


def test_an_interrupted_import_with_semicolons_goes_on_with_them(engine, tmp_path):
    path = tmp_path / "customers.csv"
    rows = [
        "",
        "customer_id;environment",
        *(f'"cust; {n}" ; sandbox' if n % 9 == 0 else f"cust-{n};sandbox" for n in range(40)),
    ]
    path.write_text("\ufeff" + "\r\n".join(rows), encoding="utf-8")
    with pytest.raises(Interrupted):
        read(engine, path, told=after_batches(2))
    ended = read(engine, path)
    assert (ended.lines, ended.customers, ended.bad) == (40, 35, 5)  # a blank behind a closing quote is no CSV
