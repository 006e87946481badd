"""Lists a customer's cards, deletes one, and follows the feed until it says so; with a client that openapi-python-client made.

Arguments: address, key, environment, customer, card. Prints one JSON object. Run beside the client's package, by its Python.
"""

from __future__ import annotations

import json
import sys
import uuid

from cardsync_client.api.cards import get_card, list_cards, list_changes
from cardsync_client.api.deletions import get_deletion, request_deletion
from cardsync_client.client import AuthenticatedClient
from cardsync_client.models import (
    CardList,
    ChangePage,
    Deletion,
    DeletionByCard,
    DeletionReceipt,
    Environment,
    ProblemDetails,
)


def main(address: str, key: str, environment: str, customer_id: str, card: str) -> None:
    """Do it all."""
    client = AuthenticatedClient(base_url=address, token=key)
    card_id = uuid.UUID(card)

    listed = list_cards.sync(client=client, environment=Environment(environment), customer_id=customer_id)
    assert isinstance(listed, CardList), listed

    wrong = get_card.sync(uuid.UUID(int=1), client=client)
    assert isinstance(wrong, ProblemDetails), wrong

    once = f"delete-{card}"
    asked = request_deletion.sync(client=client, body=DeletionByCard(card_id=card_id), idempotency_key=once)
    assert isinstance(asked, Deletion), asked
    again = request_deletion.sync_detailed(client=client, body=DeletionByCard(card_id=card_id), idempotency_key=once)

    seen: list[str] = []
    after = 0
    while "removed" not in seen:
        page = list_changes.sync(client=client, after=after, wait=5)
        assert isinstance(page, ChangePage), page
        seen += [str(one.change) for one in page.changes if one.card_id == card_id]
        after = page.next_after

    done = get_deletion.sync(asked.deletion_id, client=client)
    assert isinstance(done, DeletionReceipt), done
    said = {
        "cards": [str(one.card_id) for one in listed.cards],
        "code": wrong.code,
        "seen": seen,
        "replayed": again.headers.get("Idempotent-Replayed"),
        "status": str(done.status),
    }
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
