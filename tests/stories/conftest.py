"""Factories bound to the test's own database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from tests import factories
from tests.stories.worlds import Shop


@pytest.fixture(autouse=True)
def rows(engine: Engine) -> Iterator[None]:
    """Bind the factories."""
    factories.bind(engine)
    yield
    factories.unbind()


@pytest.fixture
def shop(engine: Engine, ingest_engine: Engine, web_engine: Engine, worker_engine: Engine) -> Shop:
    """The stories on a database of their own."""
    return Shop(engine, ingest_engine, web_engine, worker_engine)
