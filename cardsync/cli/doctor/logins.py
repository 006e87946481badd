"""What ``cardsync doctor`` checks of other logins on the same PostgreSQL: what they may do, and what they hold up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Engine

from cardsync.cli.doctor.check import Check
from cardsync.store.access import public, roles
from cardsync.store.ops import gauges, server

# From half on no bell of ours is rung (migration 0020). A healthy server's queue is empty nearly always.
QUEUE_WARNING: Final = 0.1
QUEUE_FAILED: Final = 0.5
PREPARED_SECONDS: Final = 300.0  # a transaction manager commits within seconds


def roles_are_there(engine: Engine, prefix: str) -> Check:
    """Whether the server has our roles, with their rights: in no dump of the database are roles."""
    with engine.connect() as connection:
        if missing := roles.missing(connection, prefix):
            found = f"the server lacks {', '.join(missing)}, as after a restore into a fresh server"
            return Check("roles", "failed", found, "cardsync db upgrade makes them, and grants again")
        lacking = roles.lacking(connection, prefix)
        settings = roles.lacking_settings(connection, prefix)
        strangers = roles.strangers(connection, prefix)
    if lacking:
        found = f"{len(lacking)} rights are not granted, among them {lacking[0]}"
        return Check("roles", "failed", found, "cardsync db upgrade grants them again")
    if settings:
        found = f"{len(settings)} settings of roles and logins are not as they must be, among them {settings[0]}"
        advice = "cardsync db upgrade with --web-login, --worker-login and --console-login sets them again"
        return Check("roles", "warning", found, advice)
    if strangers:
        found = f"others may come into the schemas: {', '.join(strangers)}"
        advice = "once no login of this deployment is a member: REVOKE ALL ON SCHEMA cardsync, registry FROM each"
        return Check("roles", "warning", found, advice)
    return Check("roles", "ok", "the server has them, with their rights and settings")


def checks(engine: Engine) -> Iterator[Check]:
    """The server's queue of notifications, transactions that were prepared and forgotten, and what every login may do."""
    with engine.connect() as connection:
        usage = gauges.notification_queue_usage(connection)
        prepared = server.prepared_transactions(connection, older_than_seconds=PREPARED_SECONDS)
        still_open = public.open_to_all(connection)
    yield notifications(usage)
    if prepared:
        advice = "they hold locks and hold back vacuum: look into pg_prepared_xacts, and COMMIT or ROLLBACK PREPARED"
        yield Check("prepared", "warning", f"{prepared} transactions were prepared minutes ago and not ended", advice)
    if still_open:
        found = f"every login of the server may {', '.join(still_open)}"
        yield Check("logins", "warning", found, "cardsync db close; docs/deployment.md says what it takes away")
    else:
        yield Check("logins", "ok", "only those that were granted something can use this database")


def notifications(usage: float) -> Check:
    """How full the server's queue of notifications is: a listener in a long transaction stops it from being emptied."""
    found = f"the server's queue of notifications is {usage * 100:.0f} % full"
    if usage <= QUEUE_WARNING:
        return Check("notifications", "ok", found)
    advice = "end the session that listens in a long transaction: PostgreSQL's log names its process"
    if usage <= QUEUE_FAILED:
        return Check("notifications", "warning", found, advice)
    return Check("notifications", "failed", f"{found}: no bell is rung, and other programs' NOTIFYs may fail", advice)
