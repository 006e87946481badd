"""Endpoints and deliveries from the console: a secret is shown to the session that asked, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from cardsync.core.brake import Limits
from cardsync.stories import endpoints
from cardsync.stories.carry_out import carry_out
from cardsync.stories.endpoints import NewEndpoint
from tests.factories import RING, CustomerFactory, EventFactory
from tests.receivers import Receiver
from tests.store.rows import change, one
from tests.waiting import until
from tests.web.console.conftest import filter_of

LIMITS = Limits(0.15, 25)
SECRET = re.compile(r"whsec_[A-Za-z0-9+/=]{44}")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def work(worker_engine):
    while carry_out(worker_engine, LIMITS, RING):
        pass


def add(browser, worker_engine, url, name="shop"):
    asked = browser.post("/endpoints/add", name=name, url=url, kind="changes").headers["Location"]
    work(worker_engine)
    return asked


def status_of(engine, kind):
    return one(engine, "SELECT status FROM cardsync.operations WHERE kind = :kind", kind=kind).status


def test_a_secret_is_shown_to_the_session_that_asked_and_stored_nowhere_in_the_clear(
    signed_in, engine, worker_engine, receiver
):
    browser, other = signed_in("admin"), signed_in("admin")
    asked = add(browser, worker_engine, receiver.url)
    (secret,) = SECRET.findall(browser.get(asked).text)
    assert not SECRET.search(other.get(asked).text)
    for table in ("operations", "operator_actions", "endpoints"):
        rows = one(engine, f"SELECT string_agg(t::text, ' ') AS said FROM cardsync.{table} AS t").said
        assert secret not in rows
        assert secret.removeprefix("whsec_") not in rows
    assert not SECRET.search(browser.get("/audit").text)
    receiver.secret = secret
    assert browser.post("/endpoints/test", name="shop").status_code == 303
    work(worker_engine)
    until(lambda: status_of(engine, "test_endpoint") == "done", "the test has an answer")
    assert [one.content["type"] for one in receiver.received] == ["cardsync.test"]
    assert receiver.refused == []


def test_a_secret_is_rotated_and_an_endpoint_removed_with_a_typed_word(signed_in, engine, worker_engine, receiver):
    browser = signed_in("admin")
    first = SECRET.findall(browser.get(add(browser, worker_engine, receiver.url)).text)
    assert browser.post("/endpoints/rotate", name="shop", word="no").status_code == 400
    asked = browser.post("/endpoints/rotate", name="shop", word="ROTATE").headers["Location"]
    work(worker_engine)
    second = SECRET.findall(browser.get(asked).text)
    assert len(first) == len(second) == 1
    assert first != second
    browser.post("/endpoints/remove", name="shop", word="REMOVE")
    work(worker_engine)
    assert one(engine, "SELECT status FROM cardsync.endpoints").status == "removed"


def test_a_test_that_is_not_taken_says_how_it_was_answered(signed_in, engine, worker_engine, receiver):
    receiver.answer = lambda _: 500
    browser = signed_in("admin")
    (receiver.secret,) = SECRET.findall(browser.get(add(browser, worker_engine, receiver.url)).text)
    asked = browser.post("/endpoints/test", name="shop").headers["Location"]
    work(worker_engine)
    until(lambda: status_of(engine, "test_endpoint") == "failed", "the test has failed")
    assert "answered 500" in browser.get(asked).text


@pytest.mark.parametrize(
    "url", ["http://1.1.1.1/x", "https://u:p@shop.example/", "https://shop.example/?key=1", "ftp://x", ""]
)
def test_an_address_that_is_never_sent_to_or_could_hold_a_key_is_refused(signed_in, engine, url):
    browser = signed_in("admin")
    assert browser.post("/endpoints/add", name="shop", url=url, kind="changes").status_code == 400
    assert one(engine, "SELECT count(*) AS n FROM cardsync.operations").n == 0


def test_a_name_that_is_taken_is_told(signed_in, worker_engine, receiver):
    browser = signed_in("admin")
    add(browser, worker_engine, receiver.url)
    assert "there is an endpoint of this name already" in browser.get(add(browser, worker_engine, receiver.url)).text


def test_endpoints_are_for_admins_with_a_new_sign_in(signed_in, engine, receiver):
    operator, admin = signed_in("operator"), signed_in("admin")
    assert operator.post("/endpoints/add", name="shop", url=receiver.url, kind="changes").status_code == 403
    change(engine, "UPDATE cardsync.console_sessions SET began_at = began_at - interval '11 minutes'")
    assert admin.post("/endpoints/add", name="shop", url=receiver.url, kind="changes").status_code == 403


def test_deliveries_are_replayed_one_or_all_failed_of_an_endpoint(signed_in, engine, worker_engine):
    endpoints.add(worker_engine, NewEndpoint("shop", "https://shop.example/", "notifications"), RING)
    customer = CustomerFactory()
    for _ in range(3):
        event = EventFactory(settled=True, environment=customer.environment, customer_id=customer.customer_id)
        change(
            engine,
            "INSERT INTO cardsync.kept_bodies (event_id, body) VALUES (:id, 'x')",
            id=event.event_id,
        )
        change(
            engine,
            "INSERT INTO cardsync.deliveries (endpoint_id, event_id, status, finished_at)"
            " SELECT endpoint_id, :id, 'failed', now() FROM cardsync.endpoints",
            id=event.event_id,
        )
    browser = signed_in("operator")
    assert browser.get(f"/customers/{customer.id}").text.count("shop") >= 3
    change(engine, "UPDATE cardsync.kept_bodies SET body = NULL WHERE event_id = :id", id=event.event_id)
    page = browser.get("/deliveries?name=shop&status=failed").text
    assert len(re.findall(r"/deliveries/(\d+)/replay", page)) == 2  # what is not kept any more is not offered
    change(engine, "UPDATE cardsync.kept_bodies SET body = 'x' WHERE event_id = :id", id=event.event_id)
    page = browser.get("/deliveries?name=shop&status=failed").text
    ids = re.findall(r"/deliveries/(\d+)/replay", page)
    browser.post(f"/deliveries/{ids[0]}/replay")
    work(worker_engine)
    pending = "SELECT count(*) AS n FROM cardsync.deliveries WHERE status = 'pending'"
    assert one(engine, pending).n == 1
    assert "/deliveries/replay-all?name=shop" in browser.get("/deliveries?name=shop&status=failed").text
    page = browser.get("/deliveries/replay-all?name=shop").text
    assert re.search(r"Messages to the endpoint, at most</dt><dd>2</dd>\s*<dt>Calls to Ottu, about</dt><dd>0<", page)
    filter_ = filter_of(page)
    change(
        engine,
        "DELETE FROM cardsync.kept_bodies WHERE event_id = (SELECT min(event_id::text)::uuid FROM"
        " cardsync.deliveries WHERE status = 'failed')",
    )
    assert browser.post("/deliveries/replay-all", filter=filter_, word="REPLAYED").status_code == 400
    asked = browser.post("/deliveries/replay-all", filter=filter_, word="REPLAY").headers["Location"]
    assert browser.post("/deliveries/replay-all", filter=filter_, word="REPLAY").status_code == 409
    work(worker_engine)
    assert one(engine, pending).n == 2
    page = browser.get(asked).text
    assert "1 of about 2 done, 1 failed." in page
    failed = one(engine, "SELECT event_id FROM cardsync.deliveries WHERE status = 'failed'").event_id
    assert re.search(rf'href="/notifications/{failed}">{failed}</a></td><td>its body is not kept any more', page)


def test_an_endpoint_that_is_behind_and_files_set_aside_need_a_person(make_console, signed_in, engine, tmp_path):
    folder = tmp_path / "data" / "spool"
    folder.mkdir(parents=True)
    (folder / "one.bad").touch()
    endpoints.add(engine, NewEndpoint("shop", "https://shop.example/", "notifications"), RING)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO cardsync.deliveries (endpoint_id, event_id, made_at)"
                " SELECT endpoint_id, gen_random_uuid(), now() - interval '1 hour' FROM cardsync.endpoints"
            )
        )
    page = signed_in("viewer", app=make_console()).get("/").text
    assert "The endpoint shop is behind." in page
    assert "1 file of the spool is set aside." in page
