"""The stand-in's inquiry endpoint: the payload of a payment, throttled as Ottu documents it."""

from __future__ import annotations

import httpx
import pytest

from cardsync.dev.simulator import Simulator
from tests.simulator.peers import API_KEY, SECONDS

OWNER = ("sandbox", "customer 1/ü%?#")


@pytest.fixture
def clock():
    """Seconds that pass when the test says so."""

    class Clock:
        now = 1_000.0

        def __call__(self) -> float:
            return self.now

    return Clock()


@pytest.fixture
def simulator(started, clock) -> Simulator:
    return started(clock=clock)


def ask(simulator: Simulator, **what) -> httpx.Response:
    headers = {"Authorization": f"Api-Key {API_KEY}"}
    return httpx.post(f"{simulator.base_url}/b/pbl/v2/inquiry/", json=what, headers=headers, timeout=SECONDS)


def test_the_answer_is_what_the_notification_held_also_if_it_was_never_sent(simulator, clock):
    visit = simulator.checkout().save_card(*OWNER, notify=False)
    clock.now += 600
    for what in ({"session_id": visit.purchase.session_id}, {"order_no": visit.purchase.order_no}):
        answer = ask(simulator, **what)
        assert (answer.status_code, answer.json()) == (200, visit.event)
        clock.now += 1_800
    assert [call.status for call in simulator.calls("inquiry")] == [200, 200]


def test_a_payment_is_answered_after_ten_minutes_half_an_hour_apart_three_times_a_day(simulator, clock):
    session = simulator.checkout().save_card(*OWNER, notify=False).purchase.session_id
    statuses = []
    for minutes in (0, 9, 1, 29, 1, 30, 30, 60, 24 * 60 - 150):
        clock.now += minutes * 60
        statuses.append(ask(simulator, session_id=session).status_code)
    assert statuses == [429, 429, 200, 429, 200, 200, 429, 429, 200]
    assert int(ask(simulator, session_id=session).headers["Retry-After"]) == 1_801


def test_thirty_inquiries_a_minute_are_answered_over_all(simulator, clock):
    assert {ask(simulator, session_id=f"{n:040x}").status_code for n in range(30)} == {404}
    assert ask(simulator, session_id="f" * 40).status_code == 429
    clock.now += 60
    assert ask(simulator, session_id="f" * 40).status_code == 404


@pytest.mark.parametrize("what", [{}, {"session_id": 7}, {"session_id": ""}, {"session_id": None}])
def test_an_inquiry_about_nothing_is_refused(simulator, what):
    assert ask(simulator, **what).status_code == 400


def test_an_operation_is_no_payment(simulator, clock):
    visit = simulator.checkout().save_card(*OWNER, notify=False)
    simulator.checkout().refund(visit.purchase, notify=False)
    clock.now += 600
    assert ask(simulator, session_id=visit.purchase.session_id).json() == visit.event
