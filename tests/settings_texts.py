"""Settings as the tests give them, and the one line with which they are refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from cardsync.errors import Misconfigured
from cardsync.settings import Need, Settings, load

SECRET = "fake-secret-" + "s" * 32
FULL = {
    "CARDSYNC_DATABASE_URL": f"postgresql://app:{SECRET}@127.0.0.1/cards",
    "CARDSYNC_BROKER_URL": f"amqp://app:{SECRET}@127.0.0.1//",
    "CARDSYNC_SECRET_KEY": SECRET,
    "OTTU_MERCHANT_ID": "acme.ottu.net",
    "OTTU_API_KEY": SECRET,
    "OTTU_WEBHOOK_KEYS": f"{SECRET},another-{SECRET}",
}
ALL_NEEDS: tuple[Need, ...] = ("database", "broker", "secret", "webhook", "ottu")


def read(folder: Path, environ: Mapping[str, str] | None = None, *needs: Need) -> Settings:
    return load(*needs, environ=environ or {}, cwd=folder)


def refusal(folder: Path, environ: Mapping[str, str], *needs: Need) -> str:
    """The one line with which the settings are refused; it shows no secret."""
    with pytest.raises(Misconfigured) as caught:
        read(folder, environ, *needs)
    text = str(caught.value)
    assert "\n" not in text
    assert SECRET not in text
    return text
