"""The pools of a process hold no more together than its cap, and what must go on has its part."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cardsync.core import connections

CAPS = st.integers(connections.FEWEST, 300)
THREADS = st.integers(1, 200)


@given(THREADS, CAPS)
def test_no_process_holds_more_than_its_cap_and_each_pool_has_some(threads: int, cap: int) -> None:
    web, worker = connections.of_web(threads, cap), connections.of_worker(threads, cap)
    assert max(web.all, worker.all, connections.of_beat(cap), connections.of_console()) <= cap
    assert web.hints >= connections.HINTS_FEWEST
    assert web.readers >= min(2 * threads, connections.READERS_FEWEST)
    assert worker.work >= connections.TASK_THREADS


def test_a_cap_that_binds_nobody_changes_nothing() -> None:
    assert connections.of_web(8, 1_000) == connections.of_web(8, None) == connections.Web(16, 16)
    assert connections.of_worker(32, 1_000) == connections.of_worker(32, None)
    assert (connections.of_worker(32, None).all, connections.of_beat(None)) == (46, 8)
    assert connections.of_worker(64, None) == connections.of_worker(32, None)  # the others wait for Ottu


def test_a_cap_is_shared_out() -> None:
    assert connections.of_web(8, 10) == connections.Web(hints=7, readers=3)
    assert connections.of_web(8, 20) == connections.Web(hints=10, readers=10)
    assert connections.of_worker(32, 20).work == 14
