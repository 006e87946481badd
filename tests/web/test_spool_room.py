"""While the database is away no hint is refused for as long as there is room, however many wait and however slow the disk is.

A payer is waited for one second. How long a second is depends on what else the machine does, so here the limit is far away, and
what is counted is the disk's work: at 500 hints a second a flush of 10 ms has to serve five of them.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import pytest
from flask import Flask

from cardsync import db
from cardsync.spool import Spool
from cardsync.spool.names import OLD, SegmentName
from cardsync.stories.receive import Authentic, Receipt
from cardsync.web.ingest import endpoint as ingest
from cardsync.web.ingest.endpoint import Endpoint, Group, Head
from cardsync.web.services import Services
from tests import payloads
from tests.web.served import PATIENCE_SECONDS, loop

AWAY: Final = "postgresql://nobody@127.0.0.1:1/none"
OLD_FILES: Final = 30_000  # of a release that wrote a file for each hint
SEGMENT_ROWS: Final = 100
SEGMENTS: Final = 700
WAITING: Final = OLD_FILES + SEGMENTS * SEGMENT_ROWS
RATE: Final = 500  # a second
OFFERED: Final = 1_250
FSYNC_SECONDS: Final = 0.01


def fill(spool: Spool) -> None:
    """Let as many wait as in an outage of some minutes. Nothing reads what they hold while the database is away."""
    spool.folder.mkdir(parents=True)
    began = time.time_ns()
    record = b"x" * 1_023 + b"\n"
    for n in range(OLD_FILES):
        (spool.folder / f"{began + n:020d}-0ffffff0-{n:08d}{OLD}").write_bytes(record)
    for n in range(SEGMENTS):
        stem = f"{began + OLD_FILES + n:020d}-0ffffff1-{n:08d}"
        name = SegmentName(stem, SEGMENT_ROWS, 0, SEGMENT_ROWS * len(record)).text
        (spool.folder / name).write_bytes(record * SEGMENT_ROWS)


async def offer(endpoint: Endpoint, bodies: list[bytes]) -> Counter[int]:
    """Send each body at its time, whether those before it are answered or not."""
    began = time.monotonic()

    async def send(n: int, body: bytes) -> int:
        await asyncio.sleep(began + n / RATE - time.monotonic())
        head = Head(str(len(body)), "application/json", is_chunked=False, request_id="")
        return (await endpoint.answer(head, Whole(body))).status

    return Counter(await asyncio.gather(*(send(n, body) for n, body in enumerate(bodies))))


class Whole:
    """The other end of a request whose body is there, and whose coroutine waits on the event loop."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def examined(self, _length: int, examine: Callable[[bytes], Authentic]) -> Authentic:
        return examine(self._body)

    async def written(self, group: Group, authentic: Authentic, *, wait_seconds: float) -> Receipt:
        return await group.write(authentic, wait_seconds=wait_seconds)


def test_no_hint_is_refused_while_a_hundred_thousand_wait_and_a_slow_disk_has_room(
    make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest_engine = db.make_engine(AWAY, autocommit=True)
    app = make_app(ingest_engine=ingest_engine)  # with the bounds that are there by default
    here, endpoint = Services.of_app(app), app.extensions[Endpoint.__name__]
    fill(here.spool)
    assert here.spool.state().waiting == WAITING
    here.database_breaker.trip(ConnectionError())
    bodies = [payloads.signed(payloads.payment(f"cust-{n}", session_id=f"{n:040x}")) for n in range(OFFERED)]
    flushes: list[int] = []

    def flush(descriptor: int) -> None:
        flushes.append(descriptor)
        time.sleep(FSYNC_SECONDS)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(ingest, "DISK_SECONDS", PATIENCE_SECONDS)
    offered = asyncio.run_coroutine_threadsafe(offer(endpoint, bodies), loop())
    assert offered.result(10 * PATIENCE_SECONDS) == {200: OFFERED}
    assert here.spool.state().waiting == WAITING + OFFERED
    assert not here.database_breaker.is_closed
    assert len(flushes) < OFFERED / 2  # about a fifth
    here.database_breaker.close()
    ingest_engine.dispose()
