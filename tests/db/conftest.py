"""Sessions that a busy machine does not end: what a test of this room says of time-outs itself still counts."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def patient(patience: None) -> None:
    """For every test of this room."""
