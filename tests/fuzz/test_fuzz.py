"""A short run of the fuzzing with every run of the tests; ``make fuzz`` is the long one.

``CARDSYNC_FUZZ_BODIES``, ``CARDSYNC_FUZZ_SECONDS`` and ``CARDSYNC_FUZZ_SEED`` make it longer, or say again what was found.
The short run is the same each time, so that it refuses no change for what another one did; the long one is another each time.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from random import Random

import pytest
import structlog
from flask import Flask
from sqlalchemy import Engine

from tests.fuzz.bodies import GENUINE, bodies
from tests.fuzz.endpoint import post, run
from tests.fuzz.parsing import check, write_corpus
from tests.web.served import Served

BODIES = int(os.environ.get("CARDSYNC_FUZZ_BODIES", "600"))
SECONDS = float(os.environ.get("CARDSYNC_FUZZ_SECONDS", "60"))
USUAL_SEED = 20_260_301
SEED = int(os.environ.get("CARDSYNC_FUZZ_SEED", "0")) or (
    secrets.randbits(32) if "CARDSYNC_FUZZ_BODIES" in os.environ else USUAL_SEED
)


def test_no_body_gets_an_answer_beyond_the_contract_or_takes_long(
    app: Flask, way_in: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger("critical"))
    for module in ("ingest.endpoint", "rate_limits"):  # a line for each body is not what is looked at here
        monkeypatch.setattr(f"cardsync.web.{module}.log", silent)
    sys.stdout.write(f"CARDSYNC_FUZZ_SEED={SEED}\n")
    figures = run(Served(app) if way_in == "served" else app, engine, wanted=BODIES, seconds=SECONDS, seeded=SEED)
    sys.stdout.write(f"endpoint, {way_in}: {figures}\n")
    assert figures.statuses["accepted"]
    assert figures.statuses["401"]
    assert figures.statuses["400"]


def test_the_parsing_path_holds_for_genuine_and_altered_bodies(tmp_path: Path) -> None:
    assert write_corpus(tmp_path) == 2 * len(GENUINE)
    for file in tmp_path.iterdir():
        check(file.read_bytes())
    dice = Random(SEED)  # noqa: S311  (a replay)
    for genuine in GENUINE:
        for _ in range(20):
            for body in bodies(dict(genuine), dice.getrandbits(32)):
                check(body)


def test_both_ways_in_answer_alike(app: Flask) -> None:
    served, dice = Served(app), Random(SEED)  # noqa: S311  (a replay)
    for genuine in GENUINE:
        for body in bodies(dict(genuine), dice.getrandbits(32)):
            post(served, body)  # from here on it is a duplicate, whichever way it comes
            (status, answer), (wsgi_status, wsgi_answer) = post(served, body), post(app, body)
            for one in (answer, wsgi_answer):
                one.pop("request_id", None)
            assert (status, answer) == (wsgi_status, wsgi_answer), body
