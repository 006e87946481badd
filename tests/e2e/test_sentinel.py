"""Redis behind sentinels: every process follows the master, whether it dies, falls silent or is demoted; none is restarted."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.e2e.processes import run
from tests.e2e.system import System
from tests.sentinels import DATABASE, SECONDS, Replicated, Server, replicated
from tests.waiting import until
from workers.app import RUN_SWEEP, WORK


@pytest.fixture(scope="module")
def broker(services: Path) -> Iterator[Replicated]:
    """In place of one server."""
    with replicated(services / f"sentinel-{secrets.token_hex(4)}") as made:
        yield made


@pytest.mark.parametrize("fault", ["dies", "falls silent", "is demoted"])
def test_every_process_follows_the_master(system: System, broker: Replicated, fault: str) -> None:
    broker.until_whole()
    pids = {name: process.pid for name, process in system.processes.items()}
    before = broker.master
    until_bells_and_ticks_are_taken(system, before)
    break_it: dict[str, Callable[[], None]] = {
        "dies": before.kill,
        "falls silent": before.pause,
        "is demoted": broker.change_master,
    }
    break_it[fault]()
    try:
        broker.until_followed(before)
        until_bells_and_ticks_are_taken(system, broker.master)
        until(
            lambda: system.get("/readyz").json()["checks"]["broker"] == "ok",
            "the web finds the broker",
            seconds=SECONDS,
        )
        doctor = run(system.folder, system.settings, "doctor", "--offline", "--json")
        (found,) = [one for one in json.loads(doctor.stdout)["checks"] if one["name"] == "broker"]
        assert (doctor.returncode, found["status"]) == (0, "ok"), doctor.stdout
    finally:
        before.resume()
        before.start()
    assert {name: process.pid for name, process in system.processes.items()} == pids


def until_bells_and_ticks_are_taken(system: System, server: Server) -> None:
    """Save cards until this server saw a worker take a bell (of the web's) and a tick (of the beat's) from it."""
    address = f"{server.url.rpartition('/')[0]}/{DATABASE}"
    missing, customers = {WORK, RUN_SWEEP}, []
    deadline, next_card = time.monotonic() + SECONDS, 0.0
    with redis.Redis.from_url(address, socket_timeout=SECONDS) as client, client.monitor() as seen:
        while missing:
            assert time.monotonic() < deadline, f"not taken from the master: {missing}"
            if time.monotonic() >= next_card:
                customers.append(system.customer())
                system.save_card(customers[-1])
                next_card = time.monotonic() + 1
            said = seen.next_command()["command"]  # the beat's ticks alone come each second
            if said.startswith("HSET cardsync.unacked "):
                missing -= {task for task in missing if task in said}
    system.until_active(*customers, seconds=SECONDS)
