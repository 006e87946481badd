"""Doing what a schedule says: each way to fail is a beginning and an end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.dev.simulator import Simulator
from tests.e2e.brokers import Broker
from tests.e2e.processes import Process
from tests.e2e.proxy import TcpProxy
from tests.soak.faults import Fault

Deed = Callable[[], object]
SLOW_SECONDS: Final = 1.0


class Harm:
    """Strikes the parts of one system by a schedule, each target on a thread of its own."""

    def __init__(
        self,
        processes: Mapping[str, Sequence[Process]],
        broker: Broker,
        postgres: EmbeddedPostgres,
        network: TcpProxy,
        simulator: Simulator,
        runs: Callable[[Process], None],
    ) -> None:
        """``runs`` waits until a process that was started runs: a deployment goes on to the next one only then."""
        self.errors: list[BaseException] = []
        self.web_pauses: list[tuple[float, float]] = []  # from, to: a server that stands still cannot answer
        self._processes, self._runs = processes, runs
        self._turns = dict.fromkeys(processes, 0)
        self._ways: dict[tuple[str, str], tuple[Deed, Deed]] = {
            ("broker", "gone"): (broker.go_away, broker.come_back),
            ("broker", "frozen"): (broker.freeze, broker.thaw),
            ("broker", "emptied"): (broker.forget, lambda: None),
            ("database", "killed"): (postgres.kill, postgres.start),
            ("database", "paused"): (postgres.pause, postgres.resume),
            ("database", "cut off"): (network.cut, network.join),
            ("database", "swallowed"): (network.freeze, network.thaw),
            ("database", "half open"): (network.lose, network.find),
            ("ottu", "gone"): (simulator.go_away, simulator.come_back),
            ("ottu", "slow"): (
                lambda: simulator.turn(latency_seconds=SLOW_SECONDS),
                lambda: simulator.turn(latency_seconds=0),
            ),
            ("ottu", "mad"): (lambda: go_mad(simulator), lambda: be_well(simulator)),
            ("ottu", "odd"): (lambda: simulator.turn(invalid_rate=0.7), lambda: simulator.turn(invalid_rate=0)),
            ("ottu", "failing"): (lambda: simulator.turn(error_rate=0.7), lambda: simulator.turn(error_rate=0)),
        }

    def begin(self, faults: Sequence[Fault]) -> list[threading.Thread]:
        """Start striking; the threads end with their last fault."""
        began = time.monotonic()
        targets = sorted({fault.target for fault in faults})
        threads = [
            threading.Thread(target=self._strike, args=(began, [f for f in faults if f.target == target]), daemon=True)
            for target in targets
        ]
        for thread in threads:
            thread.start()
        return threads

    def _strike(self, began: float, faults: Sequence[Fault]) -> None:
        try:
            for fault in faults:
                time.sleep(max(0.0, began + fault.at_seconds - time.monotonic()))
                begin, end = self._way(fault)
                struck = time.monotonic()
                begin()
                try:
                    time.sleep(fault.lasts_seconds)
                finally:
                    end()
                if (fault.target, fault.how) == ("web", "paused"):
                    self.web_pauses.append((struck, time.monotonic()))
        except BaseException as error:  # noqa: BLE001  (a thread's border; the run fails with it)
            self.errors.append(error)

    def _way(self, fault: Fault) -> tuple[Deed, Deed]:
        known = self._ways.get((fault.target, fault.how))
        if known is not None:
            return known
        mates = self._processes[fault.target]
        process = mates[self._turns[fault.target] % len(mates)]
        self._turns[fault.target] += 1
        if fault.how == "killed":
            return process.kill, lambda: self._start(process)
        if fault.how == "told to stop":
            return lambda: _stop(process), lambda: self._start(process)
        return (
            lambda: process.pause(),
            lambda: process.resume(),
        )

    def _start(self, process: Process) -> None:
        process.start()
        self._runs(process)


def go_mad(simulator: Simulator) -> None:
    """Let Ottu answer with an empty list to everybody."""
    simulator.turn(invalid_rate=1, invalid_body="empty_list")


def be_well(simulator: Simulator) -> None:
    """Let Ottu's lists be right again."""
    simulator.turn(invalid_rate=0, invalid_body="any")


def _stop(process: Process) -> None:
    status = process.stop()
    assert status == 0, f"{process.name} ended with {status} when it was told to stop"
