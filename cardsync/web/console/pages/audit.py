"""The journal: what operators did."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, abort, request
from flask.typing import ResponseReturnValue

from cardsync.store.console import journal
from cardsync.web.console import regions, rendering

blueprint: Final = Blueprint("audit", __name__)

PAGE: Final = 50


@blueprint.get("/audit")
def show() -> ResponseReturnValue:
    """The newest actions, or those before one."""
    before = request.args.get("before", type=int)
    if before is not None and not 0 < before <= journal.NEWEST:
        abort(404)
    entries = regions.read(lambda connection: journal.page(connection, before=before, limit=PAGE))
    return rendering.page("audit.html", entries=entries, page_size=PAGE, is_first=before is None)
