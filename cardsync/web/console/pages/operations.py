"""Operations: what operators asked for and workers carry out, with progress, failures and a way to cancel."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final

from flask import Blueprint, abort
from flask.typing import ResponseReturnValue
from sqlalchemy import Connection

from cardsync.store.console import operations
from cardsync.store.console.operations import Kind
from cardsync.web.console import keyset, regions, rendering
from cardsync.web.console.actions.endpoints import answer
from cardsync.web.console.actions.operations import WORDS

blueprint: Final = Blueprint("operations", __name__)

PAGE: Final = 50
# Which page shows what failed, by the name of its id.
_NOTIFICATION: Final = ("notifications.show_one", "event_id")
_DELETION: Final = ("deletions.show_one", "deletion_id")
PAGE_OF: Final[Mapping[Kind, tuple[str, str]]] = {
    "replay_event": _NOTIFICATION,
    "replay_events": _NOTIFICATION,
    "replay_deliveries": _NOTIFICATION,
    "replay_deletion": _DELETION,
    "cancel_deletion": _DELETION,
    "replay_deletions": _DELETION,
    "release_deletions": _DELETION,
}
REFRESH_SECONDS: Final = 2  # while one is under way, also without a script


@blueprint.get("/operations")
def show() -> ResponseReturnValue:
    """The newest operations."""
    after = keyset.asked()
    before = None if after is None else (after.at, after.ref)
    found = regions.read(lambda connection: operations.listing(connection, before=before, limit=PAGE))
    return rendering.page("operations.html", found=found, page_size=PAGE, is_first=after is None)


@blueprint.get("/operations/<uuid:operation_id>")
def show_one(operation_id: uuid.UUID) -> ResponseReturnValue:
    """One operation; the page comes again by itself while it is under way, unless the viewer turned that off."""
    found = regions.read(lambda connection: operations.show(connection, operation_id))
    if found.value is None and found.missing is None:
        abort(404)
    status = 200 if found.value else 503
    one = found.value
    secret = None if one is None or one.answer is None else answer(one.answer, one.filter.get("salt"))
    return rendering.page(
        "operation.html",
        status=status,
        operation_id=operation_id,
        found=found,
        secret=secret,
        page_of=None if one is None else PAGE_OF.get(one.kind),
        refresh_seconds=REFRESH_SECONDS,
    )


def dry_run(kind: Kind, chosen: dict[str, Any], *, back: str) -> ResponseReturnValue:
    """What a bulk operation would do now, as a page with the form that asks for it; its filter holds the database's moment."""

    def look(connection: Connection) -> tuple[dict[str, Any], operations.Cost]:
        filter_ = operations.frozen(connection, chosen)
        return filter_, operations.cost(connection, kind, filter_)

    found = regions.read(look)
    return rendering.page(
        "dry_run.html",
        kind=kind,
        chosen=chosen,
        found=found,
        counted_max=operations.COUNTED_MAX,
        word=WORDS[kind],
        back=back,
    )
