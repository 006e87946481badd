"""What ``cardsync doctor`` checks of the set-up at Ottu: notifications that come, the kind of credentials, the key's last day.

And whether the database's views go by the merchant's own time zone.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Final
from zoneinfo import ZoneInfo

from sqlalchemy import Engine

from cardsync.cli import console
from cardsync.cli.doctor.check import Check
from cardsync.settings import Settings
from cardsync.store import calendar, retention

# A shop with a payment a day notices on the next one. It may be a quiet shop, so this is a warning and no failure.
QUIET: Final = dt.timedelta(days=1)
KEY_WARNING_DAYS: Final = 30

# The path of one's own is named and not shown: it may be one that cannot be guessed.
DASHBOARD: Final = (
    "in Ottu's dashboard, webhook settings: switch payment notifications on, also for payments made through the API, for every "
    "state, set the HMAC key of OTTU_WEBHOOK_KEYS, and the webhook_url https://<your host>{path} for each plugin; a "
    "webhook_url given with a payment replaces it"
)


def notifications(engine: Engine, loaded: Settings) -> Check:
    """When the last authentic notification came; a warning if that is long ago, or if none is kept."""
    advice = DASHBOARD.format(path="/webhooks/ottu" if loaded.webhook_path is None else "<CARDSYNC_WEBHOOK_PATH>")
    with engine.connect() as connection:
        last = retention.last_notification(connection)
    if last is None:  # its row may have gone since
        found = f"none has come in the {loaded.inbox_days} days that they are kept (CARDSYNC_INBOX_DAYS), or ever"
        return Check("webhooks", "warning", found, advice)
    found = f"the last one came at {console.rfc3339(last.received_at)}"
    if last.age < QUIET:
        return Check("webhooks", "ok", found)
    why = "they may be off, limited to some states, or sent to another address"
    return Check("webhooks", "warning", f"{found}, {last.age.days} days ago: {why}", advice)


def credentials(loaded: Settings) -> Iterator[Check]:
    """The kind of credentials, where Ottu's User Cards want another one; and the last day of the key."""
    if loaded.ottu_api_key is None and loaded.ottu_username is not None and loaded.ottu_cards_api == "enabled":
        found = "OTTU_USERNAME and OTTU_PASSWORD are set, and Ottu's User Cards take an API key only"
        yield Check("credentials", "warning", found, "make a key in Ottu's dashboard, and set OTTU_API_KEY")
    if loaded.ottu_api_key_expires_on is None:
        return
    days = days_left(loaded, dt.datetime.now(dt.UTC))
    until = f"OTTU_API_KEY is good until {loaded.ottu_api_key_expires_on}"
    advice = (
        "make a new key in Ottu's dashboard, set OTTU_API_KEY and OTTU_API_KEY_EXPIRES_ON, and start the workers again"
    )
    if days < 0:
        yield Check("api key", "failed", f"{until}: it has expired", advice)
    elif days <= KEY_WARNING_DAYS:
        yield Check("api key", "warning", f"{until}: {days} days are left", advice)
    else:
        yield Check("api key", "ok", until)


def days_left(loaded: Settings, now: dt.datetime) -> int:
    """Days until the last day of Ottu's key, in the merchant's time zone: 0 on that day, negative after it."""
    assert loaded.ottu_api_key_expires_on is not None
    return (loaded.ottu_api_key_expires_on - now.astimezone(ZoneInfo(loaded.time_zone)).date()).days


def time_zone(engine: Engine, loaded: Settings) -> Check:
    """Whether the views of the database end a card's last day where the settings say."""
    with engine.connect() as connection:
        kept = calendar.time_zone(connection)
    if kept == loaded.time_zone:
        return Check("time zone", "ok", f"cards' last days end by the clocks of {kept}")
    found = f"CARDSYNC_TIME_ZONE is {loaded.time_zone}, and the database's views go by {kept}"
    return Check("time zone", "warning", found, "set the right one everywhere, then run: cardsync db upgrade")
