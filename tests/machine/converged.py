"""When all is quiet: the registry is Ottu's truth, and nothing is open. Raises ``AssertionError``, and shows no token."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from sqlalchemy import Connection, text

from cardsync.core.cards import CardFacts, Environment, read_card
from tests.machine.invariants import Owner, Snapshot
from tests.machine.receipts import check_settled

_FACTS: Final = tuple(f.name for f in fields(CardFacts))


def check_converged(connection: Connection, truth: Mapping[Owner, Iterable[Mapping[str, Any]]]) -> None:
    """When all is quiet: the registry is Ottu's truth for every customer it knows, and nothing is open.

    ``truth`` holds the cards of each customer as Ottu lists them; a customer who is not in it has none.
    """
    now = Snapshot.of(connection)
    assert all(e.status in ("done", "ignored") for e in now.events), "hints are still open"
    assert not any(c.status == "unconfirmed" or c.awaited_no for c in now.cards), "cards are still waited for"
    check_settled(connection, now)
    known = _known_cards(connection)
    agreements: dict[tuple[Environment, str], str] = {}
    for customer in _rows(connection, "SELECT * FROM registry.customers"):
        owner = (customer.environment, customer.customer_id)
        assert customer.dirty_since is None, f"{owner} may still differ"
        assert customer.reconciled_at is not None, f"{owner} was never looked at"
        listed = [dict(card) for card in truth.get(owner, ())]
        expected = {card["token"]: _shown_as(card) for card in listed}
        assert known.pop(owner, {}) == expected, f"the registry differs from Ottu for {owner}"
        agreements |= {(owner[0], a): card["token"] for card in listed for a in card["agreements"]}
    assert not known, f"cards of customers that are not known: {list(known)}"
    linked = _rows(
        connection,
        """SELECT a.environment, a.agreement_id, t.token
           FROM registry.agreement_cards AS a JOIN registry.card_tokens AS t USING (card_id)""",
    )
    assert {(r.environment, r.agreement_id): r.token for r in linked} == agreements, "agreements differ from Ottu's"


_SERVED: Final = (*_FACTS, "last4", "expires_on", "auto_debit")


def _known_cards(connection: Connection) -> dict[Owner, dict[str, dict[str, Any]]]:
    """What the registry shows, by customer and token."""
    rows = _rows(
        connection,
        """SELECT c.*, p.token FROM registry.cards AS c JOIN cardsync.cards AS p USING (card_id)
           WHERE c.status IN ('active', 'deleting')""",
    )
    known: dict[Owner, dict[str, dict[str, Any]]] = {}
    for r in rows:
        known.setdefault((r.environment, r.customer_id), {})[r.token] = {n: getattr(r, n) for n in _SERVED}
    return known


def _shown_as(listed: dict[str, Any]) -> dict[str, Any]:
    """What the registry must show of a card that Ottu lists like this."""
    facts = read_card(listed).facts
    last_day = facts.expires_on
    over = last_day is not None and last_day < dt.datetime.now(dt.UTC).date()
    return {
        **{name: getattr(facts, name) for name in _FACTS},
        "is_expired": bool(facts.is_expired) or over,
        "is_preferred": bool(facts.is_preferred),
        "agreements": list(facts.agreements or ()),
        "last4": facts.last4,
        "expires_on": last_day,
        "auto_debit": facts.cvv_required is False,
    }


def _rows(connection: Connection, statement: str) -> Sequence[Any]:
    return connection.execute(text(statement)).all()
