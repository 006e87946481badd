"""The console's pages: each module reads what its template shows, a region at a time, and decides nothing."""

from typing import Final

from cardsync.web.console.pages import (
    access,
    audit,
    brake,
    calls,
    cards,
    customers,
    deletions,
    find,
    flows,
    issuer,
    notifications,
    now,
    operations,
    preferences,
    sign_in,
)

PAGES: Final = (
    sign_in.blueprint,
    issuer.blueprint,
    preferences.blueprint,
    now.blueprint,
    find.blueprint,
    customers.blueprint,
    cards.blueprint,
    notifications.blueprint,
    deletions.blueprint,
    calls.blueprint,
    brake.blueprint,
    flows.blueprint,
    operations.blueprint,
    access.blueprint,
    audit.blueprint,
)
