"""From actions, hints and changes to lines: what is told, when, and as what."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from cardsync.dev.live.feed import Change, Look, News
from cardsync.dev.live.journal import FAILURES_EVERY_SECONDS, FORGET_SECONDS, OPEN_MAX, SLOW_SECONDS, Journal, Line
from cardsync.dev.simulator.delivery import Delivery
from cardsync.dev.simulator.shoppers import ShopperEvent
from cardsync.store.calls.gate import GateState

WHO = ("sandbox", "shopper-0001")
START = 1_000.0


def action(what: str, number: int = 1, at: float = START, *, notified: bool = True) -> ShopperEvent:
    return ShopperEvent(
        number=number,
        environment="sandbox",
        customer_id=WHO[1],
        action=what,
        card="card-0001",
        session_id="s",
        notified=notified,
        at=at,
        delivery=Future(),
    )


def delivery(outcome: Any = "delivered", answer: str | None = "accepted", status: int | None = 200) -> Delivery:
    return Delivery(1, "given", outcome, status, 1, 0.004, False, answer=answer)


def change(kind: str = "added", at: float = START + 0.084, **other: Any) -> Change:
    values = {"seq": 1, "fields": (), "cause": "hint", "hinted_at": None, **other}
    return Change(environment="sandbox", customer_id=WHO[1], at=at, change=kind, **values)


def look(outcome: str = "unchanged", at: float = START + 0.06, **other: Any) -> Look:
    values = {"number": 7, "suspicious": 0, "settled": True, **other}
    return Look(
        environment="sandbox", customer_id=WHO[1], outcome=outcome, asked_at=at - 0.01, finished_at=at, **values
    )


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


@pytest.fixture
def journal() -> Journal:
    return Journal()


def test_a_saved_card_is_one_line_with_the_time_it_took(journal: Journal) -> None:
    assert journal.acted(action("saved a card")) == []
    assert journal.delivered(1, delivery(), START + 0.004) == []
    (line,) = journal.changed([change()])
    assert line == Line(START + 0.084, WHO, "saved a card → hint accepted → card active, 84 ms", "good")
    assert journal.looked([look("changed")]) == []


def test_a_payment_that_changes_nothing_is_told_once_a_list_has_answered_it(journal: Journal) -> None:
    journal.acted(action("paid with a saved card"))
    assert journal.looked([look(at=START - 1)]) == []
    journal.delivered(1, delivery(), START + 0.004)
    told = texts(journal.looked([look()]))
    assert told == ["paid with a saved card → hint accepted → nothing new, 60 ms"]
    assert journal.looked([look()]) == []


def test_an_action_without_notification_is_told_at_once_and_when_it_is_found(journal: Journal) -> None:
    told = texts(journal.acted(action("deleted a card, unseen", notified=False)))
    assert told == ["deleted a card in Ottu's own checkout, which sends no notification"]
    found = texts(journal.changed([change("removed", START + 17.25, cause="sweep")]))
    assert found == ["deleted a card without notification → card removed, found by a sweep after 17.2 s"]


@pytest.mark.parametrize(
    ("ended", "told"),
    [
        (delivery(answer="ignored"), "failed to pay → hint ignored, it names no card, 4 ms"),
        (delivery(answer="duplicate"), "failed to pay → hint known already, 4 ms"),
        (
            delivery("refused", None, 503),
            "failed to pay → hint refused with status 503; Ottu does not send it again",
        ),
        (delivery("timed_out", None, None), "failed to pay → hint not answered in time; Ottu does not send it again"),
    ],
)
def test_a_hint_that_leads_nowhere_says_so(journal: Journal, ended: Delivery, told: str) -> None:
    journal.acted(action("failed to pay"))
    assert texts(journal.delivered(1, ended, START)) == [told]
    assert journal.delivered(1, ended, START) == []


def test_a_card_whose_hint_was_lost_is_still_told_when_it_is_found(journal: Journal) -> None:
    journal.acted(action("saved a card"))
    journal.delivered(1, delivery("unreachable", None, None), START)
    found = texts(journal.changed([change(at=START + 9, cause="sweep")]))
    assert found == ["saved a card → card active, found by a sweep after 9.0 s"]


def test_a_card_that_the_list_does_not_show_yet_is_said_once_and_waited_for(journal: Journal) -> None:
    journal.acted(action("saved a card"))
    journal.delivered(1, delivery(), START)
    assert journal.looked([look(settled=False)]) == []
    assert journal.tick(START + SLOW_SECONDS - 1) == []
    assert texts(journal.tick(START + SLOW_SECONDS + 1)) == ["saved a card → hint accepted → not in Ottu's list yet"]
    assert journal.tick(START + SLOW_SECONDS + 2) == []
    (line,) = journal.changed([change(at=START + 12)])
    assert line.text == "saved a card → hint accepted → card active, 12.0 s"


def test_two_saved_cards_found_together_are_two_lines_and_the_rest_is_named(journal: Journal) -> None:
    journal.acted(action("saved a card", 1))
    journal.acted(action("saved a card", 2))
    told = texts(journal.changed([change("updated"), change(), change()]))
    assert [t.partition(",")[0] for t in told] == ["saved a card → card active"] * 2
    assert told[1].endswith("; also card updated")


def test_a_change_that_no_action_explains_has_a_line_of_its_own(journal: Journal) -> None:
    fields = tuple("abcdef")
    (line,) = journal.changed([change("updated", fields=fields, cause="sweep")])
    assert line.text == "card updated (a, b, c, d, 2 more), found by a sweep"
    (line,) = journal.changed([change("added", START + 1, hinted_at=START + 0.9)])
    assert line.text == "card active, 100 ms after its hint came in"


def test_a_suspicious_hint_is_told(journal: Journal) -> None:
    (line,) = journal.looked([look(suspicious=1)])
    assert line.tone == "warning"
    assert "suspicious" in line.text


def test_failed_calls_are_counted_and_told_now_and_then(journal: Journal) -> None:
    assert journal.looked([look("OttuUnavailable")] * 3) == []
    assert texts(journal.tick(START)) == [
        "calls to Ottu failed (3 x OttuUnavailable); they will be made again, and no card was changed"
    ]
    journal.looked([look("OttuFault")])
    assert journal.tick(START + FAILURES_EVERY_SECONDS - 1) == []
    assert len(journal.tick(START + FAILURES_EVERY_SECONDS)) == 1


def test_the_gate_and_the_brake_are_told_when_they_change(journal: Journal) -> None:
    from datetime import UTC, datetime

    now = datetime.now(UTC)
    shut = GateState(now, "throttled by Ottu", now, 0, 0, None)
    quiet = GateState(None, None, None, 0, 0, None)
    told = [texts(journal.read(News((), (), gate), START)) for gate in (quiet, shut, shut, quiet)]
    assert [len(lines) for lines in told] == [0, 2, 0, 2]
    assert told[1][0] == "calls to Ottu are paused: throttled by Ottu"


def test_what_is_open_is_bounded_and_forgotten_in_the_end(journal: Journal) -> None:
    for number in range(OPEN_MAX + 5):
        journal.acted(action("saved a card", number))
    assert len(journal._open) == OPEN_MAX
    journal.tick(START + FORGET_SECONDS + 1)
    assert not journal._open
