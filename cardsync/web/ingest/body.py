"""How a body comes in on the event loop: whole, within a time limit, and all large bodies together within a bound.

A sender that trickles holds one connection and nothing else, and that not for long. The proxy guards against the same, but the
application must also stand without one. A small body always has room: a notification has 2 to 5 kB. A body of a megabyte can be
made so that its JSON, and the text that would be signed, take half a second: large bodies are examined one after the other, off
the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cardsync.errors import MalformedBody
from cardsync.web.ingest.deadlines import Deadlines
from cardsync.web.responses import Problem

if TYPE_CHECKING:
    from granian._granian import RSGIHTTPProtocol as HTTPProtocol

BODY_SECONDS: Final = 10.0  # the whole body; the proxy gives as long between two reads, and Ottu fifteen for all of it
# A small body always has room: 4,096 connections (``cli.web``) with one of these each are 64 MB. Larger ones share a bound.
SMALL_BYTES: Final = 16_384
EXAMINED_AT_ONCE_BYTES: Final = 16_384  # some milliseconds at the worst; twice what Ottu sends
LARGE_ROOM_BYTES: Final = 33_554_432  # of one process, for all larger bodies that arrive at once: 32 of the largest
# Of a body that is refused by its headers: what is read and thrown away, so that its sender hears the answer.
THROWN_AWAY_BYTES: Final = 4_194_304
THROWN_AWAY_SECONDS: Final = 1.0

Result = TypeVar("Result")


class BodyReader:
    """Reads bodies; used on one event loop. ``body_seconds`` and ``large_room_bytes`` are the bounds."""

    def __init__(self, *, body_seconds: float = BODY_SECONDS, large_room_bytes: int = LARGE_ROOM_BYTES) -> None:
        self._body_seconds = body_seconds
        self._room_bytes = large_room_bytes
        self._limits: Deadlines[asyncio.Task[Any]] | None = None
        self._late: set[asyncio.Task[Any]] = set()  # cancelled because their time is over
        self._large = ThreadPoolExecutor(1, thread_name_prefix="large")

    async def take(self, protocol: HTTPProtocol, length: int, examine: Callable[[bytes], Result]) -> Result:
        """What ``examine`` makes of the body, or raises; its room is held until then.

        Raises what ``read`` raises, and 503 if there is no room.
        """
        held = length if length > SMALL_BYTES else 0
        if held > self._room_bytes:
            raise Problem("unavailable", "Too many large bodies arrive at the moment.")
        self._room_bytes -= held
        try:
            body = await self.read(protocol, length)
            if length <= EXAMINED_AT_ONCE_BYTES:
                return examine(body)
            return await asyncio.get_running_loop().run_in_executor(self._large, examine, body)
        finally:
            self._room_bytes += held

    async def read(self, protocol: HTTPProtocol, length: int) -> bytes:
        """The whole body of ``length`` bytes, whatever room there is. Raises ``MalformedBody`` if it does not come in time."""
        task = asyncio.current_task()
        assert task is not None
        cancels, limits = task.cancelling(), self._limits_here()
        limits.begin(task)
        try:
            body = await protocol()
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            self._late.discard(task)
            if task.uncancel() > cancels:  # somebody else cancelled it too
                raise
            raise MalformedBody(f"the body did not arrive within {self._body_seconds:g} seconds") from None
        except RuntimeError:  # granian's ProtocolClosed is one
            raise MalformedBody("the body could not be read to its end") from None
        finally:
            limits.end(task)
        if len(body) < length:
            raise MalformedBody("the body is shorter than its Content-Length")
        return body

    async def throw_away(self, protocol: HTTPProtocol) -> None:
        """Read what is still sent of a refused body, within bounds.

        A connection that is closed over unread bytes is reset, and the reset overtakes the answer: the sender, who is still
        writing, would see a broken connection in place of the reason.
        """
        size = 0
        with contextlib.suppress(TimeoutError, RuntimeError):  # granian's ProtocolClosed is a RuntimeError
            async with asyncio.timeout(THROWN_AWAY_SECONDS):
                async for part in protocol:
                    size += len(part)
                    if size > THROWN_AWAY_BYTES:
                        return

    def _limits_here(self) -> Deadlines[asyncio.Task[Any]]:
        """The limits that all bodies on this loop share."""
        loop = asyncio.get_running_loop()
        if self._limits is None or self._limits.loop is not loop:
            self._limits = Deadlines(loop, self._body_seconds, self._expire)
        return self._limits

    def _expire(self, task: asyncio.Task[Any], _due_at: float) -> None:
        self._late.add(task)
        task.cancel()

    def close(self) -> None:
        """Let go of what waits to be examined."""
        self._large.shutdown(wait=False, cancel_futures=True)
