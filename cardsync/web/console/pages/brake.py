"""The brakes: on removals, with the customers that it holds; and on requests for deletions, with their askers."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue

from cardsync.core.brake import Limits
from cardsync.store import brake
from cardsync.store.console.operations import COUNTED_MAX
from cardsync.store.deletions import askers
from cardsync.web.console import regions, rendering
from cardsync.web.console.actions.operations import SUBJECT_MAX
from cardsync.web.console.pages.operations import dry_run
from cardsync.web.console.site import Site

blueprint: Final = Blueprint("brake", __name__)


@blueprint.get("/brake")
def show() -> ResponseReturnValue:
    """Both brakes."""
    settings = Site.here().settings
    limits = Limits(settings.removal_brake_share, settings.removal_brake_floor)
    state = regions.read(lambda connection: brake.state(connection, limits, counted_max=COUNTED_MAX))
    held = regions.read(lambda connection: askers.held(connection, counted_max=COUNTED_MAX))
    return rendering.page("brake.html", state=state, held=held, shown_max=brake.SHOWN_MAX, counted_max=COUNTED_MAX)


@blueprint.get("/brake/requests/release-all")
def release_all() -> ResponseReturnValue:
    """The dry run of releasing an asker's held requests."""
    asker = request.args.get("asker", "")
    if not 0 < len(asker) <= SUBJECT_MAX:
        abort(404)
    return dry_run("release_deletions", {"asker": asker}, back=url_for("brake.show"))
