"""The brakes: on removals, with the customers that it holds; and on requests for deletions, with their askers."""

from __future__ import annotations

from typing import Final

from flask import Blueprint
from flask.typing import ResponseReturnValue

from cardsync.core.brake import Limits
from cardsync.store import brake
from cardsync.store.deletions import askers
from cardsync.web.console import regions, rendering
from cardsync.web.console.site import Site

blueprint: Final = Blueprint("brake", __name__)


@blueprint.get("/brake")
def show() -> ResponseReturnValue:
    """Both brakes."""
    settings = Site.here().settings
    limits = Limits(settings.removal_brake_share, settings.removal_brake_floor)
    state = regions.read(lambda connection: brake.state(connection, limits))
    held = regions.read(askers.held)
    return rendering.page(
        "brake.html", state=state, held=held, shown_max=brake.SHOWN_MAX, counted_max=askers.COUNTED_MAX
    )
