"""What needs a person, on the first page: each line leads to a page where the step that it names can be done."""

from __future__ import annotations

import html
import re
import uuid

import pytest
from sqlalchemy import text

from cardsync.core.brake import Limits
from cardsync.store.deletions import requests
from cardsync.store.deliveries import endpoints as store
from cardsync.stories import endpoints, erase
from cardsync.stories.carry_out import carry_out
from cardsync.stories.endpoints import NewEndpoint
from tests.factories import RING, CustomerFactory, EventFactory, make_card
from tests.store.rows import change, one

LINE = re.compile(
    r'<li class="need[^"]*"><strong><a href="([^"]*)">(.*?)</a></strong><span>(.*?)</span></li>', re.DOTALL
)


@pytest.fixture
def browser(make_console, signed_in):
    return signed_in("admin", app=make_console())


def lines(browser):
    """Each line of what needs a person: where it leads, what it says, and the next step."""
    return [tuple(html.unescape(part) for part in found) for found in LINE.findall(browser.get("/").text)]


def only(browser, said):
    """The page that the only line leads to, which says this."""
    found = lines(browser)
    assert len(found) == 1, found
    leads_to, what, step = found[0]
    assert said in what
    assert step
    answer = browser.get(leads_to)
    assert answer.status_code == 200
    return answer.text


def forms(page):
    return set(re.findall(r'<form method="post" action="([^"]*)"', page))


def delete(engine, asker="api:shop"):
    card = make_card(CustomerFactory())
    with engine.begin() as connection:
        asked = requests.request(connection, card_id=card.card_id, requested_by="x", asker=asker)
    return asked.deletion_id


def end(engine, deletion_id, phase, error="Ottu: HTTP 409"):
    change(
        engine,
        f"UPDATE cardsync.deletions SET phase = '{phase}', finished_at = now(), due_at = NULL, error = :error"
        " WHERE deletion_id = :id",
        id=deletion_id,
        error=error,
    )
    change(engine, "UPDATE cardsync.cards SET status = 'active'")


def test_calls_that_an_operator_paused_are_resumed_where_the_line_leads(engine, browser):
    change(
        engine,
        "UPDATE cardsync.gate SET operator_paused_at = now(), operator_paused_by = 'Amal', operator_paused_why = 'a test'",
    )
    assert "/calls/resume" in forms(only(browser, "paused all calls"))


@pytest.mark.parametrize(
    ("because", "said", "shown"),
    [
        ("credentials", "refuses our credentials", "Ottu refuses our credentials"),
        ("down", "are paused", "Ottu is down"),
    ],
)
def test_a_pause_that_no_operator_began_is_explained_where_the_line_leads(engine, browser, because, said, shown):
    change(
        engine,
        f"UPDATE cardsync.gate SET breaker_reason = '{because}', breaker_opened_at = now(),"
        " breaker_shut_until = now() + interval '1 hour'",
    )
    assert shown in only(browser, said)


def test_the_brake_is_released_where_the_line_leads(engine, browser):
    change(engine, "UPDATE cardsync.gate SET brake_engaged_at = now()")
    assert "/brake/release" in forms(only(browser, "brake on removals"))


def test_failed_notifications_are_read_and_replayed_where_the_line_leads(engine, browser):
    event = EventFactory(status="failed", last_error="boom")
    page = only(browser, "1 notification failed.")
    assert "boom" in page
    assert 'href="/notifications/replay-all"' in page
    assert f"/notifications/{event.event_id}/replay" in forms(browser.get(f"/notifications/{event.event_id}").text)


@pytest.mark.parametrize(("phase", "said"), [("blocked", "1 deletion is blocked."), ("failed", "1 deletion failed.")])
@pytest.mark.parametrize("error", ["Ottu: HTTP 409", None])
def test_deletions_that_ended_badly_are_replayed_where_the_line_leads(engine, browser, phase, said, error):
    deletion_id = delete(engine)
    end(engine, deletion_id, phase, error)
    page = only(browser, said)
    assert f'href="/deletions/replay-all?phase={phase}"' in page
    assert f"/deletions/{deletion_id}/replay" in forms(browser.get(f"/deletions/{deletion_id}").text)


def test_a_deletion_that_was_cancelled_needs_nobody(engine, browser):
    end(engine, delete(engine), "failed", "cancelled")
    assert lines(browser) == []


def test_held_deletions_are_released_or_cancelled_where_the_line_leads(engine, browser):
    change(engine, "UPDATE cardsync.deletion_brake SET floor = 0, share = 0.0001")
    deletion_id = delete(engine)
    page = only(browser, "1 deletion is held.")
    assert "/brake/requests/release-all?asker=api:shop" in page
    assert 'href="/deletions?state=held"' in page
    assert f"/deletions/{deletion_id}" in browser.get("/deletions?state=held").text
    assert f"/deletions/{deletion_id}/cancel" in forms(browser.get(f"/deletions/{deletion_id}").text)


def test_an_erasure_that_does_not_go_on_says_which_card_is_in_the_way_and_how_to_go_on(engine, worker_engine, browser):
    customer = CustomerFactory(customer_id="someone", environment="production")
    card = make_card(customer)
    erasure = erase.begin(engine, erase.Wish("someone", "cli:x", "asked by letter"))
    (deletion_id,) = erasure.deletion_ids
    end(engine, deletion_id, "failed", "Ottu: HTTP 500")
    change(engine, "UPDATE cardsync.erasures SET due_at = now()")
    erase.advance(engine, 10)
    found = {what: leads_to for leads_to, what, _ in lines(browser)}
    assert set(found) == {"1 deletion failed.", "1 erasure does not go on."}
    path = f"/erasures/{erasure.erasure_id}"
    assert f'href="{path}"' in browser.get(found["1 erasure does not go on."]).text
    page = browser.get(path).text
    assert f"the deletion of card {card.card_id} failed: Ottu: HTTP 500" in re.sub("<[^>]+>", "", page)
    assert f'href="/customers/{customer.id}"' in page
    assert "asked by letter" in page
    assert "someone" not in page
    assert f"/deletions/{deletion_id}/replay" in forms(page)
    assert f"/deletions/{deletion_id}" in page
    asked = browser.post(f"/deletions/{deletion_id}/replay").headers["Location"]
    while carry_out(worker_engine, Limits(0.15, 25), RING):
        pass
    assert "1 of about 1 done" in browser.get(asked).text
    assert f"/deletions/{deletion_id}/replay" not in forms(browser.get(path).text)


def test_odd_lists_are_named_where_the_line_leads(engine, browser):
    customer = CustomerFactory()
    change(engine, "UPDATE cardsync.customers SET list_oddities = '{unreadable_token}'")
    page = only(browser, "The list of 1 customer is odd.")
    assert f'href="/customers/{customer.id}"' in page
    assert f"/customers/{customer.id}/look-now" in forms(browser.get(f"/customers/{customer.id}").text)


@pytest.mark.parametrize(
    ("status", "said", "action"),
    [("enabled", "is behind", "/endpoints/test"), ("disabled", "is disabled", "/endpoints/enable")],
)
def test_an_endpoint_in_trouble_is_tried_or_enabled_where_the_line_leads(engine, browser, status, said, action):
    endpoints.add(engine, NewEndpoint("shop", "https://shop.example/", "notifications"), RING)
    if status == "disabled":
        with engine.begin() as connection:
            assert store.disable(connection, "shop")
    change(
        engine,
        "INSERT INTO cardsync.deliveries (endpoint_id, event_id, made_at)"
        " SELECT endpoint_id, gen_random_uuid(), now() - interval '1 hour' FROM cardsync.endpoints",
    )
    page = only(browser, f"The endpoint shop {said}")
    assert action in forms(page)


def test_files_that_are_set_aside_are_named_with_their_commands_where_the_line_leads(make_console, signed_in, tmp_path):
    folder = tmp_path / "data" / "spool"
    folder.mkdir(parents=True)
    (folder / "01700000000000000000-1-1.0.data-error.bad").touch()
    (folder / "whole.bad").touch()
    page = only(signed_in("admin", app=make_console()), "2 files of the spool are set aside.")
    assert "01700000000000000000-1-1.0.data-error" in page
    assert "data-error</td>" in page
    assert "cardsync spool restore" in page


def test_an_erasure_that_is_done_shows_its_receipt(engine, browser):
    customer = CustomerFactory(customer_id="someone", environment="production")
    make_card(customer)
    erasure = erase.begin(engine, erase.Wish("someone", "cli:x"))
    (deletion_id,) = erasure.deletion_ids
    page = browser.get(f"/erasures/{erasure.erasure_id}").text
    assert "What must be proved" in page
    assert "not yet" in page
    assert f'href="/erasures/{erasure.erasure_id}"' in browser.get(f"/deletions/{deletion_id}").text
    assert f'href="/erasures/{erasure.erasure_id}"' in browser.get(f"/customers/{customer.id}").text
    change(engine, "UPDATE cardsync.erasures SET status = 'done', finished_at = now(), due_at = NULL")
    page = browser.get(f"/erasures/{erasure.erasure_id}").text
    assert "What must be proved" not in page
    hashed = one(engine, "SELECT encode(hash, 'hex') AS said FROM cardsync.receipt_chain").said
    assert f'title="{hashed}"' in page
    browser.get("/find")
    found = browser.post("/find", said=str(erasure.erasure_id))
    assert found.headers["Location"] == f"/erasures/{erasure.erasure_id}"
    assert browser.get(f"/erasures/{uuid.uuid4()}").status_code == 404


def test_odd_lists_go_on_by_our_number(engine, browser):
    for _ in range(52):
        CustomerFactory()
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.customers SET list_oddities = '{incomplete}'"))
    page = browser.get("/customers/odd").text
    more = html.unescape(re.search(r'href="(/customers/odd\?after=\d+)"', page)[1])
    assert len(re.findall(r'<td><a href="/customers/\d+"', browser.get(more).text)) == 2
