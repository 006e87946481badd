"""Plots as SVG, drawn on the server: a picture for the eye, and a table with the same figures for everybody else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 480
HEIGHT: Final = 96


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar's place in the picture."""

    x: float
    y: float
    width: float
    height: float


def bars(values: Sequence[float], *, top: float | None = None) -> list[Bar]:
    """Bars from left to right; ``top`` is the value that fills the height, by default the largest."""
    if not values:
        return []
    most = max(top or 0.0, *values) or 1.0
    step = WIDTH / len(values)
    gap = min(2.0, step / 4)
    return [
        Bar(
            round(n * step, 2),
            round(HEIGHT - HEIGHT * value / most, 2),
            round(step - gap, 2),
            round(HEIGHT * value / most, 2),
        )
        for n, value in enumerate(values)
    ]
