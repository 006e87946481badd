"""Several who migrate at once take turns, and whoever waits for its turn stands in nobody's way."""

from __future__ import annotations

import subprocess
import sys

from sqlalchemy import text

from cardsync import db
from tests.e2e.processes import until

MIGRATE = "import sys; from cardsync import db; db.upgrade(sys.argv[1])"
ADVISORY_LOCK = 0x63617264
SECONDS = 60


def test_whoever_waits_for_its_turn_does_not_hold_up_an_index_that_is_made_concurrently(
    database_url: str,
) -> None:
    engine = db.make_engine(database_url, autocommit=True)
    with engine.connect() as first:
        first.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
        second = subprocess.Popen([sys.executable, "-c", MIGRATE, database_url])
        asking = text("""
            SELECT 1 FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid() AND query ~ 'advisory_lock|COMMIT'
        """)
        until(lambda: first.execute(asking).scalar_one_or_none(), "the second asks for its turn")
        first.execute(text("CREATE INDEX CONCURRENTLY made_meanwhile ON cardsync.events (scheme)"))
        assert second.poll() is None
        first.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCK})
        assert second.wait(SECONDS) == 0
    engine.dispose()
