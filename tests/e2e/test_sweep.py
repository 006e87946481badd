"""What nobody says anything of is found by the sweep, which goes on whichever beat or worker dies."""

from __future__ import annotations

import signal

from sqlalchemy import make_url

from tests.e2e.conftest import behind
from tests.e2e.marks import ONE_BROKER
from tests.e2e.processes import Process
from tests.e2e.proxy import TcpProxy
from tests.e2e.system import ENVIRONMENT, System, token_of
from tests.waiting import until

pytestmark = ONE_BROKER

SWEEPS = 10  # one a second
# Ottu's allowance sets the pace of sweeps: with it the tests would wait for their share.
SETTINGS = {"CARDSYNC_LOOK_AGAIN_S": "1", "OTTU_DAILY_CALLS": "5000000"}


def test_the_sweep_alone_finds_what_was_deleted_and_saved_in_silence(system: System) -> None:
    customer = system.customer()
    token = token_of(system.save_card(customer))
    system.until_active(customer)
    system.simulator.checkout().delete_card(ENVIRONMENT, customer, token)
    system.save_card(customer, notify=False)
    until(lambda: system.statuses(customer) == ["removed", "active"], "the sweep has seen both")
    assert sorted(system.changes(customer)) == ["added", "added", "removed"]
    causes = "SELECT cause FROM registry.card_changes WHERE customer_id = %s AND change = 'removed'"
    assert [row["cause"] for row in system.sql(causes, customer)] == ["sweep"]


def test_the_sweep_goes_on_when_the_leading_beat_is_killed(system: System) -> None:
    first, second = system.processes["beat"], system.start("beat", "beat-2")
    first.says("beat_leads")
    second.says("beat_started")
    # A leader that had no processor for some seconds has lost its lease to the other one.
    until(
        lambda: not _leads(second) or "beat_lost_the_lead" in first.output(),
        "the second leads only if the first does not",
    )
    until(lambda: _swept_at(system), "the first sweep")
    leader, other = (second, first) if _leads(second) else (first, second)
    led = other.output().count("beat_leads")
    leader.signal(signal.SIGKILL)
    leader.wait()
    until(lambda: other.output().count("beat_leads") > led, "the other one leads")
    before = _swept_at(system)
    until(lambda: _swept_at(system) > before, "the sweep goes on")
    leader.start()  # the one that comes back stands by
    system.end("beat-2")
    first.says("beat_leads")


def test_the_sweep_goes_on_when_the_leaders_host_is_cut_off(system: System) -> None:
    """Its packets are swallowed: nothing ends its session but the lease that it does not renew."""
    address = system.address("beat")
    url = make_url(address)
    network = TcpProxy((str(url.host), int(url.port or 0)))
    system.end("beat")
    cut_off = system.start("beat", "beat-cut-off", CARDSYNC_DATABASE_URL=behind(network, address))
    until(lambda: _leads(cut_off), "it leads")
    try:
        network.freeze()
        system.start("beat", "beat-2").says("beat_leads")
        before = _swept_at(system)
        until(lambda: _swept_at(system) > before, "the sweep goes on")
        network.thaw()
        until(lambda: "beat_lost_the_lead" in cut_off.output(), "it learns that another one leads")
    finally:
        cut_off.kill()
        network.cut()
    del system.processes["beat-cut-off"]
    system.end("beat-2")
    system.start("beat")


def test_a_second_beat_adds_no_ticks(system: System) -> None:
    second = system.start("beat", "beat-2")
    second.says("beat_started")
    ticks = [_swept_at(system)]
    for _ in range(SWEEPS):
        ticks.append(until(lambda: (at := _swept_at(system)) > ticks[-1] and at, "another sweep"))
    # With two ticks a second it would be half of that. Some lie closer together, where a busy worker was late for the first.
    assert ticks[-1] - ticks[0] > 0.6 * SWEEPS
    system.end("beat-2")


def test_customers_are_audited_and_what_is_old_goes_by_itself(system: System) -> None:
    customer = system.customer()
    system.save_card(customer)
    system.until_active(customer)
    system.sql("UPDATE cardsync.customers SET first_seen_at = first_seen_at - interval '1 day'")
    judged = "SELECT lane FROM cardsync.audits JOIN cardsync.observations USING (observation_no)"
    until(lambda: system.sql(judged), "somebody is audited")
    system.sql("UPDATE cardsync.events SET received_at = received_at - interval '91 days'")
    until(lambda: not system.sql("SELECT 1 FROM cardsync.events"), "the rows are gone")


def _leads(beat: Process) -> bool:
    """Whether it said last that it leads."""
    said = beat.output()
    return said.rfind("beat_leads") > said.rfind("beat_lost_the_lead")


def _swept_at(system: System) -> float:
    (row,) = system.sql("SELECT coalesce(extract(epoch FROM swept_at), 0)::float8 AS at FROM cardsync.gate")
    return float(row["at"])
