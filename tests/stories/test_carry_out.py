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
from cardsync.store.deletions import requests
from cardsync.stories.carry_out import carry_out
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


def test_held_requests_are_released(engine, worker_engine, act):
    card = make_card(CustomerFactory())
    change(engine, "UPDATE cardsync.deletion_brake SET floor = 0, share = 0.0001")
    with engine.begin() as connection:
        assert requests.request(connection, card_id=card.card_id, requested_by="x", asker="api:shop").held
    asked = ask(engine, act(), "release_deletions", "api:shop")
    with capture_logs() as lines:
        work(worker_engine)
    assert [line["asker"] for line in lines if line["event"] == "deletions_held_ended"] == ["api:shop"]
    assert show(engine, asked).status == "done"
    assert one(engine, "SELECT due_at < 'infinity' AS is_due FROM cardsync.deletions").is_due


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
