"""Factories bound to the test's own database."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from tests.stories.shop import Shop


@pytest.fixture(autouse=True)
def bound_factories(patience: None, bound_factories: None) -> None:
    """Every test of this room makes rows."""


@pytest.fixture
def shop(engine: Engine, ingest_engine: Engine, web_engine: Engine, worker_engine: Engine) -> Shop:
    """The stories on a database of their own."""
    return Shop(engine, ingest_engine, web_engine, worker_engine)
