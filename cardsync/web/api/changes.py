"""``/v1/changes``: the feed over HTTP, with long polls (``web.long_polls``)."""

from __future__ import annotations

from flask import Blueprint, Response, request

from cardsync.store.deliveries import batches
from cardsync.web import long_polls
from cardsync.web.api import change_schemas as schemas
from cardsync.web.api.auth import requires
from cardsync.web.requests import read_query
from cardsync.web.responses import Problem, json_answer
from cardsync.web.services import services

blueprint = Blueprint("changes", __name__)


@blueprint.get("/changes")
@requires("cards:read")
def list_changes() -> Response:
    """The changes after a number; with ``wait`` the answer comes as soon as there is one."""
    query = read_query(schemas.ChangesQuery)
    with services().engine.connect() as connection:
        changes, place = batches.changes_after(connection, query.after, limit=query.limit)
    if place.is_lost or query.epoch not in (None, place.epoch):
        raise Problem(
            "feed_restored",
            f"The feed is in epoch {place.epoch}, which begins after {place.after_seq}.",
            extensions={"epoch": place.epoch, "after": place.after_seq},
        )
    has_place = request.environ.get(long_polls.MAY_WAIT)
    if not changes and query.wait and has_place is not None:
        if not has_place:
            raise Problem("too_many_waiting", "Too many requests wait for changes already.")
        request.environ[long_polls.WAITS] = (query.after, query.wait)
    shown = [schemas.CardChange.model_validate(change) for change in changes]
    next_after = shown[-1].seq if shown else query.after
    page = schemas.ChangePage(changes=shown, next_after=next_after, head=place.head, epoch=place.epoch)
    return json_answer(page.model_dump_json())
