"""The stories on a database of their own, each with the rights of its process."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from tests.stories.shop import Shop


@pytest.fixture
def shop(engine: Engine, ingest_engine: Engine, web_engine: Engine, worker_engine: Engine) -> Shop:
    """The stories on a database of their own."""
    return Shop(engine, ingest_engine, web_engine, worker_engine)
