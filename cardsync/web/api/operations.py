"""``/v1/ops``: what an operator's program looks at, for keys with the scope ``ops``: what waits, what is stopped, what failed.

Read only: releasing a brake or replaying a deletion is an operator's own act (``cardsync brake``, ``cardsync deletions``).
"""

from __future__ import annotations

from flask import Blueprint, Response

from cardsync.store.deletions import requests
from cardsync.store.ops import gauges
from cardsync.web.api import operation_schemas as schemas
from cardsync.web.api.auth import requires
from cardsync.web.api.deletion_schemas import Deletion, DeletionList
from cardsync.web.requests import read_query
from cardsync.web.responses import json_answer
from cardsync.web.services import services

blueprint = Blueprint("operations", __name__, url_prefix="/ops")


@blueprint.get("/status")
@requires("ops")
def show_status() -> Response:
    """What waits and what is stopped, as the metrics have it."""
    with services().engine.connect() as connection:
        figures = gauges.queues(connection)
    facts = {name: getattr(figures, name) for name in schemas.OpsStatus.model_fields if name not in schemas.OWN}
    spent = sum(figures.calls_by_lane.values())
    daily = services().settings.ottu_daily_calls
    return json_answer(schemas.OpsStatus(**facts, calls_spent=spent, calls_a_day=daily).model_dump_json())


@blueprint.get("/deletions")
@requires("ops")
def list_deletions() -> Response:
    """The newest deletions of all customers."""
    query = read_query(schemas.OpsDeletionsQuery)
    with services().engine.connect() as connection:
        found = requests.listing(connection, status=query.status, limit=query.limit)
    shown = [Deletion.model_validate(deletion) for deletion in found]
    return json_answer(DeletionList(deletions=shown).model_dump_json())
