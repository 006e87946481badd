"""What the tests of the stand-in share: it runs, and it is asked and heard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cardsync.dev.simulator import Simulator
from tests.simulator.peers import API_KEY, WEBHOOK_KEY, Ottu, Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def started() -> Iterator[Callable[..., Simulator]]:
    """Start simulators; all are stopped at the end."""
    running: list[Simulator] = []

    def start(**arguments: Any) -> Simulator:
        simulator = Simulator(**{"api_key": API_KEY, "webhook_key": WEBHOOK_KEY, **arguments})
        running.append(simulator)
        return simulator.start()

    yield start
    for simulator in running:
        simulator.stop()


@pytest.fixture
def simulator(started: Callable[..., Simulator]) -> Simulator:
    return started()


@pytest.fixture
def ottu(simulator: Simulator) -> Ottu:
    return Ottu(simulator.base_url)
