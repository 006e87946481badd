"""Factories bound to the test's own database."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def bound_factories(patience: None, bound_factories: None) -> None:
    """Every test of this room makes rows."""
