"""Many who write at once share commits; what goes wrong with one of them is that one's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from cardsync.web.together import AT_ONCE, Together

PATIENCE_SECONDS = 10.0


class Desk:
    """Writes numbers; a negative one is refused, zero takes the database away. The first write can be held."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.let_go = threading.Event()
        self.began = threading.Event()
        if not held:
            self.let_go.set()

    def write_all(self, items: Sequence[int]) -> list[str]:
        self.batches.append(list(items))
        self.began.set()
        assert self.let_go.wait(PATIENCE_SECONDS)
        if 0 in items:
            raise ConnectionError("away")
        if min(items) < 0:
            raise ValueError("a bad row")
        return [f"row {item}" for item in items]


def together(desk: Desk) -> Together[int, str]:
    return Together(desk.write_all, is_about_one=lambda e: isinstance(e, ValueError), name="writer")


def run(desk: Desk, items: Sequence[int]) -> list[str | BaseException]:
    """Write the first item, and the others once its write has begun; let it go when all of them wait."""

    async def go() -> list[str | BaseException]:
        writer = together(desk)
        tasks = [asyncio.create_task(writer.write(items[0], wait_seconds=PATIENCE_SECONDS))]
        assert await asyncio.to_thread(desk.began.wait, PATIENCE_SECONDS)
        tasks += [asyncio.create_task(writer.write(item, wait_seconds=PATIENCE_SECONDS)) for item in items[1:]]
        await asyncio.sleep(0)  # each has taken its place
        desk.let_go.set()
        return list(await asyncio.gather(*tasks, return_exceptions=True))

    return asyncio.run(go())


def test_what_comes_during_one_write_shares_the_next() -> None:
    desk = Desk(held=True)
    assert run(desk, range(1, 31)) == [f"row {n}" for n in range(1, 31)]
    assert desk.batches == [[1], list(range(2, 31))]


def test_no_write_is_larger_than_the_bound() -> None:
    desk = Desk(held=True)
    count = 2 * AT_ONCE + 2
    assert run(desk, range(1, count + 1)) == [f"row {n}" for n in range(1, count + 1)]
    assert [len(batch) for batch in desk.batches] == [1, AT_ONCE, AT_ONCE, 1]


def test_a_bad_item_spoils_nothing_for_its_neighbours() -> None:
    desk = Desk(held=True)
    outcomes = run(desk, [1, 2, -3, 4])
    assert [o for o in outcomes if isinstance(o, str)] == ["row 1", "row 2", "row 4"]
    assert isinstance(outcomes[2], ValueError)


def test_a_database_that_is_away_is_everybodys_error_and_is_asked_once() -> None:
    desk = Desk(held=True)
    outcomes = run(desk, [1, 0, 2, 3])
    assert outcomes[0] == "row 1"
    assert all(isinstance(o, ConnectionError) for o in outcomes[1:])
    assert len(desk.batches) == 2


def test_nobody_waits_longer_than_the_bound_and_who_gave_up_is_not_written() -> None:
    desk = Desk(held=True)

    async def go() -> str:
        writer = together(desk)
        first, second = (asyncio.create_task(writer.write(n, wait_seconds=0.05)) for n in (1, 2))
        for task in (first, second):
            with pytest.raises(TimeoutError):
                await task
        assert writer.busy_seconds > 0
        with pytest.raises(TimeoutError):
            await writer.write(3, wait_seconds=0.05)
        desk.let_go.set()
        written = await writer.write(4, wait_seconds=PATIENCE_SECONDS)
        assert writer.busy_seconds == 0
        return written

    assert asyncio.run(go()) == "row 4"
    assert [3] not in desk.batches


def test_a_process_that_stood_still_gives_who_waits_its_time_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cardsync.web.together.STALLED_SECONDS", 0.05)
    desk = Desk(held=True)

    async def go() -> str:
        writer = together(desk)
        task = asyncio.create_task(writer.write(1, wait_seconds=0.05))
        assert await asyncio.to_thread(desk.began.wait, PATIENCE_SECONDS)
        threading.Event().wait(0.3)  # the whole loop stands still: that is what is tried here
        desk.let_go.set()
        return await task

    assert asyncio.run(go()) == "row 1"


def test_all_who_wait_can_be_let_go_at_once() -> None:
    desk = Desk(held=True)

    async def go() -> list[str | BaseException]:
        writer = together(desk)
        tasks = [asyncio.create_task(writer.write(1, wait_seconds=PATIENCE_SECONDS))]
        assert await asyncio.to_thread(desk.began.wait, PATIENCE_SECONDS)
        tasks += [asyncio.create_task(writer.write(n, wait_seconds=PATIENCE_SECONDS)) for n in (2, 3)]
        await asyncio.sleep(0)
        writer.give_up()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        desk.let_go.set()
        return [*outcomes, await writer.write(4, wait_seconds=PATIENCE_SECONDS)]

    outcomes = asyncio.run(go())
    assert [type(outcome) for outcome in outcomes[:3]] == [TimeoutError] * 3
    assert outcomes[3] == "row 4"
    assert desk.batches == [[1], [4]]  # who was let go is not written afterwards
