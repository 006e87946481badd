"""What goes wrong when: a schedule of faults from a seed, so that a run can be repeated.

Pure. Each target has one fault at a time, with pauses in which it recovers; different targets overlap as chance has it, so that
the database and the broker are away at once now and then. Every way to fail comes up before any comes up again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

Target = Literal["web", "worker", "beat", "broker", "database", "ottu"]

WAYS: Final[Mapping[Target, tuple[str, ...]]] = {
    "web": ("killed", "paused", "told to stop"),
    "worker": ("killed", "paused past its lease", "told to stop"),
    "beat": ("killed", "paused"),
    "broker": ("gone", "frozen", "emptied"),
    "database": ("killed", "paused", "cut off", "swallowed", "half open"),
    "ottu": ("gone", "slow", "failing", "mad", "odd"),  # mad: an empty list for everybody; odd: lists that are none
}
LASTS_SECONDS: Final[Mapping[str, tuple[float, float]]] = {
    "paused past its lease": (8.0, 10.0),
    "emptied": (0.0, 0.0),
}
USUALLY_SECONDS: Final = (1.0, 4.0)
PAUSE_SECONDS: Final = (3.0, 8.0)  # between two faults of one target


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: what it strikes, how, from when on, and for how long."""

    at_seconds: float
    lasts_seconds: float
    target: Target
    how: str


def plan(seed: int, seconds: float) -> list[Fault]:
    """The faults of a run of that length, in order; all of them are over by its end."""
    draws = Random(f"soak:{seed}")  # noqa: S311  # a replay, not a secret
    faults: list[Fault] = []
    for target, ways in WAYS.items():
        at, waiting = draws.uniform(1.0, PAUSE_SECONDS[1]), list[str]()
        while True:
            waiting = waiting or draws.sample(ways, len(ways))
            how = waiting.pop()
            lasts = draws.uniform(*LASTS_SECONDS.get(how, USUALLY_SECONDS))
            if at + lasts > seconds:
                break
            faults.append(Fault(at, lasts, target, how))
            at += lasts + draws.uniform(*PAUSE_SECONDS)
    return sorted(faults, key=lambda fault: fault.at_seconds)
