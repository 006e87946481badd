"""Operations: what operators asked for and workers carry out, with progress, failures and a way to cancel."""

from __future__ import annotations

import uuid
from typing import Final

from flask import Blueprint, abort
from flask.typing import ResponseReturnValue

from cardsync.store.console import operations
from cardsync.web.console import keyset, regions, rendering
from cardsync.web.console.actions.endpoints import answer

blueprint: Final = Blueprint("operations", __name__)

PAGE: Final = 50
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
        refresh_seconds=REFRESH_SECONDS,
    )
