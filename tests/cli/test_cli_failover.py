"""What the doctor says of a failover: the loss window."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine

from cardsync.cli.doctor import failover
from cardsync.settings import Settings


def test_the_doctor_names_the_loss_window(engine: Engine, tmp_path: Path) -> None:
    check = failover.loss_window(engine, Settings(data_dir=tmp_path, keep_minutes=7))
    assert (check.status, "less than 7 min" in check.found) == ("ok", True)
    check = failover.loss_window(engine, Settings(data_dir=tmp_path, keep_minutes=0))
    assert (check.status, "CARDSYNC_KEEP_MINUTES is 0" in check.found) == ("warning", True)
