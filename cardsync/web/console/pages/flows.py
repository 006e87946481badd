"""What flows in and out: the feed, endpoints and deliveries, imports and full resyncs."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue

from cardsync import spool
from cardsync.spool import names
from cardsync.store.console import lists
from cardsync.store.console.operations import COUNTED_MAX
from cardsync.store.deliveries import endpoints
from cardsync.web.console import keyset, regions, rendering
from cardsync.web.console.pages.operations import dry_run
from cardsync.web.console.site import Site

blueprint: Final = Blueprint("flows", __name__)

FILES_MAX: Final = 100


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
    found = regions.read(lambda connection: endpoints.listing(connection, counted_max=COUNTED_MAX))
    return rendering.page("endpoints.html", found=found, counted_max=COUNTED_MAX)


@blueprint.get("/deliveries")
def show_deliveries() -> ResponseReturnValue:
    """The deliveries of one endpoint in a state; without an endpoint, which ones there are."""
    endpoint, status, after = request.args.get("name"), request.args.get("status", "pending"), keyset.asked()
    if status not in lists.DELIVERY_STATES:
        abort(404)
    known = regions.read(endpoints.names)
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


@dataclass(frozen=True, slots=True)
class SetAside:
    """A file of the spool that was set aside, by what its name says: the console opens none."""

    file_id: str
    reason: str
    written_at: dt.datetime


def set_aside(data_dir: Path) -> list[SetAside]:
    """The files of the spool in this data folder that are set aside, the oldest first; none where there is no spool."""
    try:
        found = sorted(file for file in (data_dir / spool.FOLDER).iterdir() if file.name.endswith(names.BAD))
    except OSError:
        return []
    return [
        SetAside(file.name.removesuffix(names.BAD), names.reason_of(file.name), names.written_at(file))
        for file in found
    ]


@blueprint.get("/spool")
def show_spool() -> ResponseReturnValue:
    """Notifications that were set aside on this host's disk."""
    found = set_aside(Site.here().settings.data_dir)
    return rendering.page("spool.html", files=found[:FILES_MAX], count=len(found))


@blueprint.app_template_filter("where")
def where(url: str) -> str:
    """Where an endpoint is, without what an address may carry beside that: credentials, or a key in its query."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"
