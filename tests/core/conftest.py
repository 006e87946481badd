"""Hypothesis without a deadline: a busy machine is no bug of a pure function's."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
