"""What attacks need: rows, logins of services, the fixtures of the web's tests, and a system of real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import broker, module_database_url, module_system, system
from tests.logins import ServiceLogins
from tests.web.conftest import bells, make_app, make_settings, patient

__all__ = ["bells", "broker", "make_app", "make_settings", "module_database_url", "module_system", "patient", "system"]


@pytest.fixture
def strangers(database_url: str) -> Iterator[ServiceLogins]:
    """Logins of services, dropped at the end."""
    made = ServiceLogins(database_url)
    yield made
    made.close()
