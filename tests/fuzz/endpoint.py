"""The endpoint under fuzzed bodies on a real PostgreSQL, by either way in, and what must hold of every answer."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from cardsync.web.ingest.endpoint import PATH
from tests.fuzz.bodies import ALTERATIONS, BODIES_A_PAYLOAD, SEEDS, altered, bodies

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

# The contract's table, without what headers alone decide.
STATUSES: Final = frozenset({200, 400, 401, 413})
# Every text that a refusal may have: with nothing else in it, nothing of a body is.
DETAILS: Final = frozenset(
    {
        "the body is not one JSON object in UTF-8",
        "the body is JSON, but not an object",
        "the body is nested more than 64 levels deep",
        "the body is shorter than its Content-Length",
        "the signature is missing or malformed",
        "no configured key vouches for the payload",
        "The body may have 1048576 bytes at most.",
    }
)
EMPTIED_AFTER: Final = 5_000  # bodies
LONGEST_SECONDS: Final = (
    30.0  # a deadline for one body; far above what any takes, and far below one whose cost grows with its square
)


@dataclass
class Figures:
    """What was tried, and how it was answered."""

    bodies: int = 0
    seconds: float = 0.0
    slowest_seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        shown = ", ".join(f"{status}: {count:,}" for status, count in sorted(self.statuses.items()))
        return (
            f"{self.bodies:,} bodies in {self.seconds:.1f} s ({shown}); slowest {self.slowest_seconds * 1_000:.0f} ms"
        )


def run(app: Wsgi, engine: Engine, *, wanted: int, seconds: float, seeded: int) -> Figures:
    """Send a number of bodies, for ``seconds`` at the most. Raises ``AssertionError`` with Hypothesis' smallest example."""
    figures, began = Figures(), time.monotonic()

    @seed(seeded)
    @settings(
        max_examples=max(1, wanted // BODIES_A_PAYLOAD),
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(which=st.integers(0, 1_000), alterations=ALTERATIONS, chance=SEEDS)
    def endpoint_holds(which: int, alterations: list[tuple[int, Any]], chance: int) -> None:
        if time.monotonic() - began > seconds:
            return
        before = _rows(engine)
        taken = {
            event_id for body in bodies(altered(which, alterations), chance) if (event_id := _try(app, body, figures))
        }
        figures.bodies += BODIES_A_PAYLOAD
        # What was taken is there: nothing is acknowledged that PostgreSQL would not hold.
        assert _rows(engine) <= before + len(taken)
        assert _held(engine, taken) == len(taken)
        if figures.bodies % EMPTIED_AFTER == 0:
            _empty(engine)

    endpoint_holds()
    figures.seconds = time.monotonic() - began
    return figures


def _try(app: Wsgi, body: bytes, figures: Figures) -> str | None:
    """Send one body; the event's id if it was taken."""
    began = time.perf_counter()
    status, answer = post(app, body)
    took = time.perf_counter() - began
    figures.slowest_seconds = max(figures.slowest_seconds, took)
    assert took < LONGEST_SECONDS, "a body takes too long"
    assert status in STATUSES, answer
    if status != HTTPStatus.OK:
        assert answer["detail"] in DETAILS, answer
        # An id only where the log has the line that it names.
        assert set(answer) - {"request_id"} == {"type", "title", "status", "code", "detail"}
        figures.statuses[str(status)] += 1
        return None
    assert answer["status"] in ("accepted", "duplicate", "ignored")
    figures.statuses[answer["status"]] += 1
    return str(answer["event_id"])


def post(app: Wsgi, body: bytes) -> tuple[int, dict[str, Any]]:
    statuses: list[int] = []
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": PATH,
        "SERVER_NAME": "fuzz",
        "SERVER_PORT": "80",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        "wsgi.url_scheme": "http",
    }
    answered = app(environ, lambda status, _headers, _exc=None: statuses.append(int(status[:3])) or (lambda _: None))
    answer: dict[str, Any] = json.loads(b"".join(answered))
    return statuses[-1], answer


def _rows(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM cardsync.events")).scalar_one())


def _held(engine: Engine, event_ids: set[str]) -> int:
    statement = text("SELECT count(*) FROM cardsync.events WHERE event_id = ANY(cast(:ids AS uuid[]))")
    with engine.connect() as connection:
        return int(connection.execute(statement, {"ids": list(event_ids)}).scalar_one())


def _empty(engine: Engine) -> None:
    """Keep the table small: what is tried is taking bodies in, not keeping a hundred thousand."""
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE cardsync.events"))
