"""``carry_out``: one step of what an operator asked for in the console (``store.console.operations``), at each tick of the sweep.

Rules: the console may ask and not do, so this does it, with the functions that the command line uses. Whether the operator still
may is looked at before each step. What is done and its row in the journal are one transaction. A step that a crash cuts off is
begun again after its lease: each step guards its rows by their state, so that nothing is done twice. A bulk operation does
at most ``operations.AT_ONCE`` rows in a step, and a row that cannot be moved is listed with its reason and holds up no other.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog
from sqlalchemy import Connection, Engine

from cardsync.ciphers import KeyRing, sealed_answer
from cardsync.core import delivery
from cardsync.core.brake import Limits
from cardsync.core.delivery import KINDS
from cardsync.errors import MalformedBody, Refused, places
from cardsync.outgoing.addresses import require_url
from cardsync.store import inbox
from cardsync.store.console import customers, operations
from cardsync.store.console.operations import Claimed, Kind
from cardsync.store.deletions import askers, requests
from cardsync.store.deliveries import endpoints, listing
from cardsync.stories import endpoints as stories
from cardsync.stories import erase
from cardsync.stories.endpoints import NewEndpoint
from cardsync.stories.release_brake import release_brake
from cardsync.stories.try_endpoint import try_endpoint

log = structlog.get_logger(__name__)

NOT_NOW: Final = "its state does not allow it any more"
NO_BODY: Final = "its body is not kept any more"
STILL_HELD: Final = "more requests of this asker were held after the dry run: they wait, and new ones are held still"
MAY_NOT: Final = "the operator may not do this any more"
UNREADABLE: Final = "what it is about cannot be read"
UNKNOWN: Final = "this release knows no such operation"
WHYS: Final = frozenset(
    (NOT_NOW, NO_BODY, STILL_HELD, MAY_NOT, UNREADABLE, UNKNOWN)
)  # the console has them in all its languages


class _Cancelled(Exception):
    """The operator cancelled it during the step: the step is rolled back."""


def carry_out(engine: Engine, limits: Limits, ring: KeyRing) -> bool:
    """Carry out one step of the operation that waits longest; false if none waits. ``ring`` encrypts endpoints' secrets."""
    with engine.begin() as connection:
        claimed = operations.claim(connection)
    if claimed is None:
        return False
    try:
        if not claimed.may:
            _fail(engine, claimed, MAY_NOT)
        elif claimed.kind in _SINGLE:
            _one(engine, claimed, _SINGLE[claimed.kind])
        elif claimed.kind in _BULK:
            _step(engine, claimed, _BULK[claimed.kind])
        else:
            _whole(engine, claimed, limits, ring)
    except _Cancelled:
        log.info("operation_cancelled", operation_id=str(claimed.operation_id), kind=claimed.kind)
    except (Refused, MalformedBody, ValueError) as error:
        _fail(engine, claimed, str(error) if isinstance(error, Refused) else UNREADABLE)
    return True


def _fail(engine: Engine, claimed: Claimed, why: str) -> None:
    with engine.begin() as connection:
        operations.finish(connection, claimed, "failed", error=why)


def _end(claimed: Claimed, connection: Connection, did: object) -> None:
    """In the transaction of the action: its outcome, in the journal."""
    failures = [] if did else [{"ref": claimed.subject, "why": NOT_NOW}]
    if not operations.advance(connection, claimed, done=int(bool(did)), failures=failures):
        raise _Cancelled
    operations.finish(connection, claimed, "done" if did else "failed", error=None if did else NOT_NOW)


Single = Callable[[Connection, Claimed], bool]


def _cancel_deletion(connection: Connection, claimed: Claimed) -> bool:
    return requests.cancel(connection, uuid.UUID(claimed.subject), by=claimed.asker)


_SINGLE: Final[Mapping[Kind, Single]] = {
    "replay_event": lambda connection, claimed: inbox.replay(connection, uuid.UUID(claimed.subject)),
    "replay_deletion": lambda connection, claimed: requests.replay(connection, uuid.UUID(claimed.subject)),
    "cancel_deletion": _cancel_deletion,
    "enable_endpoint": lambda connection, claimed: endpoints.enable(connection, claimed.subject),
    "disable_endpoint": lambda connection, claimed: endpoints.disable(connection, claimed.subject),
    "remove_endpoint": lambda connection, claimed: endpoints.remove(connection, claimed.subject),
    "replay_delivery": lambda connection, claimed: listing.replay(connection, int(claimed.subject)),
}


def _one(engine: Engine, claimed: Claimed, act: Single) -> None:
    with engine.begin() as connection:
        _end(claimed, connection, act(connection, claimed))


def _why(did: bool) -> str | None:
    """Why a row was left as it is; ``None`` if it was not."""
    return None if did else NOT_NOW


def _replay_delivery(connection: Connection, delivery_id: int) -> str | None:
    if listing.replay(connection, delivery_id):
        return None
    found = listing.show(connection, delivery_id)
    return NOT_NOW if found is None or found["body_is_kept"] else NO_BODY


def _lift(connection: Connection, asker: str) -> tuple[bool, str | None]:
    """Take the asker's requests again, unless more were held since the dry run: whether it was done, and a remark if not."""
    lifted = askers.lift(connection, asker)
    return lifted, STILL_HELD if not lifted and askers.is_held(connection, asker) else None


@dataclass(frozen=True, slots=True)
class _Bulk:
    """How rows of a kind are moved, each with why it was not, and how many in one transaction.

    A deletion locks its customer, and two customers in one transaction would have to be locked in the order of all writers; a
    delivery locks its body, which others lock in another order.
    """

    move: Callable[[Connection, Claimed, Any], str | None]
    together: int


_BULK: Final[Mapping[Kind, _Bulk]] = {
    "replay_events": _Bulk(lambda connection, _, ref: _why(inbox.replay(connection, ref)), operations.AT_ONCE),
    "replay_deletions": _Bulk(lambda connection, _, ref: _why(requests.replay(connection, ref)), 1),
    "replay_deliveries": _Bulk(lambda connection, _, ref: _replay_delivery(connection, ref), 1),
    "release_deletions": _Bulk(
        lambda connection, claimed, ref: _why(askers.let_one_go(connection, ref, by=claimed.asker)), 1
    ),
}


def _step(engine: Engine, claimed: Claimed, bulk: _Bulk) -> None:
    """Move the next rows, each under its own guard, and note how far it is; at the end, finish."""
    with engine.begin() as connection:
        rows = operations.next_rows(connection, claimed)
    for first in range(0, len(rows), bulk.together):
        some = rows[first : first + bulk.together]
        with engine.begin() as connection:
            outcomes = [(row.named, bulk.move(connection, claimed, row.ref)) for row in some]
            failures = [{"ref": str(named), "why": why} for named, why in outcomes if why is not None]
            done = len(some) - len(failures)
            if not operations.advance(connection, claimed, done=done, failures=failures, place=some[-1]):
                raise _Cancelled
    if len(rows) < operations.AT_ONCE:
        _end_of_all(engine, claimed)


def _end_of_all(engine: Engine, claimed: Claimed) -> None:
    """Finish a bulk operation. Only now is an asker released: one whose release is cancelled stays held."""
    lifted, remark = False, None
    with engine.begin() as connection:
        if claimed.kind == "release_deletions":
            lifted, remark = _lift(connection, claimed.subject)
        if not operations.finish(connection, claimed, "done", error=remark):
            raise _Cancelled
    if lifted:
        log.warning("deletions_held_ended", asker=claimed.subject)


def _whole(engine: Engine, claimed: Claimed, limits: Limits, ring: KeyRing) -> None:
    """What is a story of its own: its first transaction writes the outcome too."""
    end = partial(_end, claimed)
    match claimed.kind:
        case "add_endpoint" | "rotate_endpoint":
            _with_a_secret(engine, claimed, ring)
        case "test_endpoint":
            # Ten seconds at most; the sweep's tick, whose thread this is, does not wait for it.
            threading.Thread(target=_try, args=(engine, claimed, ring), name="try endpoint", daemon=True).start()
        case "release_brake":
            release_brake(engine, limits, accept=int(claimed.filter.get("accept", 0)), noted=end)
        case "erase":
            with engine.connect() as connection:
                customer_id = customers.customer_id_of(connection, int(claimed.subject))
            wish = erase.Wish(customer_id, claimed.asker, claimed.reason, asker=claimed.asker)
            erase.begin(engine, wish, noted=end)
        case _:
            _fail(engine, claimed, UNKNOWN)


def _with_a_secret(engine: Engine, claimed: Claimed, ring: KeyRing) -> None:
    """Make an endpoint, or its new secret, and leave that for the session that asked, which alone can open it."""
    address = str(claimed.filter.get("answer_to"))

    def noted(connection: Connection, secret: str) -> None:
        operations.answer(connection, claimed, sealed_answer(address, secret))
        _end(claimed, connection, True)

    if claimed.kind == "rotate_endpoint":
        stories.rotate(engine, claimed.subject, ring, noted=noted)
        return
    url, kind = str(claimed.filter.get("url")), claimed.filter.get("kind")
    require_url(url)
    if kind not in KINDS:
        raise Refused("there is no such kind of endpoint")
    stories.add(engine, NewEndpoint(claimed.subject, url, kind), ring, noted=noted)


def _try(engine: Engine, claimed: Claimed, ring: KeyRing) -> None:
    """Send the endpoint a test, and note how it answered. On a thread of its own, whose border this is."""
    try:
        ended = try_endpoint(engine, claimed.subject, ring)
        if delivery.verdict(ended.status) == "delivered":
            with engine.begin() as connection:
                _end(claimed, connection, True)
        else:
            _fail(engine, claimed, f"it did not take it: {ended.error or f'answered {ended.status}'}")
    except Refused as error:
        _fail(engine, claimed, str(error))
    except _Cancelled:
        log.info("operation_cancelled", operation_id=str(claimed.operation_id), kind=claimed.kind)
    except Exception as error:  # noqa: BLE001  (the thread's border)
        log.error("endpoint_not_tried", error=type(error).__name__, places=places(error))
