"""Every default that a database or a login can have otherwise, and that some statement or driver might rely on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pytest

UNUSUAL: Final = {
    "array_nulls": "off",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "datestyle": "German, DMY",
    "default_transaction_deferrable": "on",
    "default_transaction_isolation": "serializable",
    "extra_float_digits": "-15",
    "idle_in_transaction_session_timeout": "1ms",
    "idle_session_timeout": "20ms",
    "intervalstyle": "sql_standard",
    "lock_timeout": "1ms",
    "quote_all_identifiers": "on",
    "search_path": "nowhere",
    "standard_conforming_strings": "off",
    "statement_timeout": "1s",
    "timezone": "Asia/Kathmandu",
    "transform_null_equals": "on",
}


@pytest.fixture
def database_defaults() -> Mapping[str, str]:
    return UNUSUAL
