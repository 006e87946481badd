"""Notifications: a list by state, one with how it was passed on, and the dry run of replaying all that match."""

from __future__ import annotations

import uuid
from typing import Final

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue

from cardsync.store.console import lists
from cardsync.web.console import keyset, regions, rendering
from cardsync.web.console.pages.operations import dry_run

blueprint: Final = Blueprint("notifications", __name__)


def filters() -> dict[str, str | None]:
    """What is asked for: an environment, and an error as it stands in the list."""
    environment = request.values.get("environment")
    return {
        "environment": environment if environment in ("production", "sandbox") else None,
        "error": request.values.get("error") or None,
    }


@blueprint.get("/notifications")
def show() -> ResponseReturnValue:
    """The newest notifications, all of them or those in one state; those that wait by when they are due."""
    status, chosen, after = request.args.get("status"), filters(), keyset.asked()
    if status != "failed":
        chosen["error"] = None  # what did not fail has none to be alike in
    page = regions.read(lambda connection: lists.notifications(connection, status=status, after=after, **chosen))
    return rendering.page(
        "notifications.html",
        page=page,
        state=status if status in lists.EVENT_STATES else None,
        states=lists.EVENT_STATES,
        chosen=chosen,
        is_first=after is None,
    )


@blueprint.get("/notifications/<uuid:event_id>")
def show_one(event_id: uuid.UUID) -> ResponseReturnValue:
    """One notification."""
    found = regions.read(lambda connection: lists.notification(connection, event_id))
    if found.value is None and found.missing is None:
        abort(404)
    return rendering.page("notification.html", status=200 if found.value else 503, event_id=event_id, found=found)


@blueprint.get("/notifications/replay-all")
def replay_all() -> ResponseReturnValue:
    """The dry run: how many match now, what they would cost, and the form that asks for it."""
    return dry_run("replay_events", filters(), back=url_for("notifications.show", status="failed"))
