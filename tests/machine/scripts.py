"""What is decided of one call to Ottu before it is made, and the thread in which it can stand still."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from cardsync.errors import CredentialsRefused, OttuFault, OttuRejected, OttuThrottled, OttuUnavailable
from tests.machine.interruptions import Crash

DEADLINE_SECONDS: Final = 300  # for a thread to stand still or end: only a bug of the machine's takes so long

Place = Literal["before", "after"]  # Ottu makes up its answer, or does what it was asked
Fault = Literal[
    "unavailable",
    "fault",
    "throttled",
    "throttled_long",
    "credentials",
    "rejected",
    "anothers_card",  # in a list
    "forbidden",  # a deletion, although the card is not locked
    "not_there",  # says Ottu of a card that is there
    "crash",
    "crash_unasked",
]
OddEntry = Literal["twice", "without_token", "long_token", "incomplete"]
CERTAINLY_NOT_DONE: Final = frozenset(
    {"throttled", "throttled_long", "credentials", "rejected", "forbidden", "not_there"}
)
_ERRORS: Final[Mapping[str, Callable[[], Exception]]] = {
    "unavailable": lambda: OttuUnavailable("no answer"),
    "fault": lambda: OttuFault("503", status_code=503),
    "throttled": lambda: OttuThrottled("429", status_code=429),
    "throttled_long": lambda: OttuThrottled("429", retry_after_seconds=30, status_code=429),
    "credentials": lambda: CredentialsRefused("401", status_code=401),
    "rejected": lambda: OttuRejected("405", status_code=405),
}


@dataclass(slots=True)
class Script:
    """What becomes of the next call: where it stands still, and how it fails, before or after Ottu made up its answer."""

    stands: Place | None = None
    fault: Fault | None = None
    at: Place = "before"
    pages: int = 1


def odd(card: Mapping[str, Any], how: OddEntry | None) -> list[dict[str, Any]]:
    """The entries of a list for one card, as Ottu should write it (``None``) or not."""
    match how:
        case "twice":
            return [dict(card), {**card, "name_on_card": "FAKE OTHER HOLDER"}]
        case "without_token":
            return [{**card, "token": None}]
        case "long_token":
            return [{**card, "token": "x" * 64}]
        case "incomplete":
            return [{name: value for name, value in card.items() if name != "pg_code"}]
        case _:
            return [dict(card)]


def fail(fault: Fault | None) -> None:
    """Raise what the fault is, if it is an error."""
    if fault == "crash":
        raise Crash
    if fault is not None and fault in _ERRORS:
        raise _ERRORS[fault]()


@dataclass(slots=True)
class Call:
    """A story in a thread of its own, which runs only while the machine waits for it: one step at a time.

    ``script`` is the call's own: how it fails may still be decided while it stands still.
    """

    work: Callable[[], object]
    script: Script
    standing: bool = False
    error: BaseException | None = None
    _moved: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Run until the call stands still or the story ends; raises what no process survives unseen."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._wait()

    def resume(self) -> None:
        """Let a call that stands still go on to its end."""
        self._go.release()
        self._wait()

    def stand_still(self) -> None:
        """Called at Ottu's: wait until the machine lets the call go on."""
        self.standing = True
        self._moved.release()
        assert self._go.acquire(timeout=10 * DEADLINE_SECONDS), "nobody let the call go on"
        self.standing = False

    def _run(self) -> None:
        try:
            self.work()
        except BaseException as error:  # noqa: BLE001  # the machine looks at it, in its own thread
            self.error = error
        self._moved.release()

    def _wait(self) -> None:
        assert self._moved.acquire(timeout=DEADLINE_SECONDS), "a call neither stood still nor ended"
        if self.standing or self._thread is None:
            return
        self._thread.join(DEADLINE_SECONDS)
        if self.error is not None and not isinstance(self.error, Crash):
            raise self.error
