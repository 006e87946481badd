"""What an operator does with a card."""

from __future__ import annotations

import uuid
from typing import Final

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from cardsync.store.console import actions
from cardsync.web.console.actions.forms import act, carry_out, reason

blueprint: Final = Blueprint("card_actions", __name__)


@blueprint.post("/cards/<uuid:card_id>/deletions")
def request_deletion(card_id: uuid.UUID) -> ResponseReturnValue:
    """Ask for the card's deletion."""
    who, why, later = act(), reason(), request.form.get("when_unlocked") == "yes"
    return carry_out(
        lambda connection: actions.request_deletion(connection, who, card_id, reason=why, when_unlocked=later),
        done="request_deletion",
        endpoint="cards.show",
        card_id=card_id,
    )
