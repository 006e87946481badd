"""What a data folder remembers of the server: the highest timeline of its system, for all processes with that folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from cardsync import db
from cardsync.db.server_memory import FILE, READ_EVERY_SECONDS, Server, ServerMemory
from tests.waiting import until


def test_a_lower_timeline_is_refused_by_every_process_of_the_folder(tmp_path: Path) -> None:
    memory = ServerMemory(tmp_path)
    assert memory.meet(Server(7, 1)) is None
    assert memory.meet(Server(7, 3)) is None
    assert "an old primary" in str(memory.meet(Server(7, 2)))
    assert "an old primary" in str(ServerMemory(tmp_path).meet(Server(7, 2)))
    assert memory.meet(Server(7, 3)) is None


def test_another_system_is_another_database_that_somebody_chose(tmp_path: Path) -> None:
    memory = ServerMemory(tmp_path)
    assert memory.meet(Server(7, 3)) is None
    assert memory.meet(Server(8, 1)) is None
    assert not memory.is_outdated(Server(8, 1))


def test_without_the_file_an_older_timeline_is_taken_by_a_new_process(tmp_path: Path) -> None:
    assert ServerMemory(tmp_path).meet(Server(7, 3)) is None
    (tmp_path / FILE).unlink()
    assert ServerMemory(tmp_path).meet(Server(7, 1)) is None


@pytest.mark.parametrize("content", ["", "[]", "{", '{"system_identifier": "x", "timeline": 1}'])
def test_a_file_that_cannot_be_read_refuses_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    assert ServerMemory(tmp_path).meet(Server(7, 1)) is None


def test_a_session_on_a_server_that_was_followed_is_not_used_again(tmp_path: Path, database_url: str) -> None:
    engine = db.make_engine(db.Place(lambda: database_url, tmp_path))
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    met = ServerMemory(tmp_path).newest()
    assert met is not None
    ServerMemory(tmp_path).meet(
        Server(met.system_identifier, met.timeline + 1)
    )  # another process found the new primary

    def is_refused() -> bool:
        try:
            engine.connect().close()
        except OperationalError as error:
            return "an old primary answers" in str(db.why(error))
        return False

    until(is_refused, f"it is noticed within {READ_EVERY_SECONDS} s")
    engine.dispose()
