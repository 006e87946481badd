"""Pages of lists: a filter that few rows fit costs no more than another, says where it ended, and loses nothing."""

from __future__ import annotations

import datetime as dt

import pytest

from cardsync.store.console import lists, paging
from tests.factories import EventFactory
from tests.store.console.test_lists import MOMENT, walked

SOME = [
    {"status": None, "environment": "sandbox", "error": None},
    {"status": "failed", "environment": "sandbox", "error": None},
    {"status": "failed", "environment": "sandbox", "error": "boom"},
    {"status": "failed", "environment": None, "error": "boom"},
    {"status": "pending", "environment": None, "error": None},
    {"status": "pending", "environment": "sandbox", "error": None},
    {"status": "ignored", "environment": "sandbox", "error": None},
    {"status": "done", "environment": None, "error": None},
    {"status": "done", "environment": "sandbox", "error": None},
]


@pytest.mark.parametrize("chosen", SOME, ids=str)
def test_pages_of_a_filter_that_few_rows_fit_are_bounded_and_lose_nothing(engine, monkeypatch, chosen):
    monkeypatch.setattr(paging, "PAGE", 2)
    monkeypatch.setattr(paging, "LOOKED_AT_MAX", 3)
    expected = set()
    for n in range(60):
        status = ("failed", "pending", "ignored", "done")[n % 4]
        # Rows that fit are rare and together, so that whole pages have none.
        environment, error = ("sandbox", "boom") if 20 <= n < 32 else ("production", "other")
        made = EventFactory(
            status=status,
            environment=environment,
            received_at=MOMENT + dt.timedelta(minutes=n // 3),
            due_at=MOMENT - dt.timedelta(minutes=n // 3),
            last_error=error if status == "failed" else None,
            ignored_because="x" if status == "ignored" else None,
            settled=status in ("ignored", "done"),
        )
        said = {"status": status, "environment": environment, "error": error}
        if all(wanted in (None, said[name]) for name, wanted in chosen.items()):
            expected.add(made.event_id)
    pages = []

    def read(connection, after):
        pages.append(lists.notifications(connection, **chosen, after=after))
        return pages[-1]

    found = walked(engine, read)
    assert sorted(found) == sorted(expected)
    moments = [row["due_at" if chosen["status"] == "pending" else "at"] for page in pages for row in page.rows]
    assert moments == sorted(moments, reverse=chosen["status"] != "pending")
    assert all(len(page.rows) <= 2 for page in pages)
    assert all(page.looked_at == 3 and page.after for page in pages if page.looked_at is not None)
    is_exact = chosen["error"] or chosen == {"status": "pending", "environment": None, "error": None}
    assert any(page.looked_at for page in pages) is not bool(is_exact), "a page that ended early says so"
