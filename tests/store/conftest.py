"""Factories bound to the test's own database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from tests import factories


@pytest.fixture(autouse=True)
def rows(engine: Engine) -> Iterator[None]:
    """Bind the factories."""
    factories.bind(engine)
    yield
    factories.unbind()
