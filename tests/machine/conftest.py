"""How long the machine runs, and the one database that its examples share.

``CARDSYNC_HYPOTHESIS_PROFILE`` is ``default`` (under a minute, the same examples every time) or ``thorough`` (half an hour, other
examples every time; ``-o faulthandler_timeout=0`` keeps pytest calm). The profiles are passed to the machine and not loaded:
loading is global, and other tests have a profile of their own. Hypothesis itself has one called "default", hence the prefix.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings

from cardsync import db
from cardsync.dev.postgres import EmbeddedPostgres
from cardsync.spool import Spool
from tests.machine import clock
from tests.machine.interruptions import Interrupter
from tests.machine.system import TOKENS, System

_COMMON = settings(
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    phases=[phase for phase in Phase if phase is not Phase.explain],  # it costs as much as all the rest
)
settings.register_profile(
    "cardsync-default", _COMMON, max_examples=100, stateful_step_count=35, derandomize=True, database=None
)
settings.register_profile("cardsync-thorough", _COMMON, max_examples=1_500, stateful_step_count=60)


@pytest.fixture(scope="session")
def profile() -> settings:
    """How much the machine tries."""
    return settings.get_profile(f"cardsync-{os.environ.get('CARDSYNC_HYPOTHESIS_PROFILE', 'default')}")


@pytest.fixture(scope="module")
def new_system(postgres: EmbeddedPostgres, template_database: str, services: Path) -> Iterator[Callable[[], System]]:
    """Makes an empty system in the one database, with its clock at the beginning."""
    postgres.create_database("machine", template=template_database)
    folder = services / "machine-spools"
    url = postgres.url_for("machine")
    observer, worker, web = (
        db.make_engine(url, autocommit=True),
        db.make_engine(url),
        db.make_engine(url, autocommit=True),
    )
    clock.install(observer)
    interrupter = Interrupter()
    interrupter.listen(worker)
    interrupter.listen(web)
    numbers = itertools.count()

    def spool() -> Spool:
        """Each example has a folder of its own; in memory, since no power is cut here."""
        return Spool(folder / str(next(numbers)), max_files=1_000, max_bytes=1_000_000)

    yield lambda: System(worker, web, observer, interrupter, spool())
    for engine in (worker, web, observer):
        engine.dispose()
    postgres.drop_database("machine")


@pytest.fixture(autouse=True)
def no_log_line_holds_a_token() -> Iterator[None]:
    """The stories' log goes nowhere, but is read."""

    def read(_logger: Any, _method: str, line: Any) -> Any:
        assert not any(token in repr(line) for token in TOKENS), "a log line holds a token"
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[read], wrapper_class=structlog.BoundLogger)
    yield
    structlog.configure(**before)
