"""Plots: what is drawn has the proportions of the figures, and stays within its picture."""

from __future__ import annotations

import pytest

from cardsync.web.console.plots import HEIGHT, WIDTH, bars, share, stacks


def test_the_largest_bar_fills_the_height_and_bars_stand_on_the_ground():
    drawn = bars([0, 5, 10])
    assert [bar.height for bar in drawn] == [0, HEIGHT / 2, HEIGHT]
    assert all(bar.y + bar.height == HEIGHT for bar in drawn)
    assert [bar.x for bar in drawn] == [0, WIDTH / 3, 2 * WIDTH / 3]


@pytest.mark.parametrize("values", [[], [0], [0, 0, 0]])
def test_nothing_to_show_is_no_error(values):
    assert [bar.height for bar in bars(values)] == [0.0] * len(values)


def test_the_parts_of_a_column_stand_one_upon_the_other():
    (low, high), (other, none) = stacks([[1, 3], [2, 0]], top=8)
    assert (low.y + low.height, high.y + high.height) == (HEIGHT, low.y)
    assert (low.height, high.height, other.height, none.height) == (HEIGHT / 8, HEIGHT * 3 / 8, HEIGHT / 4, 0)


@pytest.mark.parametrize(
    ("low", "at", "high"), [(0.98, 0.995, 1.0), (0.0, 0.5, 1.0), (0.9, 0.95, 0.97), (1.0, 1.0, 1.0)]
)
def test_a_share_lies_between_its_bounds_on_a_scale_that_ends_at_one(low, at, high):
    drawn = share(low, at, high)
    assert 0 <= drawn.begins <= low
    assert 0 <= drawn.low <= drawn.at <= drawn.high <= WIDTH
    assert (drawn.high == WIDTH) == (high == 1.0)
