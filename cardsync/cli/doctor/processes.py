"""What ``cardsync doctor`` checks of workers and beats: that some are at work, and that their hosts' clocks are right."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Engine

from cardsync.cli import console
from cardsync.cli.doctor.check import Check, Status
from cardsync.store import heartbeats


def at_work(engine: Engine, process: str | None) -> Iterator[Check]:
    """Whether a worker and a beat had a heartbeat lately; a line for each host whose clock is wrong.

    Without both, cards stand still: that fails. ``process`` is the kind that is asked about alone, perhaps before it is started.
    It needs no other process to be at work, so then that is a warning.
    """
    with engine.connect() as connection:
        found = heartbeats.read(connection)
    missing = heartbeats.missing(found)
    if missing:
        kinds = " and no ".join(missing)
        lost = f"no {kinds} was at work in the last {heartbeats.MISSED_AFTER_SECONDS:g} s: hints are taken, and wait"
        status: Status = "failed" if process is None else "warning"
        yield Check("processes", status, lost, "start them: " + ", ".join(f"cardsync {kind}" for kind in missing))
    else:
        all_kinds = (*heartbeats.KINDS, *heartbeats.SHOWN)
        counts = ((kind, sum(h.process.kind == kind and not h.is_missed for h in found)) for kind in all_kinds)
        at_work = ", ".join(f"{count} {kind}" for kind, count in counts if count)
        yield Check("processes", "ok", f"at work: {at_work}")
    for one in heartbeats.wrong_clocks(found):
        host = console.printable(one.process.host)
        off = f"the clock of {host} differs by {one.clock_ahead_seconds:+.0f} s from the database's"
        yield Check("clock", "failed", off, "let it follow NTP")
