"""A worker that hears no tick runs the schedule itself, and stops when it hears one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.signals import task_prerun

from cardsync.settings import Settings
from tests.waiting import until
from workers.app import FORGET_OLD, RUN_SWEEP, create_app
from workers.own_ticks import OwnTicks


@pytest.fixture
def ran() -> list[str]:
    return []


@pytest.fixture
def app(ran: list[str]) -> Celery:
    made = create_app(Settings.model_validate({"broker_url": "redis://127.0.0.1:1/0"}), "0123456789")

    def note(task: Any) -> None:
        ran.append(task.name)

    made.task(name=RUN_SWEEP, bind=True, shared=False)(note)
    made.task(name=FORGET_OLD, bind=True, shared=False)(note)
    return made


@pytest.fixture
def ticks(app: Celery) -> Iterator[OwnTicks]:
    made = OwnTicks(app, unheard_seconds=0)
    yield made
    made.close()


def test_a_worker_without_ticks_runs_the_schedule_itself(ticks: OwnTicks, ran: list[str]) -> None:
    ticks.start()
    until(lambda: ran.count(RUN_SWEEP) >= 2, "a second sweep")
    assert ran.count(FORGET_OLD) == 1  # each as often as a beat would send it


def test_a_tick_that_is_heard_leaves_the_schedule_to_the_beat(app: Celery, ran: list[str]) -> None:
    ticks = OwnTicks(app, unheard_seconds=3_600)
    ticks._heard_at = float("-inf")
    task = app.tasks[RUN_SWEEP]
    task.push_request(id="one", is_eager=False)
    task_prerun.send(sender=task, task=task)
    task.pop_request()
    ticks.start()
    ticks.close()
    assert ran == []
    assert ticks._heard_at > 0
