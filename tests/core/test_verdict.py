"""Why a card is as it is, in sentences."""

from __future__ import annotations

import datetime as dt

import pytest

from cardsync.core import verdict

MOMENT = dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC)
CUSTOMER = {
    "reconciled_at": MOMENT,
    "dirty_since": None,
    "due_at": None,
    "lane": None,
    "failures": 0,
    "last_error": None,
    "removals_held": False,
    "list_oddities": [],
}
CARD = {
    "status": "active",
    "confirmed_at": MOMENT,
    "awaited_at": MOMENT,
    "removed_at": MOMENT,
    "removed_because": None,
    "agreements": [],
}


def said(card=(), customer=(), **given):
    facts = verdict.of_card({**CARD, **dict(card)}, {**CUSTOMER, **dict(customer)}, **given)
    return " ".join(one.in_english(lambda value: f"<{value}>") for one in facts)


@pytest.mark.parametrize(
    ("card", "customer", "begins"),
    [
        ({}, {}, "Active since <2026"),
        ({}, {"reconciled_at": None}, "Active: a verified notification says so"),
        ({"status": "unconfirmed"}, {}, "Unconfirmed: a hint of <2026-01-02 03:04:00+00:00> named it. No key vouched"),
        (
            {"status": "unconfirmed"},
            {"due_at": MOMENT},
            "Unconfirmed: a hint of <2026-01-02 03:04:00+00:00> named it, no list",
        ),
        ({"status": "deleting"}, {}, "Deleting: a deletion was asked for"),
        (
            {"status": "removed", "removed_because": "requested"},
            {},
            "Removed at <2026-01-02 03:04:00+00:00>: it was asked for",
        ),
        (
            {"status": "removed", "removed_because": "absent"},
            {},
            "Removed at <2026-01-02 03:04:00+00:00>: a complete list",
        ),
    ],
)
def test_the_status_has_its_evidence(card, customer, begins):
    assert said(card, customer).startswith(begins)


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        ("pending", None, "waits for its call"),
        ("pending", "held", "holds its deletion"),
        ("in_progress", None, "is under way"),
        ("blocked", "HTTP 403", "Ottu refused its deletion of <x> (<HTTP 403>)"),
        ("failed", "cancelled", "was cancelled"),
        ("failed", "gave up", "can be replayed"),
    ],
)
def test_the_newest_deletion_is_told_of(status, error, words):
    deletions = [
        {"requested_at": "x", "status": status, "error": error},
        {"requested_at": "y", "status": "failed", "error": "z"},
    ]
    text = said(deletions=deletions)
    assert words in text
    assert "<y>" not in text


def test_a_deletion_that_is_done_is_told_by_the_card_s_own_status():
    assert "deletion" not in said(deletions=[{"requested_at": "x", "status": "done", "error": None}])


def test_what_locks_a_card_and_what_its_customer_waits_for_is_said():
    text = said(
        {"agreements": ["a-1"]},
        {"dirty_since": MOMENT, "removals_held": True, "list_oddities": ["owner_case"]},
        open_hints=2,
    )
    for words in (
        "Ottu refuses to delete it",
        "may differ from Ottu",
        "brake holds",
        "list was odd",
        "<2> hints are still open",
    ):
        assert words in text


def test_why_a_look_is_due_is_said():
    customer = {**CUSTOMER, "due_at": MOMENT, "lane": "hint", "failures": 2, "last_error": "503"}
    text = " ".join(one.in_english(str) for one in verdict.why_due(customer))
    assert "a notification named it" in text
    assert "The last 2 looks failed: 503." in text
    assert "No list was ever believed" in verdict.why_due({**CUSTOMER, "reconciled_at": None})[0].text
