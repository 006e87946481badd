"""Asking for operations: each leads to the page of its progress. What changes much wants a typed word and a new sign-in."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from typing import Any, Final

from flask import Blueprint, redirect, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest

from cardsync.errors import Refused
from cardsync.store.console import operations
from cardsync.store.console.operations import Kind
from cardsync.web.console.actions.forms import act, carry_out, reason, refused
from cardsync.web.console.site import Site

blueprint: Final = Blueprint("operation_actions", __name__)

SUBJECT_MAX: Final = 200  # characters of a name

WORDS: Final = {
    "replay_events": "REPLAY",
    "replay_deletions": "REPLAY",
    "release_brake": "RELEASE",
    "release_deletions": "RELEASE",
    "replay_deliveries": "REPLAY",
    "rotate_endpoint": "ROTATE",
    "remove_endpoint": "REMOVE",
    "erase": "ERASE",
}


def ask(kind: Kind, subject: str, *, filter_: dict[str, Any] | None = None, expected: int = 1) -> ResponseReturnValue:
    """Ask for an operation, and lead to its page. Raises ``BadRequest`` if the word that was typed is another one."""
    if kind in WORDS and request.form.get("word", "").strip() != WORDS[kind]:
        raise BadRequest
    who, why = act(), reason()
    try:
        with Site.here().engine.connect() as connection:
            asked = operations.ask(connection, who, kind, subject, filter_=filter_, expected=expected, reason=why)
    except Refused as error:
        return refused(error)
    return redirect(url_for("operations.show_one", operation_id=asked), code=303)


@blueprint.post("/notifications/<uuid:event_id>/replay")
def replay_event(event_id: uuid.UUID) -> ResponseReturnValue:
    """Open a failed notification again."""
    return ask("replay_event", str(event_id))


@blueprint.post("/notifications/replay-all")
def replay_events() -> ResponseReturnValue:
    """Open all failed notifications again that matched at the dry run."""
    return _bulk("replay_events")


@blueprint.post("/deletions/<uuid:deletion_id>/replay")
def replay_deletion(deletion_id: uuid.UUID) -> ResponseReturnValue:
    """Open a failed or blocked deletion again."""
    return ask("replay_deletion", str(deletion_id))


@blueprint.post("/deletions/<uuid:deletion_id>/cancel")
def cancel_deletion(deletion_id: uuid.UUID) -> ResponseReturnValue:
    """End a deletion for which nothing was called."""
    return ask("cancel_deletion", str(deletion_id))


@blueprint.post("/deletions/replay-all")
def replay_deletions() -> ResponseReturnValue:
    """Open all deletions again that matched at the dry run."""
    return _bulk("replay_deletions")


@blueprint.post("/deliveries/replay-all")
def replay_deliveries() -> ResponseReturnValue:
    """Send an endpoint's failed deliveries again that matched at the dry run, as far as their bodies are kept."""
    return _bulk("replay_deliveries", of="endpoint")


@blueprint.post("/brake/requests/release-all")
def release_deletions() -> ResponseReturnValue:
    """Let one asker's held requests go on that matched at the dry run."""
    return _bulk("release_deletions", of="asker")


def _bulk(kind: Kind, *, of: str | None = None) -> ResponseReturnValue:
    """The filter is what the dry run showed, as its form carries it; the database reads it as values alone.
    Its moment is bounded by the database's own, so that no form means what fails later.

    ``of`` is the fact that names whose rows these are: one operation of a kind is under way for each.
    """
    try:
        given = json.loads(request.form.get("filter", ""))
        filter_ = {name: None if given.get(name) is None else str(given[name]) for name in operations.FILTERS[kind]}
        until = dt.datetime.fromisoformat(filter_["until"] or "")
        if until.tzinfo is None:
            raise BadRequest
        until = until.astimezone(dt.UTC)
    except (ValueError, AttributeError, OverflowError):
        raise BadRequest from None
    subject = "all" if of is None else filter_[of]
    if subject is None or not 0 < len(subject) <= SUBJECT_MAX:
        raise BadRequest
    with Site.here().engine.connect() as connection:
        filter_ = operations.frozen(connection, filter_, until=until)
        expected = operations.cost(connection, kind, filter_).matching
    return ask(kind, subject, filter_=filter_, expected=expected)


@blueprint.post("/customers/<int:customer>/erase")
def erase(customer: int) -> ResponseReturnValue:
    """Erase a person."""
    return ask("erase", str(customer))


@blueprint.post("/brake/release")
def release_brake() -> ResponseReturnValue:
    """Let removals go on, watched."""
    accept = request.form.get("accept", 0, type=int)
    return ask("release_brake", "removals", filter_={"accept": min(max(0, accept), 1_000_000)})


@blueprint.post("/operations/<uuid:operation_id>/cancel")
def cancel(operation_id: uuid.UUID) -> ResponseReturnValue:
    """Stop an operation after the step that is under way."""
    who = act()
    return carry_out(
        lambda connection: operations.cancel(connection, who, operation_id),
        done="cancel",
        endpoint="operations.show_one",
        operation_id=operation_id,
    )
