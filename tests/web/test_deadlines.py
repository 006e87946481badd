"""Time limits that share one timer: each runs out in its turn, and none that has ended does."""

from __future__ import annotations

import asyncio

import pytest

from cardsync.web.ingest.body import BodyReader
from cardsync.web.ingest.deadlines import Deadlines


def test_limits_run_out_in_turn_and_not_for_what_has_ended() -> None:
    async def scene() -> list[str]:
        loop, expired = asyncio.get_running_loop(), asyncio.Queue[str]()

        def expire(name: str, due_at: float) -> None:
            assert due_at <= loop.time()
            expired.put_nowait(name)

        limits = Deadlines(loop, 0.01, expire)
        for name in ("first", "ended", "second"):
            limits.begin(name)
        limits.end("ended")
        found = [await expired.get()]
        limits.begin("later")  # its timer is another one, or the same that goes on
        return [*found, await expired.get(), await expired.get()]

    assert asyncio.run(asyncio.wait_for(scene(), 30)) == ["first", "second", "later"]


def test_a_reader_that_is_cancelled_by_others_stays_cancelled() -> None:
    async def scene() -> None:
        async def never() -> bytes:
            await asyncio.Event().wait()
            raise AssertionError

        reading = asyncio.create_task(BodyReader().read(never, 1))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    asyncio.run(scene())
