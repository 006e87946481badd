"""What flows in and out: the feed, endpoints and deliveries, imports and full resyncs."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue

from cardsync.store.console import lists
from cardsync.store.deliveries import endpoints
from cardsync.web.console import keyset, regions, rendering
from cardsync.web.console.pages.operations import dry_run

blueprint: Final = Blueprint("flows", __name__)


@blueprint.get("/feed")
def feed() -> ResponseReturnValue:
    """The newest changes."""
    before = request.args.get("before", type=int)
    if before is not None and not 0 < before <= lists.NEWEST:
        abort(404)
    found = regions.read(lambda connection: lists.feed(connection, before=before))
    return rendering.page("feed.html", found=found, is_first=before is None, page_size=lists.PAGE)


@blueprint.get("/endpoints")
def show_endpoints() -> ResponseReturnValue:
    """All endpoints, and how far each is."""
    return rendering.page("endpoints.html", found=regions.read(endpoints.listing), counted_max=endpoints.COUNTED_MAX)


@blueprint.get("/deliveries")
def show_deliveries() -> ResponseReturnValue:
    """The deliveries of one endpoint in a state; without an endpoint, which ones there are."""
    endpoint, status, after = request.args.get("name"), request.args.get("status", "pending"), keyset.asked()
    if status not in lists.DELIVERY_STATES:
        abort(404)
    known = regions.read(endpoints.listing)
    page = (
        None
        if endpoint is None
        else regions.read(
            lambda connection: lists.deliveries(connection, endpoint=endpoint, status=status, after=after)
        )
    )
    return rendering.page(
        "deliveries.html",
        known=known,
        page=page,
        endpoint=endpoint,
        state=status,
        states=lists.DELIVERY_STATES,
        is_first=after is None,
    )


@blueprint.get("/deliveries/replay-all")
def replay_all() -> ResponseReturnValue:
    """The dry run of sending an endpoint's failed deliveries again."""
    name = request.args.get("name", "")
    if not 0 < len(name) <= endpoints.NAME_MAX:
        abort(404)
    back = url_for("flows.show_deliveries", name=name, status="failed")
    return dry_run("replay_deliveries", {"endpoint": name}, back=back)


@blueprint.get("/imports")
def imports() -> ResponseReturnValue:
    """Imports under way, and full resyncs."""
    return rendering.page("imports.html", found=regions.read(lists.runs))


@blueprint.app_template_filter("where")
def where(url: str) -> str:
    """Where an endpoint is, without what an address may carry beside that: credentials, or a key in its query."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"
