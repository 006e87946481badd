"""Operations: what an operator asked for and a worker carries out. What "all N matching" means, counted, priced and walked.

The filter is frozen at the dry run, with the database's moment: what fails or is held later is not meant. A notification fails
at its ``due_at`` (``store.inbox.postpone``), a deletion and a delivery at their ``finished_at``. A bulk operation walks its rows
by the partial index of failures, or of what is held, by a keyset, ``AT_ONCE`` in a step, so that it can be watched and cancelled.
Counts stop at ``COUNTED_MAX``. Before each step it is looked at again whether the operator may.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Literal, get_args

from sqlalchemy import Connection, TextClause, text

from cardsync import db
from cardsync.store.console.actions import Act, carry_out
from cardsync.store.console.operators import Role, may
from cardsync.store.deletions.askers import WAITS

Kind = Literal[
    "replay_event",
    "replay_deletion",
    "cancel_deletion",
    "replay_events",
    "replay_deletions",
    "release_brake",
    "release_deletions",
    "enable_endpoint",
    "disable_endpoint",
    "test_endpoint",
    "replay_delivery",
    "replay_deliveries",
    "add_endpoint",
    "rotate_endpoint",
    "remove_endpoint",
    "erase",
]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
# As ``cardsync.operation_role`` and ``cardsync.operation_wants`` have it, which decide; a test compares them.
FOR_ADMINS: Final[frozenset[Kind]] = frozenset(("erase", "add_endpoint", "rotate_endpoint", "remove_endpoint"))
ROLES: Final[Mapping[Kind, Role]] = {kind: "admin" if kind in FOR_ADMINS else "operator" for kind in KINDS}
WANT_A_NEW_SIGN_IN: Final[frozenset[Kind]] = FOR_ADMINS | frozenset(
    ("replay_events", "replay_deletions", "replay_deliveries", "release_brake", "release_deletions")
)

AT_ONCE: Final = 100
COUNTED_MAX: Final = 10_000  # beyond it a count says "10,000+"
FAILURES_MAX: Final = 100  # that are kept with their reasons
LEASE_SECONDS: Final = 60.0  # a worker that dies in a step leaves it to another one after that


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation as its page shows it."""

    operation_id: uuid.UUID
    kind: Kind
    subject: str
    filter: Mapping[str, Any]
    status: str
    actor: str
    reason: str | None
    asked_at: dt.datetime
    expected: int
    done: int
    failed: int
    failures: tuple[Mapping[str, Any], ...]
    finished_at: dt.datetime | None
    error: str | None
    answer: str | None = field(repr=False)


_COLUMNS: Final = """
    operation_id, kind, subject, filter, status, actor, reason, asked_at, expected, done, failed, failures, finished_at, error,
    answer
"""
_SHOW = text(f"SELECT {_COLUMNS} FROM cardsync.operations WHERE operation_id = :operation_id")
_LIST = text(f"""
    SELECT {_COLUMNS} FROM cardsync.operations
    WHERE (asked_at, operation_id) < (cast(:at AS timestamptz), cast(:ref AS uuid))
    ORDER BY asked_at DESC, operation_id DESC LIMIT :limit
""")


def show(connection: Connection, operation_id: uuid.UUID) -> Operation | None:
    """One operation."""
    row = connection.execute(_SHOW, {"operation_id": operation_id}).one_or_none()
    return None if row is None else Operation(**{**row._asdict(), "failures": tuple(row.failures)})


def listing(
    connection: Connection, *, before: tuple[dt.datetime, uuid.UUID] | None = None, limit: int
) -> list[Operation]:
    """The newest operations before one."""
    at, ref = before or ("infinity", _NIL)
    rows = connection.execute(_LIST, {"at": at, "ref": ref, "limit": limit})
    return [Operation(**{**row._asdict(), "failures": tuple(row.failures)}) for row in rows]


_ASK = text("""
    SELECT cardsync.console_ask_operation(
        :secret, :kind, :subject, cast(:filter AS jsonb), :expected, :reason, :came_from, :key
    )
""")


def ask(
    connection: Connection,
    act: Act,
    kind: Kind,
    subject: str,
    *,
    filter_: Mapping[str, Any] | None = None,
    expected: int = 1,
    reason: str | None = None,
) -> uuid.UUID:
    """Ask for an operation; a worker begins within a second. Raises ``Conflict`` if one of its kind is under way on it."""
    what = {
        "kind": kind,
        "subject": subject,
        "filter": json.dumps(filter_ or {}),
        "expected": expected,
        "reason": reason,
    }
    operation_id: uuid.UUID = carry_out(connection, _ASK, act, **what)
    return operation_id


_CANCEL = text("SELECT cardsync.console_cancel_operation(:secret, :operation_id, :came_from, :key)")


def cancel(connection: Connection, act: Act, operation_id: uuid.UUID) -> bool:
    """Let an operation stop after the step that is under way. Raises ``Conflict`` if it has ended."""
    cancelled: bool = carry_out(connection, _CANCEL, act, operation_id=operation_id)
    return cancelled


# What a bulk operation's filter names. The rest of a form is left out.
FILTERS: Final[Mapping[Kind, tuple[str, ...]]] = {
    "replay_events": ("until", "environment", "error"),
    "replay_deletions": ("until", "phase", "error"),
    "replay_deliveries": ("until", "endpoint"),
    "release_deletions": ("until", "asker"),
}
# What a filter matches. A statement names no value that is not given (an index is of no use to "not given, or equal"), and goes
# in the order of an index that holds nothing else: or PostgreSQL, which expects to come upon enough rows soon, reads a table from
# its beginning, and what failed or is held is at its end.
_EVENTS: Final = "FROM cardsync.events AS e WHERE e.status = 'failed' AND e.due_at <= cast(:until AS timestamptz)"
_GIVEN: Final[Mapping[str, str]] = {"environment": "e.environment = :environment", "error": "e.last_error = :error"}
_DELETIONS: Final = """
    FROM cardsync.deletions AS d
    WHERE d.phase = '{phase}' AND d.error IS DISTINCT FROM 'cancelled' AND d.finished_at <= cast(:until AS timestamptz)
"""
_PHASES: Final = ("blocked", "failed")
_DELIVERIES: Final = """
    FROM cardsync.deliveries AS d
    WHERE d.endpoint_id = (SELECT endpoint_id FROM cardsync.endpoints WHERE name = :endpoint AND status <> 'removed')
      AND d.status = 'failed' AND d.finished_at <= cast(:until AS timestamptz)
"""
# From one asker to the same one: with "equal" other indexes have the same order, of rows that are not held too.
_HELD: Final = f"""
    FROM cardsync.deletions AS d
    WHERE {WAITS} AND d.asker BETWEEN :asker AND :asker AND d.requested_at <= cast(:until AS timestamptz)
"""


@dataclass(frozen=True, slots=True)
class _Which:
    """The statements of one filter: how many match, of how many customers, up to ``COUNTED_MAX``; and the next ones."""

    count: TextClause
    next: TextClause


@cache
def _events(*given: str) -> _Which:
    """An index has all that is counted. It goes by the environment, then the error: where only the error is given, both
    environments are named."""
    which = " AND ".join([_EVENTS, *(_GIVEN[name] for name in given)])
    counted = f"{which} ORDER BY e.environment, e.last_error"
    if given == ("error",):
        counted = f"{which} AND e.environment IN ('production', 'sandbox')"
    return _Which(
        text(f"""
            SELECT count(*) AS matching, count(DISTINCT (environment, customer_id)) AS customers
            FROM (SELECT e.environment, e.customer_id {counted} LIMIT {COUNTED_MAX}) AS counted
        """),
        text(f"""
            SELECT e.received_at AS at, e.event_id AS ref, e.event_id AS named {which}
              AND (e.received_at, e.event_id) > (cast(:at AS timestamptz), cast(:ref AS uuid))
            ORDER BY e.received_at, e.event_id LIMIT {AT_ONCE}
        """),
    )


def _count_deletions(which: str) -> TextClause:
    return text(f"""
        SELECT count(*) AS matching, count(DISTINCT customer) AS customers
        FROM (SELECT d.customer {which} LIMIT {COUNTED_MAX}) AS counted
    """)


@cache
def _deletions(phase: str, *given: str) -> _Which:
    which = _DELETIONS.format(phase=phase) + (" AND d.error = :error" if "error" in given else "")
    order = "ORDER BY d.finished_at, d.deletion_id"
    return _Which(
        _count_deletions(f"{which} {order}"),
        text(f"""
            SELECT d.finished_at AS at, d.deletion_id AS ref, d.deletion_id AS named {which}
              AND (d.finished_at, d.deletion_id) > (cast(:at AS timestamptz), cast(:ref AS uuid))
            {order} LIMIT {AT_ONCE}
        """),
    )


_NONE: Final = _Which(
    text("SELECT 0 AS matching, 0 AS customers"),
    text("SELECT now() AS at, gen_random_uuid() AS ref, gen_random_uuid() AS named WHERE false"),
)
_OTHERS: Final[Mapping[Kind, _Which]] = {
    "replay_deliveries": _Which(
        text(f"""
            SELECT count(*) AS matching, 0 AS customers
            FROM (SELECT {_DELIVERIES} ORDER BY d.made_at, d.event_id LIMIT {COUNTED_MAX}) AS counted
        """),
        text(f"""
            SELECT d.made_at AS at, d.delivery_id AS ref, d.event_id AS named {_DELIVERIES}
              AND d.delivery_id > cast(:ref AS bigint)
            ORDER BY d.delivery_id LIMIT {AT_ONCE}
        """),
    ),
    "release_deletions": _Which(
        _count_deletions(f"{_HELD} ORDER BY d.asker, d.requested_at, d.deletion_id"),
        text(f"""
            SELECT d.requested_at AS at, d.deletion_id AS ref, d.deletion_id AS named {_HELD}
              AND d.deletion_id > cast(:ref AS uuid)
            ORDER BY d.asker, d.deletion_id LIMIT {AT_ONCE}
        """),
    ),
}


def _which(kind: Kind, filter_: Mapping[str, Any]) -> _Which:
    """The statements of a filter, by which of its values are given."""
    given = tuple(name for name in _GIVEN if filter_.get(name) is not None)
    if kind == "replay_events":
        return _events(*given)
    if kind == "replay_deletions":
        phase = filter_.get("phase")
        return _deletions(phase, *given) if phase in _PHASES else _NONE
    return _OTHERS[kind]


_NIL: Final = str(uuid.UUID(int=0))


def frozen(connection: Connection, chosen: Mapping[str, Any], *, until: dt.datetime | None = None) -> dict[str, Any]:
    """The filter with its moment: the database's own, now, or an earlier one that a dry run noted. Never the host's."""
    now = db.moment(connection)
    return {**chosen, "until": (now if until is None else min(until, now)).isoformat()}


@dataclass(frozen=True, slots=True)
class Cost:
    """A dry run: how many rows match now, and how many calls to Ottu they lead to at least; up to ``COUNTED_MAX`` rows."""

    matching: int
    calls: int


def cost(connection: Connection, kind: Kind, filter_: Mapping[str, Any]) -> Cost:
    """What carrying it out would cost. A customer's hints share a list; a deletion is a call of its own, and a list proves it.

    A delivery is a message to an endpoint: it costs no call.
    """
    statement = _which(kind, filter_).count
    row = connection.execute(statement, _parameters(statement, filter_)).one()
    deletes = kind in ("replay_deletions", "release_deletions")
    return Cost(row.matching, row.matching * deletes + row.customers)


def _parameters(statement: TextClause, given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given.get(name) for name in statement.compile().params}


@dataclass(frozen=True, slots=True)
class Matched:
    """A row that a bulk operation is about: its place, and the notification or deletion that names it to people."""

    at: dt.datetime
    ref: uuid.UUID | int
    named: uuid.UUID


@dataclass(frozen=True, slots=True)
class Claimed:
    """An operation that this worker carries out now."""

    operation_id: uuid.UUID
    kind: Kind
    subject: str
    filter: Mapping[str, Any]
    actor: str
    reason: str | None
    place: Mapping[str, Any] | None
    may: bool

    @property
    def asker(self) -> str:
        """Whose idempotency keys and deletions these are."""
        return f"console:{self.actor}"


_CLAIM = text("""
    UPDATE cardsync.operations AS o SET claimed_until = clock_timestamp() + make_interval(secs => :lease)
    FROM cardsync.operators AS p
    WHERE o.operation_id = (
        SELECT operation_id FROM cardsync.operations
        WHERE status = 'running' AND (claimed_until IS NULL OR claimed_until <= clock_timestamp())
        ORDER BY asked_at LIMIT 1 FOR UPDATE SKIP LOCKED
    ) AND p.operator_id = o.operator_id
    RETURNING o.operation_id, o.kind, o.subject, o.filter, o.actor, o.reason, o.place, p.role, p.disabled_at IS NULL AS enabled
""")


def claim(connection: Connection) -> Claimed | None:
    """Take the oldest operation that waits; ``None`` if there is none. ``may``: the operator still may."""
    row = connection.execute(_CLAIM, {"lease": LEASE_SECONDS}).one_or_none()
    if row is None:
        return None
    allowed = row.enabled and row.kind in ROLES and may(row.role, ROLES[row.kind])
    return Claimed(row.operation_id, row.kind, row.subject, row.filter, row.actor, row.reason, row.place, allowed)


def next_rows(connection: Connection, claimed: Claimed) -> list[Matched]:
    """The next rows of a bulk operation, after its place."""
    before_all = {"at": "-infinity", "ref": "0" if claimed.kind == "replay_deliveries" else _NIL}
    place = claimed.place or before_all
    statement = _which(claimed.kind, claimed.filter).next
    parameters = _parameters(statement, {**claimed.filter, "at": place["at"], "ref": place["ref"]})
    return [Matched(*row) for row in connection.execute(statement, parameters)]


_ADVANCE = text(f"""
    UPDATE cardsync.operations
    SET done = done + :done, failed = failed + :failed, claimed_until = NULL, place = cast(:place AS jsonb),
        failures = failures || CASE WHEN jsonb_array_length(failures) < {FAILURES_MAX} THEN cast(:failures AS jsonb) ELSE '[]' END
    WHERE operation_id = :operation_id AND status = 'running'
""")


def advance(
    connection: Connection,
    claimed: Claimed,
    *,
    done: int,
    failures: Sequence[Mapping[str, str]] = (),
    place: Matched | None = None,
) -> bool:
    """Note a step's outcome; false if the operation was cancelled meanwhile, and then its caller rolls the step back."""
    at = None if place is None else {"at": place.at.isoformat(), "ref": str(place.ref)}
    parameters = {
        "operation_id": claimed.operation_id,
        "done": done,
        "failed": len(failures),
        "failures": json.dumps(list(failures)),
        "place": json.dumps(at if at is not None else claimed.place),
    }
    return connection.execute(_ADVANCE, parameters).rowcount == 1


_ANSWER = text("UPDATE cardsync.operations SET answer = :answer WHERE operation_id = :operation_id")


def answer(connection: Connection, claimed: Claimed, sealed: str) -> None:
    """Keep what only the session that asked can open (``ciphers.sealed_answer``)."""
    connection.execute(_ANSWER, {"operation_id": claimed.operation_id, "answer": sealed})


_FINISH = text("SELECT cardsync.finish_operation(:operation_id, :status, :error)")


def finish(
    connection: Connection, claimed: Claimed, status: Literal["done", "failed"], *, error: str | None = None
) -> bool:
    """End it, and write the outcome to the journal; false if it was cancelled meanwhile."""
    parameters = {"operation_id": claimed.operation_id, "status": status, "error": error}
    ended: bool = connection.execute(_FINISH, parameters).scalar_one()
    return ended
