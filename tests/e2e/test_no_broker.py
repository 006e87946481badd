"""A worker without any broker: it finds what is due in the database, runs the schedule itself, and stops when told to."""

from __future__ import annotations

import secrets
from pathlib import Path

from sqlalchemy import Engine, text

from tests.e2e.processes import Process
from tests.waiting import until


def test_a_worker_without_a_broker_runs_the_schedule_and_stops_in_good_order(
    tmp_path: Path, database_url: str, engine: Engine
) -> None:
    settings = {
        "CARDSYNC_DATABASE_URL": database_url,
        "CARDSYNC_SECRET_KEY": secrets.token_hex(24),
        "CARDSYNC_DATA_DIR": str(tmp_path / "data"),
        "CARDSYNC_LOG_FORMAT": "json",
        "OTTU_BASE_URL": "http://127.0.0.1:1",
        "OTTU_API_KEY": "none",
    }

    def swept() -> bool:
        with engine.connect() as connection:
            return bool(connection.execute(text("SELECT swept_at IS NOT NULL FROM cardsync.gate")).scalar_one())

    before = Process(tmp_path, "refused", ["worker"], settings).start()
    assert before.wait() == 2
    assert "CARDSYNC_BROKER_URL is missing" in before.output()
    worker = Process(tmp_path, "worker", ["worker", "--no-broker"], settings).start()
    try:
        until(swept, "a sweep ran")
        assert worker.stop() == 0
    finally:
        worker.kill()
    assert "task_failed" not in worker.output()
