"""The database goes away at any message of a process's start: the process waits for it, and goes on once it is back."""

from __future__ import annotations

import pytest
from sqlalchemy import make_url

from tests.e2e.conftest import behind
from tests.e2e.marks import ONE_BROKER
from tests.e2e.processes import Process
from tests.e2e.proxy import CuttingProxy
from tests.e2e.system import System
from tests.waiting import until

pytestmark = ONE_BROKER

# A worker's start exchanges some fifty messages with the database; what one question needs is six of them.
CUT_AT = range(4, 56, 6)
TOGETHER = 3
SECONDS = 120.0


@pytest.mark.parametrize("kind", ["worker", "beat"])
@pytest.mark.parametrize("first", range(0, len(CUT_AT), TOGETHER))
def test_a_process_outlives_a_cut_at_any_message_of_its_start(module_system: System, kind: str, first: int) -> None:
    started = [_start(module_system, kind, nth) for nth in CUT_AT[first : first + TOGETHER]]
    for process, network in started:
        process.says(f"{kind}_started", seconds=SECONDS)
        until(network.was_cut.is_set, f"{process.name} has lost the database", seconds=SECONDS)
        assert process.is_running, process.output()[-2_000:]
    for process, network in started:
        module_system.end(process.name)
        network.cut()


def _start(system: System, kind: str, nth: int) -> tuple[Process, CuttingProxy]:
    address = system.address(kind)
    url = make_url(address)
    network = CuttingProxy((str(url.host), int(url.port or 0)), nth)
    return system.start(kind, f"{kind}-{nth}", CARDSYNC_DATABASE_URL=behind(network, address)), network
