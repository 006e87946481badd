"""The names of the spool's files, which say what is in them, so that counting and ordering open no file.

::

    <time>-<process>-<number>.<rows>.<repeats>.<bytes>.segment    a batch that waits
    <time>-<process>-<number>.hint                                one that waits, of a release before segments
    <time>-<process>-<number>.<place>.<reason>.bad                a record that was set aside, and why
    <time>-<process>-<number>.tmp                                 a draft: not durable yet

What stands before the first dot is the *stem*. Stems sort in the order of writing: nanoseconds of this host's clock in twenty
digits, then the process, then its counter. A name that none of this made (an operator's, an older release's) counts as one row.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SEGMENT: Final = ".segment"  # not ".hint": an older release on the same folder would set it aside as unreadable
OLD: Final = ".hint"
BAD: Final = ".bad"
DRAFT: Final = ".tmp"
WAITING: Final = (SEGMENT, OLD)

WHOLE: Final = "all"  # the place of a file that was set aside as it is
UNKNOWN_REASON: Final = "unknown"  # set aside by a release that did not write it down

_SEGMENT: Final = re.compile(rf"([^.]*)\.([0-9]{{1,9}})\.([0-9]{{1,9}})\.([0-9]{{1,12}})\{SEGMENT}")
_TIME: Final = re.compile(r"([0-9]{20})-")
_NOT_IN_A_REASON: Final = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class SegmentName:
    """What the name of a segment says of it; ``repeats`` are rows whose signature waited already in another body."""

    stem: str
    rows: int
    repeats: int
    size_bytes: int

    @property
    def text(self) -> str:
        """The name itself."""
        return f"{self.stem}.{self.rows}.{self.repeats}.{self.size_bytes}{SEGMENT}"


def parse_segment(name: str) -> SegmentName | None:
    """What a segment's name says, ``None`` for any other name."""
    found = _SEGMENT.fullmatch(name)
    return SegmentName(found[1], int(found[2]), int(found[3]), int(found[4])) if found else None


def bad_name(stem: str, place: int | str, reason: str) -> str:
    """The name of a record that is set aside: the same for the same record, so that doing it twice leaves one file."""
    return f"{stem}.{place}.{_NOT_IN_A_REASON.sub('-', reason.lower())}{BAD}"


def reason_of(name: str) -> str:
    """Why a file was set aside."""
    parts = name.split(".")
    return parts[2] if len(parts) == 4 and name.endswith(BAD) else UNKNOWN_REASON


def stem_of(file: Path) -> str:
    """What stands before the first dot."""
    return file.name.partition(".")[0]


def written_at(file: Path) -> dt.datetime:
    """When a file was written: what its name says, else when it was changed; 1970 for one that is gone."""
    seconds = seconds_of(file.name)
    with contextlib.suppress(FileNotFoundError):
        seconds = file.stat().st_mtime if seconds is None else seconds
    return dt.datetime.fromtimestamp(seconds or 0.0, dt.UTC)


def seconds_of(name: str) -> float | None:
    """When the file was written, in seconds since 1970, ``None`` for a name that does not say it."""
    found = _TIME.match(name)
    return int(found[1]) / 1e9 if found else None
