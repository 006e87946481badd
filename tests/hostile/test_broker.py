"""A broker in a stranger's hands: messages that are forged, with whatever they hold, do no work that is not due."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import Engine

from cardsync.settings import Settings
from tests.factories import SECRET
from tests.stories.fake_ottu import DeletingShop
from workers.app import WORK, create_app
from workers.dispatch.kinds import WorkerContext
from workers.tasks import add_tasks

pytestmark = pytest.mark.usefixtures("bound_factories")
T1 = "9999000000000001"
STRANGE: tuple[Any, ...] = (None, "", "x", "1; DROP TABLE cardsync.cards", -1, 2**70, 1.5, [], {}, [[]], T1)


@pytest.fixture
def shop(engine: Engine, ingest_engine: Engine, web_engine: Engine, worker_engine: Engine) -> DeletingShop:
    return DeletingShop(engine, ingest_engine, web_engine, worker_engine)


@pytest.fixture
def app(shop: DeletingShop, tmp_path: Path) -> Celery:
    """A worker's tasks, without its broker."""
    settings = Settings.model_validate(
        {"broker_url": "redis://127.0.0.1:1/0", "secret_key": SECRET.decode(), "data_dir": tmp_path}
    )
    made = create_app(settings, "0123456789")
    add_tasks(made, WorkerContext(settings, shop.worker, shop.desk, "0123456789", SECRET), lambda: None)
    return made


def everything(shop: DeletingShop) -> list[Any]:
    tables = ("cards", "customers", "deletions", "deletion_steps", "events", "observations", "call_minutes")
    return [shop.execute(f"SELECT t::text FROM cardsync.{table} AS t ORDER BY 1") for table in tables]


def test_a_forged_message_makes_no_call_and_changes_nothing(
    shop: DeletingShop, app: Celery, capfd: pytest.CaptureFixture[str]
) -> None:
    (card,) = shop.stock(T1)
    ended = shop.ask(card)
    shop.work()
    assert shop.show(ended).status == "done"
    shop.stock("9999000000000002")
    receipt = shop.receive()
    shop.process(receipt)
    shop.work()
    before, calls = everything(shop), (shop.desk.lists, len(shop.desk.statuses))
    for arguments in ([], [str(card)], [[str(receipt.event_id)]], *([one] for one in STRANGE)):
        app.tasks[WORK].apply(args=arguments, headers={"cardsync_deployment": "of a stranger"})
    assert everything(shop) == before
    assert (shop.desk.lists, len(shop.desk.statuses)) == calls
    assert T1 not in "".join(capfd.readouterr())  # what a message holds is not repeated in the log


def test_no_message_is_unpacked_by_anything_but_json(app: Celery) -> None:
    assert set(app.conf.accept_content) == {"json"}
    assert (app.conf.task_serializer, app.conf.task_ignore_result) == ("json", True)
