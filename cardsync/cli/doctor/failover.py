"""What ``cardsync doctor`` says of a failover: what of the acknowledged hints it could lose (the loss window)."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Engine, text

from cardsync.cli.doctor.check import Check
from cardsync.settings import Settings
from cardsync.spool.ring import FOLDER, Ring

_STANDBYS: Final = text("SELECT current_setting('synchronous_standby_names')")


def loss_window(engine: Engine, loaded: Settings) -> Check:
    """Whether commits wait for a standby; else for how long a standby may lag before a failover loses hints for good."""
    with engine.connect() as connection:
        standbys = str(connection.execute(_STANDBYS).scalar_one())
    if standbys:
        return Check("failover", "ok", "commits wait for a synchronous standby: a failover loses no hint")
    if not loaded.keep_minutes:
        found = "a standby that lags and takes over loses what was acknowledged in its lag: CARDSYNC_KEEP_MINUTES is 0"
        return Check("failover", "warning", found, "set it to more minutes than a standby may lag")
    ring = Ring(loaded.data_dir / FOLDER, keep_minutes=loaded.keep_minutes, max_bytes=loaded.spool_max_bytes)
    try:
        kept = f"{ring.size_bytes() // 2**20} MiB are kept here"
    except OSError as error:
        kept = f"what is kept here cannot be looked at ({error.strerror})"
    minutes = f"{loaded.keep_minutes} min"
    return Check("failover", "ok", f"loses no hint if the standby lags by less than {minutes}, the loss window; {kept}")
