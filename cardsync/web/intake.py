"""How a body comes in on the event loop: whole, within a time, and all large ones together within a room.

A sender that trickles holds one connection and nothing else, and that not for long; the proxy guards against the same, but
somebody will run without it. What is small always has room: a notification has 2 to 5 kB. A megabyte can be made so that its
JSON, and the text that would be signed, take half a second: large ones are examined one after the other, off the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeVar

from cardsync.errors import MalformedBody
from cardsync.web.problems import Problem

if TYPE_CHECKING:
    from granian._granian import RSGIHTTPProtocol as HTTPProtocol

BODY_SECONDS: Final = 10.0  # the whole body; the proxy gives as long between two reads, and Ottu fifteen for all of it
SMALL_BYTES: Final = 65_536
EXAMINED_AT_ONCE_BYTES: Final = 16_384  # some milliseconds at the worst; twice what Ottu sends
LARGE_ROOM_BYTES: Final = 33_554_432  # of one process, for all larger bodies that arrive at once: 32 of the largest


Result = TypeVar("Result")


class Intake:
    """Reads bodies; used on one event loop. ``body_seconds`` and ``large_room_bytes`` are the bounds."""

    def __init__(self, *, body_seconds: float = BODY_SECONDS, large_room_bytes: int = LARGE_ROOM_BYTES) -> None:
        self._body_seconds = body_seconds
        self._room_bytes = large_room_bytes
        self._large = ThreadPoolExecutor(1, thread_name_prefix="large")

    async def take(self, protocol: HTTPProtocol, length: int, examine: Callable[[bytes], Result]) -> Result:
        """What ``examine`` makes of the body, or raises; its room is held until then.

        Raises what ``read`` raises, and 503 if there is no room.
        """
        held = length if length > SMALL_BYTES else 0
        if held > self._room_bytes:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "Too many large bodies arrive at the moment.")
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
        try:
            async with asyncio.timeout(self._body_seconds):
                body = await protocol()
        except TimeoutError:
            raise MalformedBody(f"the body did not arrive within {self._body_seconds:g} seconds") from None
        except RuntimeError:  # granian's ProtocolClosed is one
            raise MalformedBody("the body could not be read to its end") from None
        if len(body) < length:
            raise MalformedBody("the body is shorter than its Content-Length")
        return body

    def close(self) -> None:
        """Let go of what waits to be examined."""
        self._large.shutdown(wait=False, cancel_futures=True)
