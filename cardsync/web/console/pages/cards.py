"""A card: why it has its status, in sentences, with its deletions and what locks it."""

from __future__ import annotations

import uuid
from typing import Final

from flask import Blueprint, abort
from flask.typing import ResponseReturnValue

from cardsync.core import verdict
from cardsync.store.console import cards
from cardsync.web.console import regions, rendering

blueprint: Final = Blueprint("cards", __name__)


@blueprint.get("/cards/<uuid:card_id>")
def show(card_id: uuid.UUID) -> ResponseReturnValue:
    """One card."""
    personal = rendering.shows_personal_facts()
    found = regions.read(lambda connection: cards.show(connection, card_id, personal=personal))
    if found.value is None and found.missing is None:
        abort(404)
    card = found.value
    sentences = [] if card is None else verdict.of_card(card.facts, card.customer, deletions=card.deletions)
    status = 200 if card is not None else 503
    return rendering.page("card.html", status=status, card_id=card_id, found=found, sentences=sentences)
