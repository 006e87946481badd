"""Many who write at once share commits; what goes wrong with one of them is that one's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from cardsync.web.ingest.group_commit import AT_ONCE, STALLED_SECONDS, GroupCommit
from tests.waiting import until

PATIENCE_SECONDS = 60.0


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


def group_of(desk: Desk) -> GroupCommit[int, str]:
    return GroupCommit(desk.write_all, is_about_one=lambda e: isinstance(e, ValueError), name="writer")


def run(desk: Desk, items: Sequence[int]) -> list[str | BaseException]:
    """Write the first item, and the others once its write has begun; let it go when all of them wait."""

    async def go() -> list[str | BaseException]:
        writer = group_of(desk)
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


def test_an_item_that_comes_while_nothing_is_written_waits_for_no_company() -> None:
    """After two turns of the loop, which then stands still: no timer of the loop can be what begins the write."""
    desk = Desk(held=True)

    async def go() -> str:
        writer = group_of(desk)
        task = asyncio.create_task(writer.write(1, wait_seconds=PATIENCE_SECONDS))
        for _ in range(2):
            await asyncio.sleep(0)
        assert desk.began.wait(PATIENCE_SECONDS)  # on the loop's own thread, on purpose
        desk.let_go.set()
        return await task

    assert asyncio.run(go()) == "row 1"
    assert desk.batches == [[1]]


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
        writer = group_of(desk)
        first = asyncio.create_task(writer.write(1, wait_seconds=2.0))  # enough for the writer's thread to take it
        assert await asyncio.to_thread(desk.began.wait, PATIENCE_SECONDS)
        second = asyncio.create_task(writer.write(2, wait_seconds=0.05))
        for task in (first, second):
            with pytest.raises(TimeoutError):
                await task
        assert writer.busy_seconds > 0
        with pytest.raises(TimeoutError):
            await writer.write(3, wait_seconds=0.05)
        desk.let_go.set()
        written = await writer.write(4, wait_seconds=PATIENCE_SECONDS)
        # Callers have their results a moment before the writer's thread is done with the write.
        await asyncio.to_thread(until, lambda: writer.busy_seconds == 0, "nothing is written")
        return written

    assert asyncio.run(go()) == "row 4"
    assert desk.batches == [[1], [4]]


def test_a_process_that_stood_still_gives_who_waits_its_time_once_more() -> None:
    """The loop's clock jumps, as it does for a process that was paused: a real pause would leave little time for what follows."""
    desk = Desk(held=True)

    async def go() -> str:
        loop, paused_seconds = asyncio.get_running_loop(), 0.0
        steady = loop.time
        loop.time = lambda: steady() + paused_seconds  # type: ignore[method-assign]
        writer = group_of(desk)
        task = asyncio.create_task(writer.write(1, wait_seconds=PATIENCE_SECONDS))
        assert await asyncio.to_thread(desk.began.wait, PATIENCE_SECONDS)
        paused_seconds = PATIENCE_SECONDS + 10 * STALLED_SECONDS
        for _ in range(5):  # turns of the loop, in which the limit is looked at
            await asyncio.sleep(0)
        assert not task.done()
        desk.let_go.set()
        return await task

    assert asyncio.run(go()) == "row 1"


def test_all_who_wait_can_be_let_go_at_once() -> None:
    desk = Desk(held=True)

    async def go() -> list[str | BaseException]:
        writer = group_of(desk)
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


def test_threads_and_coroutines_share_one_commit() -> None:
    desk = Desk(held=True)

    async def go() -> list[str]:
        group = group_of(desk)
        first = asyncio.create_task(group.write(1, wait_seconds=PATIENCE_SECONDS))
        assert await asyncio.to_thread(desk.began.wait, PATIENCE_SECONDS)
        blocking = [
            asyncio.create_task(asyncio.to_thread(group.write_blocking, n, wait_seconds=PATIENCE_SECONDS))
            for n in (2, 3)
        ]
        second = asyncio.create_task(group.write(4, wait_seconds=PATIENCE_SECONDS))
        await asyncio.to_thread(until, lambda: len(group._waiting) >= 3, "three wait")
        desk.let_go.set()
        return list(await asyncio.gather(first, *blocking, second))

    assert asyncio.run(go()) == ["row 1", "row 2", "row 3", "row 4"]
    assert [sorted(batch) for batch in desk.batches] == [[1], [2, 3, 4]]


def test_a_thread_waits_no_longer_than_the_bound_and_is_let_go_with_all_others() -> None:
    desk = Desk(held=True)
    group = group_of(desk)
    outcomes: list[BaseException] = []

    def wait(item: int) -> None:
        try:
            group.write_blocking(item, wait_seconds=PATIENCE_SECONDS)
        except TimeoutError as error:
            outcomes.append(error)

    waiting = [threading.Thread(target=wait, args=(item,)) for item in (1, 2)]
    waiting[0].start()
    assert desk.began.wait(PATIENCE_SECONDS)
    with pytest.raises(TimeoutError):
        group.write_blocking(3, wait_seconds=0.05)
    waiting[1].start()
    until(lambda: len(group._waiting) == 2, "the second thread waits")  # beside the place of who gave up
    group.give_up()
    for thread in waiting:
        thread.join(PATIENCE_SECONDS)
    desk.let_go.set()
    assert [type(error) for error in outcomes] == [TimeoutError] * 2
    assert group.write_blocking(4, wait_seconds=PATIENCE_SECONDS) == "row 4"
    assert desk.batches == [[1], [4]]


def test_a_thread_raises_what_the_write_raised() -> None:
    desk = Desk()
    group = group_of(desk)
    with pytest.raises(ValueError, match="a bad row"):
        group.write_blocking(-1, wait_seconds=PATIENCE_SECONDS)
    with pytest.raises(ConnectionError):
        group.write_blocking(0, wait_seconds=PATIENCE_SECONDS)


def _written_after_the_first(items: Sequence[int], *, rest_seconds: float) -> list[list[int]]:
    """The batches of a group that rests: one item, and the others one by one, each in a turn of the loop of its own."""
    desk = Desk()

    async def go() -> None:
        group: GroupCommit[int, str] = GroupCommit(
            desk.write_all, is_about_one=lambda _: False, name="writer", rest_seconds=rest_seconds
        )
        await group.write(1_000, wait_seconds=PATIENCE_SECONDS)  # the first item waits for nothing
        tasks = []
        for item in items:
            tasks.append(asyncio.create_task(group.write(item, wait_seconds=PATIENCE_SECONDS)))
            for _ in range(3):
                await asyncio.sleep(0)
        await asyncio.gather(*tasks)

    asyncio.run(go())
    return desk.batches


def test_a_group_that_rests_writes_what_gathered_meanwhile_in_one() -> None:
    assert _written_after_the_first([1, 2, 3], rest_seconds=3.0) == [[1_000], [1, 2, 3]]


def test_a_full_write_waits_for_no_rest() -> None:
    batches = _written_after_the_first(range(1, AT_ONCE + 1), rest_seconds=10 * PATIENCE_SECONDS)
    assert batches == [[1_000], list(range(1, AT_ONCE + 1))]
