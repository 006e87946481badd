"""What reaches an endpoint: all of it, byte for byte, signed, whatever the endpoint does to one of them or to others."""

from __future__ import annotations

import datetime as dt
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from cardsync.ciphers import KeyRing
from cardsync.core.delivery import BATCH, FAILED_IN_A_ROW, LAST_TRY_SECONDS, UNDER_WAY, Kind
from cardsync.outgoing import Sender
from cardsync.store import feed
from cardsync.store.deliveries import bodies, endpoints, listing
from cardsync.stories import deliver as delivering
from cardsync.stories import endpoints as story
from cardsync.stories.deliver import Courier
from cardsync.stories.endpoints import NewEndpoint
from cardsync.stories.receive import examine, store
from cardsync.stories.try_endpoint import try_endpoint
from tests import payloads
from tests.clocks import host_off_by
from tests.factories import RING
from tests.receivers import Answer, Receiver
from tests.stories.shop import KEYS, Shop
from tests.waiting import WAIT_SECONDS, until

TYPE = "application/json; charset=utf-8"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def other() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def sender(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sender]:
    """With time enough for each call on a busy machine: none of these tests is about a call's own time."""
    monkeypatch.setattr("cardsync.outgoing.sender.CONNECT_SECONDS", WAIT_SECONDS)
    made = Sender(call_seconds=WAIT_SECONDS)
    yield made
    made.close()


@pytest.fixture
def courier(worker_engine: Engine, sender: Sender) -> Courier:
    return Courier(worker_engine, RING, sender, jitter=lambda: 0.0)


def add(
    shop: Shop, receiver: Receiver, name: str = "orders", kind: Kind = "notifications", from_seq: int | None = None
) -> story.Added:
    added = story.add(shop.worker, NewEndpoint(name, receiver.url, kind, from_seq), RING)
    receiver.secret = added.secret
    return added


def body_of(number: int) -> bytes:
    return payloads.signed(payloads.operation(session_id=f"session-{number}", reference_number=f"ref-{number}"))


def arrive(shop: Shop, *numbers: int) -> None:
    store(shop.ingest, [examine(body_of(n), KEYS, content_type=TYPE, keep_body=True) for n in numbers])


def deliver(courier: Courier) -> None:
    """Turn after turn, until nothing is due and nothing is under way."""
    while not (courier.turn().is_idle and courier.under_way == 0):
        courier.woken.wait(0.05)


def statuses(shop: Shop) -> list[str]:
    return [row.status for row in shop.execute("SELECT status FROM cardsync.deliveries ORDER BY delivery_id")]


def pass_time(shop: Shop, seconds: float) -> None:
    """Let time pass for all that waits to be delivered."""
    for table, columns in (
        ("deliveries", ("made_at", "due_at", "claimed_until", "asked_until")),
        ("endpoints", ("opened_at", "shut_until", "due_at", "claimed_until", "failing_since", "delivered_at")),
    ):
        moved = ", ".join(f"{c} = {c} - make_interval(secs => :seconds)" for c in columns)
        shop.execute(f"UPDATE cardsync.{table} SET {moved}", seconds=seconds)


def endpoint(shop: Shop, name: str = "orders") -> Any:
    with shop.worker.begin() as connection:
        return endpoints.show(connection, name)


@pytest.mark.parametrize("minutes", [-10, 10])
def test_messages_are_dated_by_the_databases_clock_whatever_the_hosts_says(
    shop: Shop, worker_engine: Engine, sender: Sender, receiver: Receiver, other: Receiver, minutes: int
) -> None:
    with_card(shop)
    add(shop, receiver)
    add(shop, other, "feed", "changes", 0)
    arrive(shop, 1)
    with host_off_by(minutes):
        deliver(Courier(worker_engine, RING, sender))
        tried = try_endpoint(shop.worker, "orders", RING)
    assert (receiver.refused, other.refused, tried.status) == ([], [], 200)
    assert len(receiver.received) == 2
    (batch,) = other.received
    now = dt.datetime.now(dt.UTC)
    assert abs(now - dt.datetime.fromisoformat(batch.content["timestamp"])) < dt.timedelta(minutes=5)


def test_each_notification_arrives_byte_for_byte_signed_under_its_event_id(
    shop: Shop, courier: Courier, receiver: Receiver
) -> None:
    add(shop, receiver)
    odd = payloads.signed(payloads.payment()).replace(b": ", b" :\t", 3)
    receipt = store(shop.ingest, [examine(odd, KEYS, content_type=TYPE, keep_body=True)])[0]
    arrive(shop, 1, 2)
    deliver(courier)
    assert receiver.refused == []
    assert sorted(one.body for one in receiver.received) == sorted([odd, body_of(1), body_of(2)])
    assert str(receipt.event_id) in receiver.ids()
    assert {one.headers["content-type"] for one in receiver.received} == {TYPE}
    assert statuses(shop) == ["done"] * 3
    arrive(shop, 1)  # a duplicate of Ottu's
    deliver(courier)
    assert len(receiver.received) == 3


def test_one_body_that_is_refused_and_one_that_hangs_hold_up_no_other(
    shop: Shop, courier: Courier, receiver: Receiver
) -> None:
    hang = threading.Event()
    spoilt = {body_of(1): Answer(500), body_of(2): Answer(before=hang.wait), body_of(3): Answer(cut=True)}
    receiver.answer = lambda one: spoilt.get(one.body, 200)
    add(shop, receiver)
    arrive(shop, *range(40))
    until(lambda: (courier.turn(), statuses(shop).count("done"))[1] == 37, "37 are delivered")
    assert not hang.is_set()
    hang.set()
    receiver.answer = lambda _: 200
    pass_time(shop, 30)
    deliver(courier)
    assert statuses(shop) == ["done"] * 40
    assert endpoint(shop).circuit_open_since is None


@pytest.mark.parametrize(("status", "becomes"), [(200, ("done", "enabled")), (410, ("pending", "disabled"))])
def test_a_status_counts_though_the_answers_body_never_ends(
    shop: Shop, courier: Courier, receiver: Receiver, status: int, becomes: tuple[str, str]
) -> None:
    receiver.answer = lambda _: Answer(status, {"Content-Length": "5"}, b"{")
    add(shop, receiver)
    arrive(shop, 1)
    until(lambda: (courier.turn(), courier.under_way)[1] == 0 and receiver.received, "the message ends")
    assert (*statuses(shop), endpoint(shop).status) == becomes
    assert len(receiver.received) == 1


def test_an_address_that_leads_nowhere_fails_by_itself_and_holds_no_place(
    shop: Shop, courier: Courier, receiver: Receiver
) -> None:
    add(shop, receiver)
    shop.execute("UPDATE cardsync.endpoints SET url = 'https://orders..example.com/'")  # of an older release
    arrive(shop, 1)
    until(
        lambda: (courier.turn(), shop.execute("SELECT FROM cardsync.deliveries WHERE last_error IS NOT NULL"))[1],
        "it ends",
    )
    (row,) = shop.execute("SELECT status, last_error FROM cardsync.deliveries")
    assert (row.status, row.last_error, courier.under_way) == ("pending", "no connection", 0)


def test_a_message_that_cannot_be_made_holds_up_no_other_and_no_place(
    shop: Shop, courier: Courier, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(shop, receiver)
    arrive(shop, 1, 2, 3)
    (first, *others) = shop.execute("SELECT event_id FROM cardsync.events ORDER BY event_id")
    make = delivering.opened_body

    def fail_for_one(ring: KeyRing, event_id: uuid.UUID, body: bytes) -> bytes:
        if event_id == first.event_id:
            raise ZeroDivisionError
        return make(ring, event_id, body)

    monkeypatch.setattr(delivering, "opened_body", fail_for_one)
    until(lambda: (courier.turn(), len(receiver.received))[1] == len(others), "the others arrive")
    until(lambda: (courier.turn(), courier.under_way)[1] == 0, "no place is held")
    (row,) = shop.execute("SELECT event_id, last_error FROM cardsync.deliveries WHERE status = 'pending'")
    assert (row.event_id, row.last_error) == (first.event_id, "the message could not be made")


def test_at_most_eight_are_under_way_to_one_endpoint_of_all_workers_together_and_none_waits_for_another_endpoint(
    shop: Shop, courier: Courier, worker_engine: Engine, sender: Sender, receiver: Receiver, other: Receiver
) -> None:
    hang = threading.Event()
    receiver.answer = lambda _: Answer(before=hang.wait)
    add(shop, receiver, "slow")
    add(shop, other, "quick")
    second = Courier(worker_engine, RING, sender)
    arrive(shop, *range(30))
    until(lambda: (courier.turn(), second.turn(), len(other.received))[2] == 30, "the quick one has all")
    until(lambda: len(receiver.received) >= UNDER_WAY, "all that may be under way to the slow one have come there")
    assert len(receiver.received) == receiver.most_at_once == UNDER_WAY
    hang.set()
    until(lambda: (courier.turn(), second.turn(), statuses(shop).count("done"))[2] == 60, "all are delivered")
    assert len(set(receiver.ids())) == len(receiver.received) == 30


def test_after_an_outage_of_an_hour_all_arrives_at_once_and_its_attempts_are_few(
    shop: Shop, courier: Courier, receiver: Receiver
) -> None:
    add(shop, receiver)
    receiver.answer = lambda _: 503
    arrive(shop, *range(20))
    for _ in range(60):
        deliver(courier)
        pass_time(shop, 60)
    assert endpoint(shop).circuit_open_since is not None
    tried = len(receiver.received)
    assert FAILED_IN_A_ROW <= tried < 90  # one probe a minute, and not twenty deliveries each
    receiver.answer = lambda _: 200
    pass_time(shop, 60)
    deliver(courier)  # the probe closes the breaker, and wakes those that were tried from waits of their own
    assert statuses(shop) == ["done"] * 20
    assert endpoint(shop).circuit_open_since is None


def test_while_the_breaker_is_open_one_is_tried_each_minute_however_long_their_own_waits_and_a_success_wakes_all(
    shop: Shop, courier: Courier, receiver: Receiver
) -> None:
    add(shop, receiver)
    receiver.answer = lambda _: 503
    arrive(shop, *range(FAILED_IN_A_ROW))
    deliver(courier)
    shop.execute("UPDATE cardsync.deliveries SET attempts = attempts + 12")  # each would wait for six hours
    for tried in range(FAILED_IN_A_ROW, FAILED_IN_A_ROW + 10):
        assert len(receiver.received) == tried
        pass_time(shop, 60)
        deliver(courier)
    receiver.answer = lambda _: 200
    shop.execute(
        "UPDATE cardsync.deliveries SET due_at = clock_timestamp() + interval '5 hours' "
        "WHERE delivery_id > (SELECT min(delivery_id) FROM cardsync.deliveries)"
    )
    pass_time(shop, 60)
    deliver(courier)
    assert statuses(shop) == ["done"] * FAILED_IN_A_ROW


def test_after_an_outage_that_opened_no_breaker_a_success_sends_what_waits_but_not_before_the_wait_that_was_asked_for(
    shop: Shop, courier: Courier, receiver: Receiver
) -> None:
    add(shop, receiver)
    asks = Answer(503, {"Retry-After": "7200"})
    receiver.answer = lambda one: asks if one.body == body_of(1) else 503
    arrive(shop, 1, 2, 3)
    deliver(courier)
    for _ in range(6):
        pass_time(shop, 600)
        deliver(courier)
    assert endpoint(shop).circuit_open_since is None
    (row,) = shop.execute("SELECT last_error FROM cardsync.deliveries WHERE asked_until IS NOT NULL")
    assert row.last_error == "answered 503, asked for 7200 s"
    shop.execute("UPDATE cardsync.deliveries SET last_error = 'in other words'")  # they are for people alone
    receiver.answer = lambda _: 200
    arrive(shop, 4)
    deliver(courier)
    assert sorted(statuses(shop)) == ["done", "done", "done", "pending"]
    assert [one.body for one in receiver.received].count(body_of(1)) == 1
    pass_time(shop, 3_600)
    deliver(courier)
    assert statuses(shop) == ["done"] * 4


def test_a_body_that_is_always_refused_is_woken_once_and_not_at_each_success(
    shop: Shop, courier: Courier, receiver: Receiver
) -> None:
    add(shop, receiver)
    receiver.answer = lambda one: 500 if one.body == body_of(1) else 200
    arrive(shop, 1)
    for _ in range(10):
        pass_time(shop, 3_600)
        deliver(courier)
    tried = len(receiver.received)  # from now on its own wait is longer than what follows takes
    for number in range(2, 8):
        arrive(shop, number)
        deliver(courier)
        pass_time(shop, 120)
    assert [one.body for one in receiver.received].count(body_of(1)) == tried + 1
    assert statuses(shop).count("done") == 6


def test_a_notification_is_given_up_after_three_days_and_replayed_while_its_body_is_kept(
    shop: Shop, courier: Courier, receiver: Receiver
) -> None:
    add(shop, receiver)
    receiver.answer = lambda one: 500 if one.body == body_of(1) else 200
    arrive(shop, 1)
    for _ in range(80):
        deliver(courier)
        pass_time(shop, 3_600)
        arrive(shop)
    assert statuses(shop) == ["failed"]
    assert 10 < len(receiver.received) < 40
    receiver.answer = lambda _: 200
    with shop.worker.begin() as connection:
        assert listing.replay_failed(connection, "orders") == 1
    deliver(courier)
    assert statuses(shop) == ["done"]
    (row,) = shop.execute("SELECT delivery_id FROM cardsync.deliveries")
    shop.execute("UPDATE cardsync.kept_bodies SET body = NULL, customer_id = NULL, session_id = NULL")
    with shop.worker.begin() as connection:
        assert not listing.replay(connection, row.delivery_id)


def test_what_a_disabled_or_removed_endpoint_never_took_is_given_up_in_time(
    shop: Shop, courier: Courier, receiver: Receiver, other: Receiver
) -> None:
    add(shop, receiver, "away")
    add(shop, other, "removed")
    with shop.worker.begin() as connection:
        endpoints.disable(connection, "away")
    arrive(shop, 1)
    with shop.worker.begin() as connection:
        endpoints.remove(connection, "removed")
    deliver(courier)
    assert sorted(statuses(shop)) == ["failed", "pending"]
    pass_time(shop, 3 * 86_400 + 1)
    courier._give_up_at = 0.0
    deliver(courier)
    assert statuses(shop) == ["failed", "failed"]
    assert receiver.received == other.received == []


def test_410_disables_the_endpoint_and_enabled_again_it_gets_what_queued(
    shop: Shop, courier: Courier, receiver: Receiver
) -> None:
    add(shop, receiver)
    receiver.answer = lambda _: 410
    arrive(shop, 1)
    deliver(courier)
    assert (endpoint(shop).status, endpoint(shop).disabled_because) == ("disabled", "gone")
    arrive(shop, 2)
    pass_time(shop, 60)
    deliver(courier)
    assert len(receiver.received) == 1
    receiver.answer = lambda _: 200
    with shop.worker.begin() as connection:
        endpoints.enable(connection, "orders")
    deliver(courier)
    assert statuses(shop) == ["done", "done"]


def test_a_redirect_is_not_followed_and_a_huge_answer_is_not_read(
    shop: Shop, courier: Courier, receiver: Receiver, other: Receiver
) -> None:
    answers = {body_of(1): Answer(307, {"Location": other.url}), body_of(2): Answer(200, body=b"x" * 20_000_000)}
    receiver.answer = lambda one: answers[one.body]
    add(shop, receiver)
    arrive(shop, 1, 2)
    deliver(courier)
    assert other.received == []
    assert statuses(shop) == ["pending", "done"]
    (row,) = shop.execute("SELECT last_status, last_error FROM cardsync.deliveries WHERE status = 'pending'")
    assert (row.last_status, row.last_error) == (307, "answered 307")


def test_retry_after_is_honoured_up_to_a_day(shop: Shop, courier: Courier, receiver: Receiver) -> None:
    waits = iter(("7200", "999999"))
    receiver.answer = lambda _: Answer(503, {"Retry-After": next(waits)})
    add(shop, receiver)
    arrive(shop, 1)
    for seconds in (7_200, 86_400):
        deliver(courier)
        (row,) = shop.execute(
            "SELECT extract(epoch FROM due_at - clock_timestamp())::float8 AS seconds FROM cardsync.deliveries"
        )
        assert seconds - 60 < row.seconds <= seconds
        pass_time(shop, seconds)


def test_an_endpoint_that_asks_for_a_day_each_time_is_asked_once_more_before_three_days_are_over(
    shop: Shop, courier: Courier, receiver: Receiver
) -> None:
    receiver.answer = lambda _: Answer(503, {"Retry-After": "86400"})
    add(shop, receiver)
    arrive(shop, 1)
    for wait in (86_400, 86_400, 86_400 - LAST_TRY_SECONDS):
        deliver(courier)
        (row,) = shop.execute(
            "SELECT extract(epoch FROM due_at - clock_timestamp())::float8 AS seconds FROM cardsync.deliveries"
        )
        assert wait - 60 < row.seconds <= wait
        pass_time(shop, row.seconds)
    deliver(courier)
    assert (len(receiver.received), statuses(shop)) == (4, ["failed"])
    (row,) = shop.execute("SELECT last_status, finished_at - made_at AS age FROM cardsync.deliveries")
    assert row.last_status == 503
    assert row.age < dt.timedelta(days=3)


def test_what_a_killed_worker_had_claimed_is_sent_again_once_the_claim_runs_out(
    shop: Shop, courier: Courier, worker_engine: Engine, receiver: Receiver
) -> None:
    add(shop, receiver)
    arrive(shop, 1)
    killed = Courier(worker_engine, RING, Silent())
    assert killed.turn().claimed == 1
    deliver(courier)
    assert receiver.received == []
    pass_time(shop, 20)
    deliver(courier)
    assert statuses(shop) == ["done"]
    assert len(receiver.received) == 1


class Silent(Sender):
    """Sends nothing, and tells nothing: its process is dead."""

    def __init__(self) -> None:
        pass

    def send(self, *_: Any) -> Any:
        return None


def test_a_body_that_no_secret_key_reads_waits_and_is_nobody_elses_trouble(
    shop: Shop, worker_engine: Engine, sender: Sender, receiver: Receiver
) -> None:
    add(shop, receiver)
    arrive(shop, *range(FAILED_IN_A_ROW + 1))
    wrong = Courier(worker_engine, KeyRing(b"another secret key, of 32 bytes or more"), sender)
    deliver(wrong)
    assert (endpoint(shop).circuit_open_since, set(statuses(shop))) == (None, {"pending"})
    pass_time(shop, 60)
    deliver(Courier(worker_engine, RING, sender))
    assert set(statuses(shop)) == {"done"}


def test_an_erased_body_is_not_sent(shop: Shop, courier: Courier, receiver: Receiver) -> None:
    add(shop, receiver)
    receiver.answer = lambda _: 500
    arrive(shop, 1)
    deliver(courier)
    with shop.worker.begin() as connection:
        assert bodies.erase(connection, "cust-1") == 1
    pass_time(shop, 60)
    deliver(courier)
    assert statuses(shop) == ["failed"]
    assert len(receiver.received) == 1


def change(shop: Shop, count: int) -> None:
    """Make that many changes of the feed, each in a transaction of its own, as hints and lists do."""
    for number in range(count):
        shop.execute(
            """UPDATE cardsync.cards SET name_on_card = :name, cause = 'list' WHERE card_id = (
                   SELECT card_id FROM cardsync.cards ORDER BY card_id LIMIT 1)""",
            name=f"NAME {number}",
        )


def with_card(shop: Shop) -> None:
    from tests.stories.shop import listed

    (customer,) = shop.hint()
    shop.ottu.cards = listed(payloads.TOKEN)
    shop.reconcile(customer)


def sequences(receiver: Receiver) -> list[list[int]]:
    return [[one["seq"] for one in message.content["data"]["changes"]] for message in receiver.received]


def test_changes_arrive_in_order_without_gaps_in_batches(shop: Shop, courier: Courier, receiver: Receiver) -> None:
    with_card(shop)
    added = add(shop, receiver, "feed", "changes", 0)
    change(shop, BATCH + 5)
    with shop.worker.begin() as connection:
        head = feed.head(connection)
    deliver(courier)
    assert [seq for batch in sequences(receiver) for seq in batch] == list(range(1, head + 1))
    first = receiver.received[0]
    assert first.message_id == f"{added.endpoint_id}-1-{BATCH}"
    assert first.content["type"] == "registry.changes"
    assert (first.content["data"]["head"], first.content["data"]["epoch"]) == (head, 1)
    (row,) = shop.execute("SELECT * FROM registry.card_changes WHERE seq = 1")
    assert first.content["data"]["changes"][0] == {
        **{
            name: getattr(row, name)
            for name in ("seq", "environment", "customer_id", "change", "fields", "cause", "epoch")
        },
        "at": row.at.isoformat(),
        "card_id": str(row.card_id),
    }
    assert payloads.TOKEN not in first.body.decode()
    assert endpoint(shop, "feed").behind == 0


def test_a_batch_that_fails_is_sent_again_as_it_was_and_nothing_overtakes_it(
    shop: Shop, courier: Courier, receiver: Receiver
) -> None:
    with_card(shop)
    add(shop, receiver, "feed", "changes", 0)
    receiver.answer = lambda _: 500
    deliver(courier)
    first = receiver.received[0]
    change(shop, 3)
    for seconds in (6, 11, 21):
        pass_time(shop, seconds)
        deliver(courier)
    assert {(one.message_id, tuple(s)) for one, s in zip(receiver.received, sequences(receiver), strict=True)} == {
        (first.message_id, tuple(sequences(receiver)[0]))
    }
    receiver.answer = lambda _: 200
    pass_time(shop, 3_700)
    deliver(courier)
    assert endpoint(shop, "feed").behind == 0
    assert len(receiver.received) == 6  # four that failed, the same again, and the rest


def test_two_workers_never_send_one_endpoints_batches_at_once_and_a_late_one_moves_nothing(
    shop: Shop, courier: Courier, worker_engine: Engine, receiver: Receiver
) -> None:
    with_card(shop)
    add(shop, receiver, "feed", "changes", 0)
    stalled = Courier(worker_engine, RING, Silent())
    assert stalled.turn().claimed == 1
    assert courier.turn().claimed == 0
    pass_time(shop, 21)
    deliver(courier)
    assert endpoint(shop, "feed").behind == 0
    cursor = endpoint(shop, "feed").cursor
    from cardsync.outgoing import Ended
    from cardsync.store.deliveries import batches

    with shop.worker.begin() as connection:
        shop.execute("UPDATE cardsync.endpoints SET cursor_seq = 0")
        taken = batches.claim(connection)[0]
    shop.execute("UPDATE cardsync.endpoints SET ticket = ticket + 1, cursor_seq = :c, batch_last = NULL", c=cursor)
    stalled._note(taken, Ended(200))
    stalled.turn(claim=False)
    assert endpoint(shop, "feed").cursor == cursor


def test_after_five_days_of_failing_the_endpoint_is_disabled_and_goes_on_where_it_stood(
    shop: Shop, courier: Courier, receiver: Receiver
) -> None:
    with_card(shop)
    add(shop, receiver, "feed", "changes", 0)
    receiver.answer = lambda _: 500
    for _ in range(5):
        deliver(courier)
        pass_time(shop, 86_400)
    assert endpoint(shop, "feed").status == "enabled"
    deliver(courier)
    shown = endpoint(shop, "feed")
    assert (shown.status, shown.disabled_because, shown.cursor) == ("disabled", "failing", 0)
    first = receiver.received[0].message_id
    receiver.answer = lambda _: 200
    with shop.worker.begin() as connection:
        endpoints.enable(connection, "feed")
    deliver(courier)
    assert receiver.received[-1].message_id == first
    assert endpoint(shop, "feed").behind == 0


def test_while_a_secret_is_replaced_both_verify(shop: Shop, courier: Courier, receiver: Receiver) -> None:
    add(shop, receiver)
    newest = story.rotate(shop.worker, "orders", RING).secret
    arrive(shop, 1)
    deliver(courier)  # the receiver still has the old one
    receiver.secret = newest
    arrive(shop, 2)
    deliver(courier)
    assert (len(receiver.received), receiver.refused) == (2, [])
