"""The dispatcher claims by urgency, keeps threads for urgent kinds, needs no bell, and outlives its errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from tests.waiting import until
from workers.dispatch import dispatcher
from workers.dispatch.dispatcher import Claim, Dispatcher, Job, Kind, room, threads_kept

SECONDS = 60.0  # a deadline: only a bug takes so long


class Line:
    """Work that waits, and what was begun of it; each job runs until it is let go."""

    def __init__(self, name: str, waiting: int) -> None:
        self.name, self.waiting, self.begun = name, waiting, 0
        self.asked_for: list[int] = []
        self.let_go = threading.Event()

    def kind(self, kept: float = 0.0) -> Kind:
        return Kind(self.name, "true", self.claim, kept=kept)

    def claim(self, most: int) -> Claim:
        self.asked_for.append(most)
        taken = min(most, self.waiting)
        self.waiting -= taken
        return Claim([self._job] * taken)

    def _job(self) -> None:
        self.begun += 1
        self.let_go.wait(SECONDS)


@pytest.fixture
def dispatch(engine: Engine) -> Iterator[Callable[..., Dispatcher]]:
    made: list[Dispatcher] = []

    def start(*kinds: Kind, threads: int = 4) -> Dispatcher:
        made.append(Dispatcher(engine, kinds, threads=threads))
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_threads_are_kept_for_urgent_kinds() -> None:
    kinds = [Kind(name, "true", lambda _: Claim(), kept) for name, kept in (("a", 0.5), ("b", 0.1), ("c", 0.0))]
    assert threads_kept(kinds, 32) == {"a": 16, "b": 3, "c": 0}
    assert threads_kept(kinds, 2) == {"a": 1, "b": 0, "c": 0}
    assert threads_kept(kinds, 1) == {"a": 0, "b": 0, "c": 0}
    kept = threads_kept(kinds, 8)
    assert kept == {"a": 4, "b": 1, "c": 0}
    assert room("c", threads=8, busy={"c": 0}, kept=kept) == 3
    assert room("c", threads=8, busy={"c": 3}, kept=kept) == 0
    assert room("a", threads=8, busy={"c": 3}, kept=kept) == 4
    assert room("a", threads=8, busy={"a": 4, "c": 2}, kept=kept) == 1
    assert (
        room("b", threads=8, busy={"a": 7}, kept=kept) == 1
    )  # a flood of the urgent kind starves no kind that keeps one


def test_a_line_that_holds_its_threads_leaves_those_that_are_kept(dispatch: Callable[..., Dispatcher]) -> None:
    urgent, slow = Line("urgent", 0), Line("slow", 100)
    dispatch(urgent.kind(kept=0.5), slow.kind())
    until(lambda: slow.begun == 2, "the slow kind has the threads that it may have")
    urgent.waiting = 2
    until(lambda: urgent.begun == 2, "the urgent kind has its own")
    assert slow.begun == 2
    urgent.let_go.set()
    slow.let_go.set()
    until(lambda: slow.begun == 100, "all slow jobs are begun")


def test_without_a_bell_what_is_due_is_claimed(dispatch: Callable[..., Dispatcher]) -> None:
    line = Line("work", 0)
    line.let_go.set()
    dispatch(line.kind())
    until(lambda: len(line.asked_for) > 1, "work is asked for twice")
    line.waiting = 1
    until(lambda: line.begun == 1, "the job is begun")


def test_nothing_is_claimed_that_no_thread_is_free_for(dispatch: Callable[..., Dispatcher]) -> None:
    line = Line("work", 10)
    dispatcher = dispatch(line.kind(), threads=3)
    until(lambda: line.begun == 3, "three jobs are begun")
    assert (line.waiting, dispatcher.jobs) == (7, 3)
    line.let_go.set()
    until(lambda: line.begun == 10, "all jobs are begun")


def test_work_that_waits_for_a_thread_of_its_share_begins_when_one_is_free(
    dispatch: Callable[..., Dispatcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "QUIET_SECONDS", 100 * SECONDS)  # no question is asked just because time has passed
    other, flood = Line("other", waiting=0), Line("flood", waiting=20)
    dispatch(other.kind(kept=0.5), flood.kind())
    until(
        lambda: flood.begun == 2, "the flood has its threads"
    )  # two of four threads are kept for the other kind, and stay free
    flood.let_go.set()
    until(lambda: flood.begun == 20, "all of the flood is worked off")


def test_an_error_of_a_claim_or_a_job_stops_nothing(dispatch: Callable[..., Dispatcher]) -> None:
    errors: list[Exception] = [*(OperationalError("", None, Exception()) for _ in range(2)), ValueError("a bug")]
    done = threading.Event()

    def fail() -> None:
        raise ValueError("a job's bug")

    def claim(_most: int) -> Claim:
        if errors:
            raise errors.pop()
        jobs: list[Job] = [fail, done.set]
        return Claim(jobs)

    with capture_logs() as lines:
        dispatch(Kind("work", "true", claim))
        assert done.wait(SECONDS)
        until(lambda: any(line["event"] == "nothing_claimed_ended" for line in lines), "claims succeed again")
    told = sorted((line["event"], line.get("repeated")) for line in lines if "claim" in line["event"])
    assert told == [
        ("claims_break", None),
        ("claims_break_ended", 0),
        ("nothing_claimed", None),
        ("nothing_claimed_ended", 1),
    ]


def test_a_kind_that_asks_for_a_rest_gets_it(dispatch: Callable[..., Dispatcher]) -> None:
    asked: list[str] = []
    dispatch(
        Kind("resting", "true", lambda _: asked.append("resting") or Claim(wait_seconds=3_600.0)),  # type: ignore[func-returns-value]
        Kind("other", "true", lambda _: asked.append("other") or Claim()),  # type: ignore[func-returns-value]
    )
    until(lambda: asked.count("other") > 3, "the other kind is asked for again and again")
    assert asked.count("resting") == 1


def test_stopping_finishes_what_was_claimed_and_claims_no_more(dispatch: Callable[..., Dispatcher]) -> None:
    line = Line("work", 10)
    dispatcher = dispatch(line.kind(), threads=2)
    until(lambda: line.begun == 2, "two jobs are begun")
    dispatcher.stop()
    line.let_go.set()
    dispatcher.close()
    assert (line.begun, line.waiting) == (2, 8)
