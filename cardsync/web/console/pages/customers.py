"""A customer: cards in every state, how fresh they are and why a look is due, and one timeline."""

from __future__ import annotations

import datetime as dt
from typing import Final

from flask import Blueprint, abort, request
from flask.typing import ResponseReturnValue

from cardsync.core import verdict
from cardsync.store.console import customers, timeline
from cardsync.store.console.timeline import Place
from cardsync.web.console import regions, rendering

blueprint: Final = Blueprint("customers", __name__)

NUMBER_MAX: Final = 2**63 - 1


@blueprint.get("/customers/<int:customer>")
def show(customer: int) -> ResponseReturnValue:
    """One customer, by our own number."""
    personal = rendering.shows_personal_facts()
    found = regions.read(lambda connection: customers.show(connection, customer, personal=personal))
    if found.value is None:
        if found.missing is None:
            abort(404)
        return rendering.page("customer.html", status=503, number=customer, found=found, entries=None, why=())
    facts = found.value.facts
    after = _place()
    entries = regions.read(
        lambda connection: timeline.page(connection, customer, facts["environment"], facts["customer_id"], after=after)
    )
    why = (*verdict.why_due(facts), *verdict.of_customer(facts))
    return rendering.page(
        "customer.html", number=customer, found=found, entries=entries, why=why, is_first=after is None
    )


@blueprint.get("/customers/odd")
def odd() -> ResponseReturnValue:
    """Customers whose last list was odd, by our own number."""
    after = min(max(0, request.args.get("after", 0, type=int)), NUMBER_MAX)
    found = regions.read(lambda connection: customers.odd(connection, after=after))
    return rendering.page("odd_lists.html", found=found, page_size=customers.ODD_MAX, is_first=not after)


def _place() -> Place | None:
    """Where the asked page of the timeline begins."""
    try:
        at, source, ref = request.args.get("after", "").split("~")
        return Place(dt.datetime.fromisoformat(at), source, ref)
    except ValueError:
        return None


@blueprint.app_template_filter("place")
def place(after: Place) -> str:
    """A place as a URL has it: a time and ids of ours."""
    return f"{after.at.isoformat()}~{after.source}~{after.ref}"
