"""One check of ``cardsync doctor``: what was looked at, what was found, and what to do about it."""

from __future__ import annotations

import dataclasses
from typing import Literal

Status = Literal["ok", "warning", "failed", "skipped"]


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """What was checked, what was found, and what to do about it."""

    name: str
    status: Status
    found: str
    advice: str | None = None
