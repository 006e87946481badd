"""``believe_hint``: what one hint changes where Ottu offers no list (KSA), inside the transaction that settles it.

``core.believe`` decides. A hint that is believed changes the card and moves the agreement. A hint that is not believed changes
nothing that is known: its card is noted as ``unconfirmed``, it is counted by reason, and the payment that it names is to be asked
about (``stories.inquire``). What the inquiry endpoint answers comes back as a hint of its own, and is believed.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from cardsync.ciphers import KeyRing
from cardsync.core.believe import SUCCESS, Doubt, Said, doubt, named, plan
from cardsync.core.cards import CardFacts
from cardsync.core.diff import Plan, RemoteCard, Shown
from cardsync.store import agreements, cards, inbox, inquiries, known_agreements
from cardsync.store.inbox import NamedPayment, PendingHint

# Ottu's sessions are 40 hex characters. Others are taken too, as long as they cannot be anything but an identifier.
SESSION: Final = re.compile(r"[0-9A-Za-z_-]{1,128}")


@dataclass(frozen=True, slots=True)
class Heard:
    """What became of one hint; ``doubt`` is why it was not believed."""

    card_id: uuid.UUID
    doubt: Doubt | None


def take_hint(
    connection: Connection, customer: int, hint: PendingHint, fingerprint: bytes, ring: KeyRing, *, alone: bool
) -> Heard:
    """Believe the hint, or note its card as unconfirmed. The caller holds the customer, and those of ``agreements.holders``.

    ``alone``: the hint's signature came in no other body.
    """
    said = Said(
        order=hint.order,
        source=hint.scheme,
        vouched=hint.vouched,
        alone=alone,
        result=hint.result,
        agreement_id=hint.agreement_id,
        facts=hint.facts,
    )
    because = doubt(said)
    if because is None:
        return Heard(_believe(connection, customer, hint, fingerprint, ring, said), None)
    return Heard(_doubt(connection, customer, hint, fingerprint, ring), because)


def _believe(
    connection: Connection, customer: int, hint: PendingHint, fingerprint: bytes, ring: KeyRing, said: Said
) -> uuid.UUID:
    found = cards.known_to_hints(connection, customer, fingerprint)
    card_id, known = (None, None) if found is None else found
    links = agreements.links(connection, hint.environment, named(said))
    decided = plan(known, said, links)
    if decided is None:
        assert card_id is not None
        return card_id
    remote = RemoteCard(fingerprint, hint.token, decided.facts)
    if card_id is None or known is None:
        change = Plan(added=(remote,))
    else:
        change = Plan(
            shown=(
                Shown(
                    card_id=card_id,
                    remote=remote,
                    was=known.status,
                    revive=decided.revive,
                    changed=decided.changed,
                    answered=True,
                ),
            )
        )
    card_id = cards.apply(connection, customer, change, ring=ring, confirmed_at=None, cause="hint")[fingerprint]
    if decided.newest:
        cards.note_hint_applied(connection, card_id, said.order)
    agreements.move(connection, hint.environment, decided.takes, card_id=card_id, since=said.order)
    if hint.agreement_id is not None:
        at = hint.as_of or hint.received_at
        known_agreements.hear(
            connection,
            [known_agreements.Heard(customer, hint.environment, hint.agreement_id, hint.evidence_no, at, hint.terms)],
        )
    return card_id


def _doubt(connection: Connection, customer: int, hint: PendingHint, fingerprint: bytes, ring: KeyRing) -> uuid.UUID:
    remote = RemoteCard(fingerprint, hint.token, hint.facts.over(CardFacts(agreements=())))
    fresh = cards.keep_unconfirmed(
        connection, customer, remote, ring=ring, evidence_no=hint.evidence_no, received_at=hint.received_at
    )
    known = cards.find(connection, customer, fingerprint)
    assert known is not None
    # The result is signed under both schemes: a payment that did not succeed has nothing to tell that would be believed.
    if hint.scheme != "inquiry" and hint.result == SUCCESS:
        _ask(connection, hint.payment, fresh or (known.card_id if known.status == "unconfirmed" else None))
    return known.card_id


def ask_about(connection: Connection, event_id: uuid.UUID) -> None:
    """Want the payment asked about of a hint that could not be read, if it succeeded and names a session."""
    payment = inbox.payment_of(connection, event_id)
    if payment is not None and payment.result == SUCCESS:
        _ask(connection, payment, None)


def _ask(connection: Connection, payment: NamedPayment, card_id: uuid.UUID | None) -> None:
    if payment.session_id is not None and SESSION.fullmatch(payment.session_id):
        inquiries.want(
            connection,
            payment.session_id,
            heard_at=payment.heard_at,
            signature_hash=payment.signature_hash,
            vouched=payment.vouched,
            card_id=card_id,
        )
