"""A comment on every column of every view: what a service reads in SQL explains itself (``\\d+ registry.cards``).

Revision: 0026. Old code runs beside it: comments change nothing.
"""

from __future__ import annotations

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

CARD = {
    "card_id": "Our own identifier of the card. It stays the same when the card is removed and comes back.",
    "environment": "sandbox or production: Ottu's type.",
    "customer_id": "The merchant's own identifier of the customer, exactly as Ottu has it.",
    "status": "unconfirmed (a hint named it, no list has shown it), active, deleting (a deletion is under way) or removed.",
    "pg_code": "The code of the payment gateway that keeps the card.",
    "pg_name": "The name of that gateway.",
    "brand": "Such as VISA; NULL if Ottu does not say.",
    "number": "Masked.",
    "last4": "The last four digits that the mask shows.",
    "expiry_month": "Two digits, as Ottu has it.",
    "expiry_year": "Two digits, as Ottu has it.",
    "expires_on": "The last day on which the card is good; NULL if month or year cannot be read.",
    "is_expired": "That day is over, in the merchant's time zone, or Ottu says so.",
    "is_preferred": "The customer prefers this card.",
    "cvv_required": "The payer must enter the CVV; NULL if Ottu does not say.",
    "auto_debit": "Can be charged without the payer: cvv_required is false.",
    "agreements": "The ids of the agreements that Ottu names with the card.",
    "name_on_card": "As Ottu has it.",
    "first_seen_at": "When it was first heard of.",
    "confirmed_at": "When the list that showed it was asked for; NULL if none has.",
    "removed_at": "When it was removed; NULL while it is not.",
    "removed_because": "requested (by a deletion of ours) or absent (Ottu's list lacked it); NULL while it is not removed.",
}
VIEWS = {
    "cards": CARD,
    "active_cards": CARD,
    "expiring_cards": CARD,
    "card_tokens": {
        "card_id": "The card, as in registry.cards.",
        "token": "Ottu's token of the card: what it is charged with. Never log it.",
    },
    "agreement_cards": {
        "environment": "sandbox or production: Ottu's type.",
        "agreement_id": "The agreement's identifier, exactly as Ottu has it.",
        "card_id": "The active card that the agreement is charged to.",
    },
    "customers": {
        "environment": "sandbox or production: Ottu's type.",
        "customer_id": "The merchant's own identifier of the customer, exactly as Ottu has it.",
        "reconciled_at": "When the list that is believed was asked for; NULL if there is none.",
        "dirty_since": "Since when there is evidence that no believed list has answered; NULL if there is none.",
        "last_error": "Why the last list could not be had; NULL after one that could.",
    },
    "card_changes": {
        "seq": "Its number: without gaps, in commit order. Keep the last one that you handled.",
        "at": "When it was committed, nearly.",
        "card_id": "The card, as in registry.cards.",
        "environment": "sandbox or production: Ottu's type.",
        "customer_id": "The merchant's own identifier of the customer.",
        "change": "added, updated, deleting, restored, removed, returned, expiring or expired; a release may add some.",
        "fields": "Which columns of registry.cards are others; empty with added. With expiring: 60, 30 or 7, in days.",
        "cause": "Why we know: deletion, hint, read, retry, sweep, audit, repeat or calendar; a release may add some.",
    },
    "deletions": {
        "deletion_id": "Our own identifier of the deletion.",
        "card_id": "The card, as in registry.cards.",
        "environment": "sandbox or production: Ottu's type.",
        "customer_id": "The merchant's own identifier of the customer.",
        "status": "pending, in_progress, done (a list has proved it), blocked (Ottu refuses) or failed (given up).",
        "requested_by": "What the asker said of itself.",
        "reason": "In the asker's own words.",
        "requested_at": "When it was asked for.",
        "attempts": "Calls made to Ottu to delete it.",
        "next_attempt_at": "When Ottu is asked next, to delete or to list; NULL if it is not.",
        "finished_at": "When it was done, blocked or failed.",
        "error": "The last trouble, for people, without the token.",
        "when_unlocked": "It goes on by itself once the card is unlocked.",
        "asker": "What the database knows of the asker: api: and the owner of the key, or sql: and the login.",
        "code": "Why it does not go on, for programs: held, card_locked, gave_up, cancelled, cards_api_unavailable; else NULL.",
    },
}


def upgrade() -> None:
    for view, columns in VIEWS.items():
        for column, said in columns.items():
            quoted = said.replace("'", "''")
            op.execute(f"COMMENT ON COLUMN registry.{view}.{column} IS '{quoted}'")


def downgrade() -> None:
    for view, columns in VIEWS.items():
        for column in columns:
            op.execute(f"COMMENT ON COLUMN registry.{view}.{column} IS NULL")
