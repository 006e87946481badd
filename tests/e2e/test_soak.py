"""Everything fails, by a seeded schedule, while shoppers pay: a short run of ``make soak``, which asserts no speed."""

from __future__ import annotations

import secrets
from itertools import pairwise
from pathlib import Path

from cardsync.dev.servers.postgres import EmbeddedPostgres
from tests.e2e.brokers import Broker
from tests.e2e.marks import ONE_BROKER
from tests.logins import ProcessLogins
from tests.soak.faults import PAUSE_SECONDS, WAYS, plan
from tests.soak.run import Soak

SEED = 5
SECONDS = 20.0
HINTS_A_SECOND = 100.0


@ONE_BROKER
def test_whatever_fails_every_hint_is_answered_and_leads_to_the_truth(
    tmp_path: Path,
    services: Path,
    postgres: EmbeddedPostgres,
    module_database_url: str,
    broker: Broker,
    logins: ProcessLogins,
) -> None:
    # In memory, if there is enough: within a second a hint is on disk, or refused, and a busy disk takes longer.
    data = services / f"data-{secrets.token_hex(4)}"
    soak = Soak(tmp_path, postgres, module_database_url, broker, logins, data=data)
    try:
        report = soak.run(SEED, SECONDS, HINTS_A_SECOND, until_the_brake_engages=False)
        assert report.wrong == [], report
        # How many hints there were, and how fast they were answered, is the machine's; that each led to the truth is ours.
        assert set(report.answers) <= {"200", "none"}
        assert report.answers["200"] > 0
        assert report.deletions_accepted > 0
        soak.system.assert_nothing_leaked()
    finally:
        soak.close()


def test_a_schedule_is_the_same_for_the_same_seed_and_gives_every_target_time_to_recover() -> None:
    faults = plan(7, 600)
    assert faults == plan(7, 600)
    assert {(fault.target, fault.how) for fault in faults} == {(target, how) for target in WAYS for how in WAYS[target]}
    for target in WAYS:
        own = [fault for fault in faults if fault.target == target]
        for fault, following in pairwise(own):
            assert following.at_seconds - (fault.at_seconds + fault.lasts_seconds) >= PAUSE_SECONDS[0]
    assert all(fault.at_seconds + fault.lasts_seconds <= 600 for fault in faults)
