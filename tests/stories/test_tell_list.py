"""What one list has told in the log."""

from __future__ import annotations

import datetime as dt
import uuid

from structlog.testing import capture_logs

from cardsync.core import diff
from cardsync.store.customers import Ticket
from cardsync.stories.tell_list import TOLD_AT_MOST, tell


def test_a_list_that_contradicts_many_hints_names_a_few_and_says_how_many() -> None:
    dropped = tuple(uuid.uuid4() for _ in range(TOLD_AT_MOST + 5))
    asked_at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    ticket = Ticket(7, "sandbox", "cust-1", 3, asked_at, "hint", 0)
    with capture_logs() as lines:
        tell(ticket, diff.Plan(dropped=dropped), elsewhere=False, oddities=())
    (line,) = lines
    assert (line["event"], line["count"]) == ("suspicious_hint", TOLD_AT_MOST + 5)
    assert line["card_ids"] == [str(one) for one in dropped[:TOLD_AT_MOST]]
