"""How long notifications take to be answered."""

from __future__ import annotations

import time

import httpx

from tests.e2e.system import System


def timed(system: System, content: bytes) -> tuple[httpx.Response, float]:
    """Send a notification; the answer, and how long it took."""
    began = time.perf_counter()
    answer = system.post_hint(content)
    return answer, time.perf_counter() - began
