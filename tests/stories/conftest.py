"""Factories bound to the test's own database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from cardsync import db
from tests import factories
from tests.stories.worlds import Shop


@pytest.fixture(autouse=True)
def rows(engine: Engine) -> Iterator[None]:
    """Bind the factories."""
    factories.bind(engine)
    yield
    factories.unbind()


@pytest.fixture
def shop(engine: Engine, database_url: str) -> Iterator[Shop]:
    """The stories on a database of their own."""
    ingest = db.make_engine(database_url, autocommit=True)
    yield Shop(engine, ingest)
    ingest.dispose()
