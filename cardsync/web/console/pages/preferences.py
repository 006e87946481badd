"""What a viewer prefers: language, time zone, colours, refreshing, keys."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, Response, redirect, request, url_for
from flask.typing import ResponseReturnValue

from cardsync.web.console import preferences, rendering

blueprint: Final = Blueprint("preferences", __name__)


@blueprint.get("/preferences")
def show() -> ResponseReturnValue:
    """The choices, and the keys of the keyboard."""
    return rendering.page(
        "preferences.html",
        zones=preferences.zones(),
        themes=preferences.THEMES,
        refreshes=preferences.REFRESHES,
        keys=preferences.KEYS,
    )


@blueprint.post("/preferences")
def change() -> ResponseReturnValue:
    """Keep the choices in this browser."""
    response = redirect(url_for("preferences.show", done="preferences"), code=303)
    assert isinstance(response, Response)
    given = {name: request.form.get(name, "") for name in preferences.NAMES}
    preferences.keep(response, preferences.chosen(given))
    return response
