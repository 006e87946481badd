"""Access: operators of the console, and keys of the API."""

from __future__ import annotations

from typing import Final

from flask import Blueprint
from flask.typing import ResponseReturnValue

from cardsync.store.access import keys
from cardsync.store.console import operators
from cardsync.web.console import regions, rendering

blueprint: Final = Blueprint("access", __name__)


@blueprint.get("/access")
def show() -> ResponseReturnValue:
    """Who may use the console, and which services the API."""
    return rendering.page(
        "access.html",
        operators_=regions.read(operators.listing),
        keys=regions.read(keys.listing),
        roles=operators.ROLES,
        scopes=keys.SCOPES,
    )
