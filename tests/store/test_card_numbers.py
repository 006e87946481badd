"""What SQL takes for a full card number is what ``core.card_numbers`` does, so that a request in SQL holds none."""

from __future__ import annotations

import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from cardsync.core.card_numbers import looks_like_full_number
from tests.factories import CustomerFactory, make_card

TEXTS = (
    "4111111111111111",
    "4111 1111 1111 1111",
    "4111,1111,1111,1111",
    "4111:1111:1111:1111",
    "4111\u20131111\u20131111\u20131111",  # en dashes
    "4111_1111_1111_1111",
    "4111\u200b1111\u200b1111\u200b1111",  # spaces of no width
    "\u0664\u0661\u0661\u0661 \u0661\u0661\u0661\u0661 \u0661\u0661\u0661\u0661",
    "४१११-११११-११११-११११",
    "\uff14\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11",  # full width
    "billing, card 4111/1111/1111",
    "billing",
    "order 20261126-0001",
    "**** 0008",
    "411111****1111 0008",
    "4111 11## #### 1111",
    "1234567890",
    "call 965 2222 333",
    "a1b2c3d4e5f6g7h8i9j0k1",
    "",
)


@pytest.mark.parametrize("said", TEXTS)
def test_the_database_and_core_agree(engine: Engine, said: str) -> None:
    with engine.connect() as connection:
        found = connection.execute(text("SELECT cardsync.shows_card_number(:said)"), {"said": said}).scalar_one()
    assert found is looks_like_full_number(said)


def test_a_request_in_sql_may_hold_none_whatever_parts_its_digits(engine: Engine) -> None:
    card = make_card(CustomerFactory())
    ask = text("SELECT registry.request_deletion(:card, :who, 'key-1')")
    with pytest.raises(DBAPIError) as refused, engine.begin() as connection:
        connection.execute(ask, {"card": card.card_id, "who": "4111,1111,1111,1111"})
    assert isinstance(refused.value.orig, psycopg.errors.InvalidParameterValue)
    with engine.begin() as connection:
        assert connection.execute(ask, {"card": card.card_id, "who": "billing, order 20261126"}).scalar_one()
