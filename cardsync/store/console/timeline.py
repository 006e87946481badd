"""One timeline of a customer: notifications, lists, changes, steps of deletions, deliveries, and what operators did,
the newest first.

Pages go by a keyset: the moment, then the source, then the id, so that no entry is shown twice or left out. The entries of one
customer are sorted as a whole, by the customer's own index: tens as a rule. The statement's time-out bounds the rare one with
many thousands.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, text

Source = Literal["notification", "list", "change", "deletion", "delivery", "action"]
PAGE: Final = 50


@dataclass(frozen=True, slots=True)
class Place:
    """Where the next page begins: after this entry."""

    at: dt.datetime
    source: str
    ref: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. ``state`` is its outcome; ``card_id`` the card that it is about, if it is about one."""

    at: dt.datetime
    source: Source
    ref: str
    state: str
    card_id: uuid.UUID | None
    facts: Mapping[str, Any]


def _part(source: str, at: str, ref: str, rest: str) -> str:
    """One source's newest entries after the place."""
    return f"""(
        SELECT {at} AS at, '{source}' COLLATE "C" AS source, {ref} COLLATE "C" AS ref, {rest}
          AND ({at}, '{source}' COLLATE "C", {ref} COLLATE "C") < (cast(:at AS timestamptz), :source, :ref)
        ORDER BY 1 DESC, 3 DESC LIMIT :limit
    )"""


_PARTS: Final = (
    _part(
        "notification",
        "e.received_at",
        "e.event_id::text",
        """e.status AS state, e.card_id, jsonb_build_object(
            'kind', e.kind, 'result', e.result, 'state', e.state, 'payment_type', e.payment_type, 'repeated', e.repeated,
            'ignored_because', e.ignored_because, 'last_error', e.last_error, 'attempts', e.attempts
        ) AS facts
        FROM cardsync.events AS e WHERE e.environment = :environment AND e.customer_id = :customer_id""",
    ),
    _part(
        "list",
        "o.asked_at",
        "lpad(o.observation_no::text, 20, '0')",
        """o.outcome, NULL::uuid, jsonb_build_object(
            'lane', o.lane, 'listed', o.listed, 'changed', o.changed, 'removed', o.removed, 'suspicious', o.suspicious,
            'calls', o.calls
        )
        FROM cardsync.observations AS o WHERE o.customer = :customer""",
    ),
    _part(
        "change",
        "f.at",
        "lpad(f.seq::text, 20, '0')",
        """f.change, f.card_id, jsonb_build_object('cause', f.cause, 'fields', f.fields, 'seq', f.seq)
        FROM cardsync.card_changes AS f WHERE f.customer = :customer""",
    ),
    _part(
        "deletion",
        "s.at",
        "lpad(s.step_id::text, 20, '0')",
        """s.step, d.card_id, jsonb_build_object('deletion_id', d.deletion_id, 'detail', s.detail)
        FROM cardsync.deletions AS d JOIN cardsync.deletion_steps AS s USING (deletion_id) WHERE d.customer = :customer""",
    ),
    _part(
        "delivery",
        "d.made_at",
        "lpad(d.delivery_id::text, 20, '0')",
        """d.status, NULL::uuid, jsonb_build_object(
            'endpoint', p.name, 'event_id', d.event_id, 'attempts', d.attempts, 'last_status', d.last_status,
            'last_error', d.last_error
        )
        FROM cardsync.events AS e JOIN cardsync.deliveries AS d USING (event_id)
        JOIN cardsync.endpoints AS p ON p.endpoint_id = d.endpoint_id
        WHERE e.environment = :environment AND e.customer_id = :customer_id""",
    ),
    _part(
        "action",
        "a.at",
        "lpad(a.action_id::text, 20, '0')",
        """a.action, NULL::uuid, jsonb_build_object('actor', a.actor, 'reason', a.reason)
        FROM cardsync.operator_actions AS a WHERE a.kind = 'customer' AND a.subject = :subject""",
    ),
)
_PAGE = text(f"SELECT * FROM ({' UNION ALL '.join(_PARTS)}) AS t ORDER BY at DESC, source DESC, ref DESC LIMIT :limit")


@dataclass(frozen=True, slots=True)
class Page:
    """Entries, and where the next page begins; ``None`` at the end."""

    entries: tuple[Entry, ...]
    after: Place | None


def page(connection: Connection, customer: int, environment: str, customer_id: str, *, after: Place | None) -> Page:
    """The newest entries after a place."""
    parameters = {
        "customer": customer,
        "subject": str(customer),
        "environment": environment,
        "customer_id": customer_id,
        "at": "infinity" if after is None else after.at,
        "source": "" if after is None else after.source,
        "ref": "" if after is None else after.ref,
        "limit": PAGE + 1,
    }
    entries = tuple(Entry(*row) for row in connection.execute(_PAGE, parameters))
    last = entries[PAGE - 1] if len(entries) > PAGE else None
    return Page(entries[:PAGE], None if last is None else Place(last.at, last.source, last.ref))
