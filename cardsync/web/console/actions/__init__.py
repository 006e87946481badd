"""The console's actions: each a form that posts, one function of the database, and the page where it came from."""

from typing import Final

from cardsync.web.console.actions import access, calls, cards, customers, endpoints, operations

ACTIONS: Final = (
    customers.blueprint,
    cards.blueprint,
    operations.blueprint,
    calls.blueprint,
    endpoints.blueprint,
    access.blueprint,
)
