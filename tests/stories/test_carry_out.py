"""What an operator asked for is carried out by a worker: guarded, in steps, cancellable, and in the journal with its outcome."""

from __future__ import annotations

import datetime as dt
import uuid

import pytest
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from cardsync.core.brake import Limits
from cardsync.errors import Conflict, RoleTooLow, SignInTooOld
from cardsync.store.console import journal, operations, operators, sessions
from cardsync.store.console.actions import Act
from cardsync.store.deletions import askers, requests
from cardsync.store.deliveries import listing
from cardsync.stories import endpoints as stories
from cardsync.stories.carry_out import NO_BODY, NOT_NOW, STILL_HELD, WHYS, carry_out
from cardsync.stories.endpoints import NewEndpoint
from cardsync.web.console import stored
from tests.factories import RING, CustomerFactory, EventFactory, make_card
from tests.store.rows import change, one

LIMITS = Limits(0.15, 25)
SECRET = b"a session's secret of 32 bytes.."


@pytest.fixture
def act(engine):
    """A request of an admin who has just signed in; a new key each time."""
    link = operators.new_secret()
    with engine.begin() as connection:
        operators.invite(connection, "Amal", "admin", link, by="cli:test")
        sessions.open_by_link(connection, link, SECRET, came_from=None)
    return lambda: Act(SECRET, "192.0.2.1", uuid.uuid4())


def ask(engine: Engine, act: Act, kind: operations.Kind, subject: str = "", **given) -> uuid.UUID:
    with engine.begin() as connection:
        return operations.ask(connection, act, kind, subject, **given)


def show(engine, operation_id):
    with engine.connect() as connection:
        found = operations.show(connection, operation_id)
    assert found is not None
    return found


def work(worker_engine):
    """All that waits, step by step, with the rights of a worker."""
    steps = 0
    while carry_out(worker_engine, LIMITS, RING):
        steps += 1
        assert steps < 50
    return steps


def outcomes(engine):
    with engine.connect() as connection:
        entries = journal.page(connection, before=None, limit=50)
        assert journal.verify(connection).broken_at is None
    return [(e.action, e.after["status"]) for e in entries if e.action.endswith("_ended")]


def failed_events(number, **given):
    return [EventFactory(status="failed", attempts=10, last_error="boom", **given) for _ in range(number)]


def test_one_failed_notification_is_replayed_and_a_settled_one_is_not(engine, worker_engine, act):
    (failed,), done = failed_events(1), EventFactory(settled=True)
    first = ask(engine, act(), "replay_event", str(failed.event_id))
    second = ask(engine, act(), "replay_event", str(done.event_id))
    assert work(worker_engine) == 2
    assert (show(engine, first).status, show(engine, first).done) == ("done", 1)
    assert (show(engine, second).status, show(engine, second).error) == (
        "failed",
        "its state does not allow it any more",
    )
    assert one(engine, f"SELECT status FROM cardsync.events WHERE event_id = '{failed.event_id}'").status == "pending"
    assert sorted(outcomes(engine)) == [("replay_event_ended", "done"), ("replay_event_ended", "failed")]


def test_all_that_match_are_replayed_in_steps_and_what_failed_later_is_not_meant(
    engine, worker_engine, act, monkeypatch
):
    monkeypatch.setattr(operations, "AT_ONCE", 100)
    failed_events(230, environment="sandbox")
    failed_events(3, environment="production")
    until = dt.datetime.now(dt.UTC).isoformat()
    (later,) = failed_events(1)
    filter_ = {"until": until, "environment": "sandbox", "error": None}
    with engine.connect() as connection:
        assert operations.cost(connection, "replay_events", filter_) == operations.Cost(230, 1)
    asked = ask(engine, act(), "replay_events", "all", filter_=filter_, expected=230)
    assert work(worker_engine) == 3
    assert (show(engine, asked).status, show(engine, asked).done, show(engine, asked).failed) == ("done", 230, 0)
    left = one(
        engine,
        "SELECT count(*) AS n, bool_or(event_id = :later) AS later FROM cardsync.events WHERE status = 'failed'",
        later=later.event_id,
    )
    assert (left.n, left.later) == (4, True)


def test_a_cancelled_operation_stops_and_is_not_finished_twice(engine, worker_engine, act):
    failed_events(150)
    filter_ = {"until": dt.datetime.now(dt.UTC).isoformat()}
    asked = ask(engine, act(), "replay_events", "all", filter_=filter_, expected=150)
    assert carry_out(worker_engine, LIMITS, RING)
    with engine.begin() as connection:
        assert operations.cancel(connection, act(), asked)
    assert not carry_out(worker_engine, LIMITS, RING)
    assert (show(engine, asked).status, show(engine, asked).done) == ("cancelled", 100)
    assert one(engine, "SELECT count(*) AS n FROM cardsync.events WHERE status = 'failed'").n == 50
    with engine.begin() as connection, pytest.raises(Conflict):
        operations.cancel(connection, act(), asked)


def test_a_step_whose_worker_died_is_taken_up_by_another(engine, worker_engine, act):
    (failed,) = failed_events(1)
    ask(engine, act(), "replay_event", str(failed.event_id))
    with worker_engine.begin() as connection:
        assert operations.claim(connection) is not None
    assert not carry_out(worker_engine, LIMITS, RING)
    change(engine, "UPDATE cardsync.operations SET claimed_until = clock_timestamp()")
    assert carry_out(worker_engine, LIMITS, RING)
    assert one(engine, "SELECT status FROM cardsync.events").status == "pending"


def test_an_operator_who_was_disabled_meanwhile_does_nothing_more(engine, worker_engine, act):
    (failed,) = failed_events(1)
    asked = ask(engine, act(), "replay_event", str(failed.event_id))
    with engine.begin() as connection:
        operators.disable(connection, "Amal", by="cli:test")
    work(worker_engine)
    assert (show(engine, asked).status, show(engine, asked).error) == (
        "failed",
        "the operator may not do this any more",
    )
    assert one(engine, "SELECT status FROM cardsync.events").status == "failed"


def test_deletions_are_replayed_and_cancelled(engine, worker_engine, act):
    first, second = (make_card(CustomerFactory()) for _ in range(2))
    with engine.begin() as connection:
        asked = [requests.request(connection, card_id=c.card_id, requested_by="x").deletion_id for c in (first, second)]
        assert requests.cancel(connection, asked[0], by="x")
    replayed = ask(engine, act(), "replay_deletion", str(asked[0]))
    cancelled = ask(engine, act(), "cancel_deletion", str(asked[1]))
    work(worker_engine)
    assert {show(engine, one_).status for one_ in (replayed, cancelled)} == {"done"}
    phases = dict(engine.connect().execute(text("SELECT deletion_id, phase FROM cardsync.deletions")).tuples().all())
    assert [phases[deletion] for deletion in asked] == ["asked", "failed"]


def test_the_brake_is_released_once(engine, worker_engine, act):
    change(engine, "UPDATE cardsync.gate SET brake_engaged_at = now()")
    first = ask(engine, act(), "release_brake", "removals", filter_={"accept": 3})
    work(worker_engine)
    assert show(engine, first).status == "done"
    assert one(engine, "SELECT accepted FROM cardsync.brake").accepted == 3
    assert one(engine, "SELECT brake_engaged_at FROM cardsync.gate").brake_engaged_at is None
    again = ask(engine, act(), "release_brake", "removals")
    work(worker_engine)
    assert show(engine, again).status == "failed"


def held_deletions(engine, number, asker="api:shop"):
    """Deletions that the brake on requests holds, the first ones first."""
    change(engine, "UPDATE cardsync.deletion_brake SET floor = 0, share = 0.0001")
    asked = []
    for _ in range(number):
        card = make_card(CustomerFactory())
        with engine.begin() as connection:
            request = requests.request(connection, card_id=card.card_id, requested_by="x", asker=asker)
        assert request.held
        asked.append(request.deletion_id)
    return asked


def still_held(engine):
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT deletion_id FROM cardsync.deletions WHERE due_at = 'infinity'"))
        return set(rows.scalars())


def asker_is_held(engine, asker="api:shop"):
    with engine.connect() as connection:
        return askers.is_held(connection, asker)


def now():
    return dt.datetime.now(dt.UTC).isoformat()


def test_held_requests_are_released_up_to_the_dry_run_and_then_their_asker(engine, worker_engine, act):
    held_deletions(engine, 3)
    (other,) = held_deletions(engine, 1, asker="api:other")
    filter_ = {"asker": "api:shop", "until": now()}
    with engine.connect() as connection:
        assert operations.cost(connection, "release_deletions", filter_) == operations.Cost(3, 6)
    asked = ask(engine, act(), "release_deletions", "api:shop", filter_=filter_, expected=3)
    with capture_logs() as lines:
        work(worker_engine)
    assert [line["asker"] for line in lines if line["event"] == "deletions_held_ended"] == ["api:shop"]
    found = show(engine, asked)
    assert (found.status, found.done, found.failed, found.error) == ("done", 3, 0, None)
    assert still_held(engine) == {other}
    assert not asker_is_held(engine)
    assert asker_is_held(engine, "api:other")
    last = one(engine, "SELECT step, detail FROM cardsync.deletion_steps ORDER BY step_id DESC LIMIT 1")
    assert (last.step, last.detail) == ("replayed", {"released_by": "console:Amal"})


def test_what_was_held_after_the_dry_run_stays_held_and_so_does_its_asker(engine, worker_engine, act):
    held_deletions(engine, 2)
    filter_ = {"asker": "api:shop", "until": now()}
    (later,) = held_deletions(engine, 1)
    asked = ask(engine, act(), "release_deletions", "api:shop", filter_=filter_, expected=2)
    with capture_logs() as lines:
        work(worker_engine)
    found = show(engine, asked)
    assert (found.status, found.done, found.error) == ("done", 2, STILL_HELD)
    assert still_held(engine) == {later}
    assert asker_is_held(engine)
    assert "deletions_held_ended" not in [line["event"] for line in lines]


def test_a_release_that_is_cancelled_leaves_the_rest_and_the_asker_held(engine, worker_engine, act, monkeypatch):
    held_deletions(engine, operations.AT_ONCE + 2)
    filter_ = {"asker": "api:shop", "until": now()}
    asked = ask(engine, act(), "release_deletions", "api:shop", filter_=filter_, expected=operations.AT_ONCE + 2)
    assert carry_out(worker_engine, LIMITS, RING)
    with engine.begin() as connection:
        assert operations.cancel(connection, act(), asked)
    assert not carry_out(worker_engine, LIMITS, RING)
    assert (show(engine, asked).status, show(engine, asked).done) == ("cancelled", operations.AT_ONCE)
    assert len(still_held(engine)) == 2
    assert asker_is_held(engine)


def test_a_held_deletion_that_ended_meanwhile_is_listed_and_the_others_are_released(
    engine, worker_engine, act, monkeypatch
):
    first, _ = held_deletions(engine, 2)
    asked = ask(
        engine, act(), "release_deletions", "api:shop", filter_={"asker": "api:shop", "until": now()}, expected=2
    )
    really = operations.next_rows

    def meanwhile(connection, claimed):
        rows = really(connection, claimed)
        with engine.begin() as other:
            assert requests.cancel(other, first, by="op")
        return rows

    monkeypatch.setattr(operations, "next_rows", meanwhile)
    assert carry_out(worker_engine, LIMITS, RING)
    found = show(engine, asked)
    assert (found.status, found.done, found.failed) == ("done", 1, 1)
    assert found.failures == ({"ref": str(first), "why": NOT_NOW},)
    assert still_held(engine) == set()


def failed_deliveries(engine, number, endpoint="shop", *, body=True):
    """Failed deliveries of an endpoint, made where it is not known yet; their notifications' ids."""
    made = []
    with engine.begin() as connection:
        for _ in range(number):
            made.append(uuid.uuid4())
            if body:
                connection.execute(
                    text("INSERT INTO cardsync.kept_bodies (event_id, body) VALUES (:id, 'x')"), {"id": made[-1]}
                )
            connection.execute(
                text(
                    "INSERT INTO cardsync.deliveries (endpoint_id, event_id, status, finished_at)"
                    " SELECT endpoint_id, :id, 'failed', clock_timestamp() FROM cardsync.endpoints WHERE name = :name"
                ),
                {"id": made[-1], "name": endpoint},
            )
    return made


@pytest.fixture
def shop(worker_engine):
    for name in ("shop", "ledger"):
        stories.add(worker_engine, NewEndpoint(name, f"https://{name}.example/", "notifications"), RING)


def waiting(engine):
    return one(engine, "SELECT count(*) AS n FROM cardsync.deliveries WHERE status = 'pending'").n


def test_all_failed_deliveries_of_an_endpoint_are_replayed_and_those_without_a_body_are_listed(
    engine, worker_engine, act, shop
):
    failed_deliveries(engine, 120)
    gone = failed_deliveries(engine, 2, body=False)
    failed_deliveries(engine, 1, endpoint="ledger")
    filter_ = {"endpoint": "shop", "until": now()}
    failed_deliveries(engine, 3)  # later: not meant
    with engine.connect() as connection:
        assert operations.cost(connection, "replay_deliveries", filter_) == operations.Cost(122, 0)
    asked = ask(engine, act(), "replay_deliveries", "shop", filter_=filter_, expected=122)
    assert work(worker_engine) == 2
    found = show(engine, asked)
    assert (found.status, found.done, found.failed) == ("done", 120, 2)
    assert sorted(found.failures, key=lambda one: one["ref"]) == [
        {"ref": ref, "why": NO_BODY} for ref in sorted(map(str, gone))
    ]
    assert waiting(engine) == 120


def test_a_replay_of_deliveries_is_cancelled_between_its_steps(engine, worker_engine, act, shop):
    failed_deliveries(engine, operations.AT_ONCE + 5)
    filter_ = {"endpoint": "shop", "until": now()}
    asked = ask(engine, act(), "replay_deliveries", "shop", filter_=filter_, expected=operations.AT_ONCE + 5)
    assert carry_out(worker_engine, LIMITS, RING)
    with engine.begin() as connection:
        assert operations.cancel(connection, act(), asked)
    assert not carry_out(worker_engine, LIMITS, RING)
    assert (show(engine, asked).status, waiting(engine)) == ("cancelled", operations.AT_ONCE)


def test_a_step_that_is_under_way_when_it_is_cancelled_goes_no_further(engine, worker_engine, act, shop, monkeypatch):
    failed_deliveries(engine, 3)
    filter_ = {"endpoint": "shop", "until": now()}
    asked = ask(engine, act(), "replay_deliveries", "shop", filter_=filter_, expected=3)
    really, replayed = listing.replay, []

    def then_cancel(connection, delivery_id):
        replayed.append(delivery_id)
        if len(replayed) == 2:
            with engine.begin() as other:
                operations.cancel(other, act(), asked)
        return really(connection, delivery_id)

    monkeypatch.setattr(listing, "replay", then_cancel)
    assert carry_out(worker_engine, LIMITS, RING)
    found = show(engine, asked)
    assert (found.status, found.done, waiting(engine)) == ("cancelled", 1, 1)


def test_the_console_has_words_for_all_that_a_worker_says_in_ours():
    assert {why for why in WHYS if not stored.knows(why)} == set()


def test_a_person_is_erased_by_the_number_of_a_customer(engine, worker_engine, act):
    customer = CustomerFactory(customer_id="someone")
    make_card(customer)
    asked = ask(engine, act(), "erase", str(customer.id), reason="asked by letter")
    work(worker_engine)
    assert show(engine, asked).status == "done"
    erasure = one(engine, "SELECT customer_id, requested_by, reason FROM cardsync.erasures")
    assert (erasure.customer_id, erasure.requested_by, erasure.reason) == ("someone", "console:Amal", "asked by letter")
    assert one(engine, "SELECT status FROM cardsync.cards").status == "deleting"


@pytest.mark.parametrize("kind", operations.KINDS)
def test_the_database_wants_the_role_and_the_sign_in_that_the_pages_say(engine, act, kind):
    with engine.begin() as connection:
        role = text("SELECT cardsync.operation_role(:kind), cardsync.operation_wants(:kind) IS NOT NULL")
        assert connection.execute(role, {"kind": kind}).one() == (
            operations.ROLES[kind],
            kind in operations.WANT_A_NEW_SIGN_IN,
        )
    given = act()
    if kind in operations.WANT_A_NEW_SIGN_IN:
        change(engine, "UPDATE cardsync.console_sessions SET began_at = began_at - interval '11 minutes'")
        with pytest.raises(SignInTooOld):
            ask(engine, given, kind, "x")
    change(engine, "UPDATE cardsync.operators SET role = 'support'")
    with pytest.raises(RoleTooLow):
        ask(engine, given, kind, "x")


def test_one_is_under_way_at_a_time_and_a_request_sent_twice_is_one(engine, act):
    given = act()
    first = ask(engine, given, "release_brake", "removals")
    assert ask(engine, given, "release_brake", "removals") == first
    with pytest.raises(Conflict):
        ask(engine, act(), "release_brake", "removals")


def test_what_this_release_does_not_know_fails_and_stops_nothing(engine, worker_engine, act):
    (failed,) = failed_events(1)
    asked = ask(engine, act(), "replay_event", str(failed.event_id))
    change(engine, "UPDATE cardsync.operations SET kind = 'of_tomorrow'")
    work(worker_engine)
    assert show(engine, asked).status == "failed"
    unreadable = ask(engine, act(), "replay_event", "no id")
    work(worker_engine)
    assert show(engine, unreadable).error == "what it is about cannot be read"
