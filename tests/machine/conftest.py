"""How long the machine runs, and the one database that its examples share: on this machine, or some milliseconds away.

``CARDSYNC_HYPOTHESIS_PROFILE`` is ``default`` (under a minute, the same examples every time) or ``thorough`` (half an hour, other
examples every time; ``-o faulthandler_timeout=0`` keeps pytest calm). The profiles are passed to the machine and not loaded:
loading is global, and other tests have a profile of their own. Hypothesis itself has one called "default", hence the prefix.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings
from sqlalchemy import make_url

from cardsync import db
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.spool import Spool
from tests.conftest import patient_sessions
from tests.e2e.proxy import TcpProxy
from tests.machine import clock
from tests.machine.interruptions import Interrupter
from tests.machine.system import TOKENS, System

ONE_WAY_SECONDS: Final = 0.001  # of the far database: another zone of the same region

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
    with _systems(postgres.url_for("machine"), postgres.url_for("machine"), services / "machine-spools") as new:
        yield new
    postgres.drop_database("machine")


@pytest.fixture
def new_far_system(
    postgres: EmbeddedPostgres, template_database: str, services: Path
) -> Iterator[Callable[[], System]]:
    """The same, with a database that is two milliseconds away for worker and web; the observer is beside it."""
    postgres.create_database("far_machine", template=template_database)
    near = postgres.url_for("far_machine")
    address = make_url(near)
    network = TcpProxy(("127.0.0.1", int(address.port or 0)), one_way_seconds=ONE_WAY_SECONDS)
    far = address.set(port=network.port).render_as_string(hide_password=False)
    with _systems(near, far, services / "far-machine-spools") as new:
        yield new
    network.cut()
    postgres.drop_database("far_machine")


@contextlib.contextmanager
def _systems(near: str, far: str, folder: Path) -> Iterator[Callable[[], System]]:
    """Makes systems of one database: ``near`` is the observer's address of it, ``far`` that of worker and web."""
    with patient_sessions():  # a statement that a busy machine holds up is none of the interruptions that a rule chose
        observer, worker, web = (
            db.make_engine(near, autocommit=True),
            db.make_engine(far),
            db.make_engine(far, autocommit=True),
        )
        clock.install(observer)
        for engine in (observer, worker, web):
            clock.follow(engine)
    interrupter = Interrupter()
    interrupter.listen(worker)
    interrupter.listen(web)
    numbers = itertools.count()

    def spool() -> Spool:
        """Each example has a folder of its own; in memory, since no power is cut here."""
        return Spool(folder / str(next(numbers)), max_files=100_000, max_bytes=2**30)

    yield lambda: System(worker, web, observer, interrupter, spool())
    for engine in (worker, web, observer):
        engine.dispose()


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
