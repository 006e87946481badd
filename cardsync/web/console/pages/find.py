"""Find: one box for any id. It posts, so that what is typed stands in no URL, no log and no history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from flask import Blueprint, redirect, request, url_for
from flask.typing import ResponseReturnValue

from cardsync.core.card_numbers import looks_like_full_number
from cardsync.store.console import find as store
from cardsync.store.console.find import Found, Kind
from cardsync.web.console import regions, rendering

blueprint: Final = Blueprint("find", __name__)

LONGEST: Final = 255  # characters: more than any id of Ottu's or ours

_PAGES: Final[Mapping[Kind, tuple[str, str]]] = {
    "customer": ("customers.show", "customer"),
    "card": ("cards.show", "card_id"),
    "event": ("notifications.show_one", "event_id"),
    "deletion": ("deletions.show_one", "deletion_id"),
    "erasure": ("deletions.show_erasure", "erasure_id"),
}


@blueprint.get("/find")
def show() -> ResponseReturnValue:
    """The box."""
    return rendering.page("find.html", found=None, refused=None)


@blueprint.post("/find")
def search() -> ResponseReturnValue:
    """Find exactly what was typed; one thing found leads straight there.

    A token is refused, and not shown again. It looks like a card number, and so may a customer's id that is a long number: that
    is found if there is such a customer.
    """
    said = request.form.get("said", "").strip()
    if not said or len(said) > LONGEST or "\x00" in said:
        return rendering.page("find.html", status=400, found=None, refused="length")
    found = regions.read(lambda connection: store.find(connection, said))
    if found.value is not None and len(found.value) == 1:
        return redirect(address(found.value[0]), code=303)
    if not found.value and looks_like_full_number(said):
        return rendering.page("find.html", status=400, found=None, refused="token")
    return rendering.page("find.html", found=found, refused=None)


def address(found: Found) -> str:
    """Where a thing that was found is shown."""
    endpoint, name = _PAGES[found.kind]
    return url_for(endpoint, **{name: found.ref})  # type: ignore[arg-type]


blueprint.add_app_template_global(address, "address_of")
