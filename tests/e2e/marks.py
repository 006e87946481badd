"""Which brokers a module's tests run on: both where the broker matters, else the one that needs nothing installed."""

from __future__ import annotations

import pytest

BOTH_BROKERS = pytest.mark.parametrize("broker", ["valkey", "rabbitmq"], indirect=True, scope="module")
ONE_BROKER = pytest.mark.parametrize("broker", ["valkey"], indirect=True, scope="module")
