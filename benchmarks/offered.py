"""An open loop: requests at a given rate, whether or not the earlier ones are answered, as payers come.

A closed loop (``load.drive``) sends the next request when it has an answer: a server that stands still for a second is asked
nothing in that second, and one slow answer stands for all that did not come. Here each request has its planned moment, and its
time counts from that moment, the wait for a free connection included.
"""

from __future__ import annotations

import gc
import selectors
import time
from collections import deque
from collections.abc import Sequence

from benchmarks.load import SILENCE_SECONDS, Line, Measured, NotAcknowledgedError


def offer(address: tuple[str, int], requests: Sequence[bytes], *, connections: int, per_second: float) -> Measured:
    """Send all requests, one every 1 / ``per_second`` seconds, and wait for their answers. Raises ``NotAcknowledgedError``."""
    measured = Measured()
    lines = [Line(address) for _ in range(connections)]
    gc.disable()
    try:
        for line in lines:
            line.open()
        began = time.perf_counter()
        _run(lines, requests, measured, [began + number / per_second for number in range(len(requests))])
        measured.seconds = time.perf_counter() - began
    finally:
        gc.enable()
        for line in lines:
            line.socket.close()
    return measured


def _run(lines: Sequence[Line], requests: Sequence[bytes], measured: Measured, planned: Sequence[float]) -> None:
    free = deque(lines)
    planned_for: dict[Line, float] = {}
    sent = 0
    # Not epoll or poll: they wait in whole milliseconds, rounded up, which would be part of every answer's time.
    with selectors.SelectSelector() as selector:
        while sent < len(requests) or planned_for:
            while free and sent < len(requests) and planned[sent] <= time.perf_counter():
                line = free.popleft()
                line.send(requests[sent])
                planned_for[line] = planned[sent]
                selector.register(line.socket, selectors.EVENT_READ, line)
                sent += 1
            until = planned[sent] if free and sent < len(requests) else None
            _take_answers(selector, free, planned_for, measured, until)


def _take_answers(
    selector: selectors.BaseSelector,
    free: deque[Line],
    planned_for: dict[Line, float],
    measured: Measured,
    until: float | None,
) -> None:
    """Take the answers that come before ``until``, which is when the next request is due; ``None``: not before an answer."""
    wait = SILENCE_SECONDS if until is None else max(0.0, until - time.perf_counter())
    ready = selector.select(wait)
    if not ready and until is None:
        raise NotAcknowledgedError(f"no answer within {SILENCE_SECONDS:g} seconds")
    for key, _ in ready:
        line: Line = key.data
        if line.read():
            selector.unregister(line.socket)
            measured.latencies.append(time.perf_counter() - planned_for.pop(line))
            measured.acknowledged += 1
            free.append(line)
