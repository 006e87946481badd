"""Whether the feed of changes went backwards since this host saw it: the database is an older state of itself then."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Engine

from cardsync import feed_watch
from cardsync.cli.doctor.check import Check
from cardsync.settings import Settings
from cardsync.store import feed


def went_back(engine: Engine, loaded: Settings) -> Iterator[Check]:
    """Say it if the feed went backwards since this data folder first saw it; nothing where it did not."""
    before = feed_watch.recall(loaded.data_dir)  # first: what is written in between is no step backwards
    with engine.connect() as connection:
        head = feed.head(connection)
    found = before.went_back
    if found is None and head < before.seq:
        found = feed_watch.WentBack("just now", before.seq, head)
    if found is not None:
        advice = (
            "this is an older state of the database. After a backup: stop all processes and run cardsync db restored. After a "
            f"failover: let each consumer of registry.card_changes begin again after {found.found}, and run cardsync reconcile "
            f"--all. Then remove {loaded.data_dir / feed_watch.FILE}"
        )
        yield Check("feed", "warning", str(found), advice)
