"""A feed that goes backwards is noticed by every process, also by one that is started afterwards; one that rises is not."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cardsync import feed_watch
from cardsync.feed_watch import FILE, FeedWatch, WentBack, recall


class Lines(list[dict[str, object]]):
    """A logger that keeps its errors."""

    def error(self, event: str, **facts: object) -> None:
        self.append({"event": event, **facts})


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    made = Lines()
    monkeypatch.setattr(feed_watch, "log", made)
    return made


def test_a_feed_that_rises_or_stands_still_is_nothing(tmp_path: Path) -> None:
    watch = FeedWatch(tmp_path)
    assert [watch.look(lambda n=n: n) for n in (0, 1, 1, 7)] == [None] * 4


def test_a_lower_number_is_one_line_and_a_mark_that_stays_while_the_feed_rises_again(
    tmp_path: Path, lines: Lines
) -> None:
    watch = FeedWatch(tmp_path)
    watch.look(lambda: 120)
    mark = watch.look(lambda: 100)
    assert watch.look(lambda: 130) == mark
    assert mark is not None
    assert (mark.seen, mark.found) == (120, 100)
    assert lines == [{"event": "feed_went_back", "seen": 120, "found": 100}]


def test_a_process_that_is_started_afterwards_notices_it_by_the_file(tmp_path: Path) -> None:
    FeedWatch(tmp_path).look(lambda: 120)
    mark = FeedWatch(tmp_path).look(lambda: 100)
    assert mark is not None
    assert recall(tmp_path).went_back == mark
    assert FeedWatch(tmp_path).look(lambda: 200) == mark


def test_a_process_that_remembers_more_than_the_file_says_nothing_new_beside_a_mark(
    tmp_path: Path, lines: Lines
) -> None:
    one, other = FeedWatch(tmp_path), FeedWatch(tmp_path)
    one.look(lambda: 120)
    other.look(lambda: 121)
    mark = one.look(lambda: 100)
    assert other.look(lambda: 100) == mark
    assert len(lines) == 1


def test_a_second_step_back_is_told_again_and_the_mark_covers_both(tmp_path: Path, lines: Lines) -> None:
    watch = FeedWatch(tmp_path)
    for seq in (120, 100, 110):
        watch.look(lambda seq=seq: seq)
    mark = watch.look(lambda: 90)
    assert len(lines) == 2
    assert mark is not None
    assert (mark.seen, mark.found) == (120, 90)


def test_once_an_operator_removed_the_file_all_is_well(tmp_path: Path) -> None:
    watch = FeedWatch(tmp_path)
    for seq in (120, 100):
        watch.look(lambda seq=seq: seq)
    (tmp_path / FILE).unlink()
    assert watch.look(lambda: 101) is None
    assert FeedWatch(tmp_path).look(lambda: 102) is None


def test_what_another_process_writes_while_the_database_is_asked_is_no_step_back(tmp_path: Path) -> None:
    one, other = FeedWatch(tmp_path), FeedWatch(tmp_path)

    def read() -> int:
        other.look(lambda: 11)
        return 10

    assert one.look(read) is None


def test_threads_of_one_process_never_compare_an_older_answer_with_a_newer_one(tmp_path: Path) -> None:
    watch, lock, head = FeedWatch(tmp_path), threading.Lock(), [0]

    def read() -> int:
        with lock:
            head[0] += 1
            return head[0]

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: watch.look(read), range(400))) == {None}


def test_a_disk_that_cannot_be_written_leaves_the_memory(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way", encoding="utf-8")
    watch = FeedWatch(tmp_path / "data")
    watch.look(lambda: 120)
    mark = watch.look(lambda: 100)
    assert mark is not None
    assert watch.look(lambda: 130) == mark


@pytest.mark.parametrize("content", ["", "[]", "null", '{"seq": "x", "went_back": null}', '{"seq": 3}', "9" * 5_000])
def test_a_file_that_is_none_of_ours_is_as_if_there_were_none(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content, encoding="utf-8")
    assert recall(tmp_path).went_back is None
    assert FeedWatch(tmp_path).look(lambda: 5) is None


def test_a_number_is_written_now_and_then_and_a_mark_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_watch, "WRITE_EVERY_SECONDS", 3_600.0)
    watch = FeedWatch(tmp_path)
    for seq in (10, 20):
        watch.look(lambda seq=seq: seq)
    assert recall(tmp_path).seq == 10
    watch.look(lambda: 15)
    kept = recall(tmp_path)
    assert (kept.seq, isinstance(kept.went_back, WentBack)) == (15, True)
