"""What operators do with all calls to Ottu: pause them, and let them go on.

Both want a typed word. Resuming also wants a new sign-in, since it lets deletions go on that somebody stopped; a pause is wanted
in a hurry, and resuming undoes all of it. The database asks for the same (migration 0035).
"""

from __future__ import annotations

from typing import Final

from flask import Blueprint, request
from flask.typing import ResponseReturnValue
from sqlalchemy import Connection
from werkzeug.exceptions import BadRequest

from cardsync.store.calls.gate import Turn
from cardsync.store.console import actions
from cardsync.stories.counted_calls import log_turn
from cardsync.web.console.actions.forms import act, carry_out, reason

blueprint: Final = Blueprint("call_actions", __name__)


@blueprint.post("/calls/pause")
def pause() -> ResponseReturnValue:
    """Let no process call Ottu from now on."""
    _require_word("PAUSE")
    who, why = act(), reason()

    def do(connection: Connection) -> None:
        if actions.pause_calls(connection, who, reason=why):
            log_turn(Turn("operator", began=True))

    return carry_out(do, done="pause_calls", endpoint="calls.show")


@blueprint.post("/calls/resume")
def resume() -> ResponseReturnValue:
    """Let calls go on."""
    _require_word("RESUME")
    who, why = act(), reason()

    def do(connection: Connection) -> None:
        if actions.resume_calls(connection, who, reason=why):
            log_turn(Turn("operator", began=False))

    return carry_out(do, done="resume_calls", endpoint="calls.show")


def _require_word(word: str) -> None:
    if request.form.get("word", "").strip() != word:
        raise BadRequest
