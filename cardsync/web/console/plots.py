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


def bars(values: Sequence[float]) -> list[Bar]:
    """Bars from left to right; the largest fills the height."""
    return [column[0] for column in stacks([[value] for value in values], top=max(values, default=0.0))]


def stacks(columns: Sequence[Sequence[float]], *, top: float) -> list[list[Bar]]:
    """Columns from left to right, the parts of each one above the other, the first at the bottom; ``top`` fills the height."""
    step = WIDTH / max(len(columns), 1)
    gap = min(2.0, step / 4)
    drawn = []
    for n, parts in enumerate(columns):
        floor = float(HEIGHT)
        column = []
        for value in parts:
            height = HEIGHT * value / (top or 1.0)
            floor -= height
            column.append(Bar(round(n * step, 2), round(floor, 2), round(step - gap, 2), round(height, 2)))
        drawn.append(column)
    return drawn


@dataclass(frozen=True, slots=True)
class Range:
    """An estimate between its bounds, drawn on a scale that begins at ``begins`` and ends at 1."""

    begins: float
    low: float
    at: float
    high: float


def share(low: float, at: float, high: float) -> Range:
    """Place a share and its bounds on a scale that leaves half as much room below the lower bound as there is above it."""
    begins = max(0.0, low - (1.0 - low) / 2) if low < 1.0 else 0.0
    wide = 1.0 - begins
    return Range(begins, *(round(WIDTH * (value - begins) / wide, 2) for value in (low, at, high)))
