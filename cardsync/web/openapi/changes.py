"""The description of the feed over HTTP."""

from __future__ import annotations

from cardsync.web.api import change_schemas
from cardsync.web.openapi.parts import Document, json_answer, operation, problems, query_parameters


def paths() -> Document:
    """The operations, by path."""
    return {"/v1/changes": {"get": _changes()}}


def _changes() -> Document:
    about = (
        "The feed of changes after a number, in commit order and without gaps. With `wait` the answer comes as soon as there is "
        "a change, or empty when the seconds are over. A caller that asks again with `next_after` misses none. 410 says "
        "that a backup was restored since: `epoch` and `after` name where the feed goes on."
    )
    return operation(
        "listChanges",
        "Cards",
        "Changes of cards",
        about,
        scopes=("cards:read",),
        parameters=query_parameters(change_schemas.ChangesQuery),
        responses={200: json_answer("ChangePage", "Changes, or none.")} | problems(401, 403, 410, 422, 429, 503),
    )
