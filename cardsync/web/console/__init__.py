"""The operators' console: a web application of its own for people, server-rendered, usable without JavaScript.

Rules:

- Each route has its role in ``roles.ROUTES``; a route without one answers with 403. The role is checked again where an action
  is carried out, in the database.
- It writes through ``store/console/`` alone, whose functions know by the session's secret who acts and write the journal.
- A page costs at most five statements. A read that takes over a second leaves its region empty, with a word why; the rest stands.
- No token is read: the database's login cannot. Names and masked numbers are for ``support`` and above.
- No customer id, name or number stands in a URL or a log line. No inline script or style, and nothing from elsewhere.

A page is a module in ``pages/`` with its template, and a line in ``roles.ROUTES``; an action is a module in ``actions/``.
"""

from cardsync.web.console.app import create_app

__all__ = ["create_app"]
