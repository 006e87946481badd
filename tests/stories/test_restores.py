"""An older backup is restored into a fresh server, as an operator does it, while Ottu and the consumers are where they were.

``pg_dump`` and ``pg_restore`` are real. Each test first does what was done after the backup, and loses it.
"""

from __future__ import annotations

import secrets
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, text

from cardsync import db
from cardsync.core.brake import Limits
from cardsync.core.deletion import HELD_SINCE_RESTORE
from cardsync.core.erasure_receipt import Receipt
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.store import feed
from cardsync.store.access import keys, privileges, roles
from cardsync.store.console import journal, operations, operators, sessions
from cardsync.store.console.actions import Act
from cardsync.store.deletions import askers, erasures_again, receipts, requests
from cardsync.store.deliveries import batches, endpoints
from cardsync.store.ops import replication, restores
from cardsync.stories import endpoints as endpoint_stories
from cardsync.stories import erase
from cardsync.stories.begin_epoch import Begun, begin_epoch
from cardsync.stories.carry_out import carry_out
from cardsync.stories.endpoints import NewEndpoint
from cardsync.stories.erase_again import erase_again
from tests.factories import RING
from tests.stories.deleting import T1, T2, locked, statuses
from tests.stories.fake_ottu import DeletingShop

HOUR = 3_600.0
KEY = "cs_live_" + "a" * 43
OTHER_KEY = "cs_live_" + "b" * 43
Restore = Callable[[], DeletingShop]


@pytest.fixture(scope="module")
def fresh_server(services: Path) -> Iterator[EmbeddedPostgres]:
    """A server without our roles."""
    server = EmbeddedPostgres(services / "restored", durable=False)
    server.start()
    yield server
    server.remove()


@pytest.fixture
def shop(engine: Engine, ingest_engine: Engine, web_engine: Engine, worker_engine: Engine) -> DeletingShop:
    """The stories before the backup is restored."""
    return DeletingShop(engine, ingest_engine, web_engine, worker_engine)


@pytest.fixture
def back_up(
    postgres: EmbeddedPostgres,
    fresh_server: EmbeddedPostgres,
    shop: DeletingShop,
    database_url: str,
    tmp_path: Path,
) -> Iterator[Callable[[], Restore]]:
    """Make a backup now; what comes back restores it, and is the shop at the same Ottu on the restored database."""
    made: list[Engine] = []

    def backed_up() -> Restore:
        dump = tmp_path / f"{secrets.token_hex(4)}.dump"
        subprocess.run([postgres.program("pg_dump"), "-Fc", "-f", dump, database_url], check=True)

        def restore() -> DeletingShop:
            name = f"restored_{secrets.token_hex(6)}"
            fresh_server.create_database(name)
            url = fresh_server.url_for(name)
            # The first time it says of each GRANT that there is no such role.
            subprocess.run(
                [postgres.program("pg_restore"), "--no-owner", "-d", url, dump], capture_output=True, check=False
            )
            db.upgrade(url)
            engine, ingest = db.make_engine(url), db.make_engine(url, autocommit=True)
            made.extend((engine, ingest))
            again = DeletingShop(engine, ingest, engine, engine)
            again.desk = shop.desk
            return again

        return restore

    yield backed_up
    for engine in made:
        engine.dispose()


def begin(shop: DeletingShop, **how: Any) -> Begun:
    return begin_epoch(shop.engine, restored_to=None, by="operator", **how)


def change(shop: DeletingShop, count: int = 1, customer_id: str = "other") -> None:
    """So many changes of the feed."""
    for _ in range(count):
        token = str(secrets.randbelow(10**16)).rjust(16, "0")
        shop.stock(token, customer_id=f"{customer_id}-{token}")


def numbers(shop: DeletingShop, after: int) -> list[int]:
    """The numbers of the changes that a consumer finds after its own."""
    rows = shop.execute("SELECT seq FROM registry.card_changes WHERE seq > :after ORDER BY seq", after=after)
    return [row.seq for row in rows]


def test_a_dump_that_is_restored_into_a_fresh_server_lacks_nothing_after_an_upgrade(
    back_up: Callable[[], Restore], shop: DeletingShop, fresh_server: EmbeddedPostgres
) -> None:
    (card,) = shop.stock(T1)
    restore = back_up()
    with psycopg.connect(fresh_server.url, autocommit=True) as owner:
        there = {name for (name,) in owner.execute("SELECT rolname FROM pg_roles")}
    if set(privileges.ROLES) <= there:  # another test's upgrade made them
        with psycopg.connect(fresh_server.url, autocommit=True) as owner:
            databases = owner.execute("SELECT datname FROM pg_database WHERE datname LIKE 'restored_%'").fetchall()
            for (name,) in databases:
                owner.execute(f"DROP DATABASE {name} WITH (FORCE)")
            owner.execute(f"DROP OWNED BY {', '.join(privileges.ROLES)}")
            owner.execute(f"DROP ROLE {', '.join(privileges.ROLES)}")
    again = restore()
    with again.engine.connect() as connection:
        assert (roles.missing(connection), roles.lacking(connection)) == ([], [])
        assert again.card(T1).card_id == card
        for name, value in roles.TIME_OUTS.items():
            found = "SELECT count(*) FROM pg_db_role_setting, unnest(setconfig) AS s WHERE s = :setting"
            assert connection.execute(text(found), {"setting": f"{name}={value}"}).scalar_one() >= len(
                privileges.OTHERS
            )
    assert again.reconcile_now().outcome == "unchanged"


def test_without_the_command_a_consumer_that_is_ahead_misses_changes(
    back_up: Callable[[], Restore], shop: DeletingShop
) -> None:
    change(shop, 2)
    restore = back_up()
    change(shop, 3)
    cursor = numbers(shop, 0)[-1]
    again = restore()
    change(again, 2)
    assert numbers(again, cursor) == []  # the harm


def test_numbers_of_the_feed_and_of_evidence_leap_over_the_lost_future(
    back_up: Callable[[], Restore], shop: DeletingShop
) -> None:
    change(shop, 2)
    restore = back_up()
    change(shop, 3)
    cursor = numbers(shop, 0)[-1]
    with shop.engine.connect() as connection:
        before = replication.state(connection)
    again = restore()
    begun = begin(again)
    change(again, 2)
    assert numbers(again, cursor) == [begun.after_seq + 1, begun.after_seq + 2]
    rows = again.execute("SELECT DISTINCT epoch FROM registry.card_changes WHERE seq > :seq", seq=cursor)
    assert [row.epoch for row in rows] == [begun.epoch]
    assert [row.epoch for row in again.execute("SELECT DISTINCT epoch FROM registry.card_changes WHERE seq < 3")] == [1]
    with again.engine.connect() as connection:
        after = replication.state(connection)
        places = {seq: feed.place(connection, seq) for seq in (1, 2, cursor, begun.after_seq, begun.after_seq + 2)}
    assert before is not None
    assert after is not None
    assert after.evidence_no > before.evidence_no + restores.LEAP_AT_LEAST
    assert {seq for seq, place in places.items() if place.is_lost} == {cursor}
    assert {place.epoch for place in places.values()} == {begun.epoch}
    # The newest number can be read in JSON by any program.
    assert places[1].head < 2**53


def test_two_restores_of_one_backup_share_no_number(back_up: Callable[[], Restore], shop: DeletingShop) -> None:
    change(shop, 2)
    restore = back_up()
    first = restore()
    one = begin(first)
    change(first, 2)
    cursor = numbers(first, 0)[-1]
    second = restore()
    two = begin(second)
    again = begin(second)  # said twice, it begins twice
    change(second)
    assert one.epoch <= two.epoch < again.epoch
    assert min(numbers(second, cursor)) > again.after_seq > two.after_seq > cursor
    with second.engine.connect() as connection:
        assert feed.place(connection, cursor).is_lost


def test_listeners_hear_of_the_epoch_and_each_ring_names_it(back_up: Callable[[], Restore], shop: DeletingShop) -> None:
    restore = back_up()
    again = restore()
    url = again.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as listener:
        listener.execute("LISTEN registry_card_changes")
        change(again)
        begun = begin(again)
        change(again)
        heard = [notice.payload for notice in listener.notifies(timeout=60, stop_after=3)]
    assert heard == ["1", str(begun.epoch), str(begun.epoch)]


def test_an_endpoint_is_held_and_gets_what_is_new_with_its_epoch(
    back_up: Callable[[], Restore], shop: DeletingShop
) -> None:
    for name in ("caught-up", "behind"):
        new = NewEndpoint(name, "https://billing.example/changes", "changes", 0 if name == "behind" else None)
        endpoint_stories.add(shop.engine, new, RING)
    change(shop, 2)
    shop.execute("UPDATE cardsync.endpoints SET cursor_seq = 2 WHERE name = 'caught-up'")
    again = back_up()()
    begun = begin(again)
    assert begun.endpoints_held == 2
    change(again)
    with again.engine.begin() as connection:
        assert batches.claim(connection) == []
        assert {(e.status, e.disabled_because) for e in endpoints.listing(connection)} == {("disabled", "restored")}
        assert {e.name: e.behind for e in endpoints.listing(connection)} == {"caught-up": 1, "behind": 3}
        assert {lag.name: lag.behind for lag in endpoints.lags(connection)} == {"caught-up": 1, "behind": 3}
    with again.engine.begin() as connection:
        assert all(endpoints.enable(connection, name) for name in ("caught-up", "behind"))
        found = {batch.endpoint: batch for batch in batches.claim(connection)}
    new_one = begun.after_seq + 1
    assert [c["seq"] for c in found["caught-up"].changes] == [new_one]
    assert [(c["seq"], c["epoch"]) for c in found["behind"].changes] == [(1, 1), (2, 1), (new_one, begun.epoch)]
    assert (found["behind"].epoch, found["behind"].head) == (begun.epoch, new_one)


def test_a_revoked_key_is_held_until_somebody_releases_it(back_up: Callable[[], Restore], shop: DeletingShop) -> None:
    with shop.engine.begin() as connection:
        revoked = keys.create(connection, "leaked", keys.key_hash(KEY), ["cards:read"])
        kept = keys.create(connection, "billing", keys.key_hash(OTHER_KEY), ["cards:read"])
        long_gone = keys.create(connection, "old", keys.key_hash("cs_live_" + "c" * 43), ["cards:read"])
        keys.revoke(connection, long_gone)
    restore = back_up()
    with shop.engine.begin() as connection:
        assert keys.revoke(connection, revoked)
    again = restore()
    with again.engine.begin() as connection:
        assert keys.find(connection, keys.key_hash(KEY)) is not None  # the harm
    assert begin(again).keys_held == 2
    with again.engine.begin() as connection:
        assert keys.count_held(connection) == 2
        for key in (KEY, OTHER_KEY):
            assert keys.find(connection, keys.key_hash(key)) is None
        assert keys.revoke(connection, revoked)
        assert keys.release(connection) == [kept]
    with again.engine.begin() as connection:
        assert keys.find(connection, keys.key_hash(KEY)) is None
        assert keys.find(connection, keys.key_hash(OTHER_KEY)) is not None
        assert keys.release(connection, [revoked, long_gone]) == []


def test_what_was_made_after_the_moment_of_the_backup_is_not_held(
    back_up: Callable[[], Restore], shop: DeletingShop
) -> None:
    card, other = shop.stock(T1, T2)
    deletion = shop.ask(card)
    with shop.engine.begin() as connection:
        keys.create(connection, "before", keys.key_hash(KEY), ["cards:read"])
    again = back_up()()
    with again.engine.connect() as connection:
        moment = db.moment(connection)
    fresh = again.ask(other)  # somebody started the web too early
    with again.engine.begin() as connection:
        keys.create(connection, "after", keys.key_hash(OTHER_KEY), ["cards:read"])
    begun = begin_epoch(again.engine, restored_to=moment, by="operator")
    assert (begun.keys_held, begun.deletions_held) == (1, 1)
    with again.engine.connect() as connection:
        assert keys.find(connection, keys.key_hash(OTHER_KEY)) is not None
    assert (again.show(deletion).code, again.show(fresh).code) == ("held", None)


def test_operators_are_signed_out_and_come_in_by_a_new_invitation_alone(
    back_up: Callable[[], Restore], shop: DeletingShop
) -> None:
    with shop.engine.begin() as connection:
        operators.invite(connection, "dismissed since", "admin", operators.new_secret(), by="test")
    again = back_up()()
    assert begin(again).operators_disabled == 1
    with again.engine.begin() as connection:
        (one,) = operators.listing(connection)
        assert (one.disabled_at is not None, one.invited_until, one.sessions) == (True, None, 0)
        operators.invite(connection, one.name, "viewer", operators.new_secret(), by="test")
        (one,) = operators.listing(connection)
        assert one.disabled_at is None


def test_what_an_operator_asked_for_in_the_console_is_not_done_a_second_time(
    back_up: Callable[[], Restore], shop: DeletingShop
) -> None:
    shop.stock(T1)
    link, secret = operators.new_secret(), b"a session's secret of 32 bytes.."
    with shop.engine.begin() as connection:
        operators.invite(connection, "Amal", "admin", link, by="test")
        sessions.open_by_link(connection, link, secret, came_from=None)
        asked_for = operations.ask(connection, Act(secret, "192.0.2.1", uuid.uuid4()), "erase", "cust-1")
    again = back_up()()
    assert begin(again).operations_cancelled == 1
    with again.engine.begin() as connection:
        operators.invite(connection, "Amal", "admin", operators.new_secret(), by="test")
    while carry_out(again.worker, Limits(0.15, 25), RING):
        pass
    again.work_for(60)
    with again.engine.connect() as connection:
        found = operations.show(connection, asked_for)
        assert found is not None
        assert (found.status, found.error) == ("cancelled", "a backup was restored")
        assert journal.verify(connection).broken_at is None
    assert (statuses(again), again.desk.statuses) == ("active", [])


def was_done_since(shop: DeletingShop, deletion: uuid.UUID) -> None:
    """The deletion is carried out, and the person saves the same card again."""
    shop.work_for(300)
    assert shop.show(deletion).status == "done"
    shop.desk.world.save_card("sandbox", "cust-1", token=T1)
    shop.hint("cust-1", T1, session_id=uuid.uuid4().hex)
    shop.work()
    assert statuses(shop) == "active"
    shop.desk.statuses.clear()


def test_without_the_command_a_deletion_is_repeated_on_a_card_that_was_saved_since(
    back_up: Callable[[], Restore], shop: DeletingShop
) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    restore = back_up()
    was_done_since(shop, deletion)
    again = restore()
    again.work_for(300)
    assert again.desk.deleted == 1  # the harm: the card that was saved since


def asked(shop: DeletingShop, deletion: uuid.UUID) -> None:
    """Nothing was called yet."""


def calling(shop: DeletingShop, deletion: uuid.UUID) -> None:
    """A call was made, and no answer is known."""
    shop.execute(
        "UPDATE cardsync.deletions SET phase = 'calling', called_at = clock_timestamp(), attempts = 1, due_at = NULL"
    )


def proving(shop: DeletingShop, deletion: uuid.UUID) -> None:
    """Ottu said that the card is gone."""
    calling(shop, deletion)
    shop.execute("UPDATE cardsync.deletions SET phase = 'proving', said_status = 204")


def refused(shop: DeletingShop, deletion: uuid.UUID) -> None:
    """Ottu refused."""
    calling(shop, deletion)
    shop.execute("UPDATE cardsync.deletions SET phase = 'refused', said_status = 403")


@pytest.mark.parametrize("phase", [asked, calling, proving, refused])
def test_an_open_deletion_is_never_repeated_by_itself_on_a_card_that_was_saved_since(
    back_up: Callable[[], Restore], shop: DeletingShop, phase: Callable[[DeletingShop, uuid.UUID], None]
) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    phase(shop, deletion)
    restore = back_up()
    shop.execute(
        """UPDATE cardsync.deletions SET phase = 'asked', due_at = clock_timestamp(), called_at = NULL, said_status = NULL"""
    )
    was_done_since(shop, deletion)
    again = restore()
    assert begin(again).deletions_held == 1
    again.work_for(2 * HOUR, step=300)
    with again.engine.begin() as connection:
        askers.release(connection)
        assert askers.let_go(connection, by="me") == 0
        assert askers.left(connection) == []
    again.work_for(2 * HOUR, step=300)
    assert again.desk.statuses == []
    shown = again.show(deletion)
    assert (shown.status, shown.code, shown.error) == ("pending", "held", HELD_SINCE_RESTORE)
    assert statuses(again) == "deleting"
    assert again.details(deletion, "held") == [{"because": "restored", "was": phase.__name__}]

    with again.engine.begin() as connection:
        assert requests.cancel(connection, deletion, by="me")
    again.work()
    assert (again.show(deletion).status, statuses(again), again.desk.statuses) == ("failed", "active", [])
    with again.engine.connect() as connection:
        assert receipts.verify(connection).broken_at is None


def test_a_held_deletion_goes_on_when_an_operator_wants_it(back_up: Callable[[], Restore], shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    again = back_up()()
    begin(again)
    again.work_for(60)
    assert again.desk.statuses == []
    with again.engine.begin() as connection:
        assert requests.replay(connection, deletion)
        assert not requests.replay(connection, deletion)
    again.work_for(300)
    assert (again.show(deletion).status, again.desk.deleted) == ("done", 1)


def test_a_held_deletion_is_done_by_a_list_without_the_card(back_up: Callable[[], Restore], shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    restore = back_up()
    shop.work_for(300)
    assert shop.show(deletion).status == "done"
    shop.desk.statuses.clear()
    again = restore()
    begin(again)
    again.work_for(60)
    assert (again.show(deletion).status, statuses(again), again.desk.statuses) == ("done", "removed", [])
    with again.engine.connect() as connection:
        assert receipts.verify(connection).broken_at is None


def test_a_blocked_deletion_does_not_go_on_by_itself_when_its_card_is_unlocked(
    back_up: Callable[[], Restore], shop: DeletingShop
) -> None:
    card = locked(shop)
    deletion = shop.ask(card, when_unlocked=True)
    shop.work_for(300)
    assert shop.show(deletion).status == "blocked"
    restore = back_up()
    shop.desk.statuses.clear()
    again = restore()
    assert begin(again).deletions_held == 1
    again.desk.world.pay("sandbox", "cust-1", T2, agreement_id="agreement-1")  # another card takes it over
    again.reconcile_now()
    again.work_for(300)
    assert (again.show(deletion).status, again.desk.statuses) == ("blocked", [])


def erased(shop: DeletingShop) -> tuple[uuid.UUID, list[Receipt]]:
    """The person is erased, and the receipts are exported."""
    begun = erase.begin(shop.worker, erase.Wish("cust-1", "support"))
    for _ in range(30):
        shop.work_for(10)
        shop.execute("UPDATE cardsync.erasures SET due_at = clock_timestamp() WHERE due_at IS NOT NULL")
        erase.advance(shop.worker, 10)
    with shop.engine.connect() as connection:
        assert erase.show(connection, begun.erasure_id)[0].status == "done"
        return begun.erasure_id, list(erasures_again.receipts(connection, None))


NAME = "JOY OF THE TESTS"


def names(shop: DeletingShop) -> list[str]:
    """Whatever names the person in the tables."""
    return [line for line in shop.everything().splitlines() if NAME in line]


def test_a_person_who_was_erased_since_is_erased_again_and_nothing_is_deleted_at_ottu(
    back_up: Callable[[], Restore], shop: DeletingShop
) -> None:
    shop.stock(T1, T2)
    shop.ask(shop.card(T2).card_id)  # under way when the backup is made
    shop.execute("UPDATE cardsync.cards SET name_on_card = :name", name=NAME)
    restore = back_up()
    erasure_id, exported = erased(shop)
    assert names(shop) == []
    shop.desk.world.save_card("sandbox", "cust-1", token=T1)  # the person has come back
    shop.desk.statuses.clear()

    again = restore()
    assert names(again) != []  # the harm
    begin(again)
    done = erase_again(again.engine, exported)
    assert (done.erased, done.known, done.open) == (1, 0, [])
    assert names(again) == []
    assert again.execute("SELECT FROM registry.active_cards") == []
    assert again.execute("SELECT FROM registry.card_tokens") == []
    assert (statuses(again, T1), statuses(again, T2)) == ("removed", "deleting")
    with again.engine.connect() as connection:
        shown, _ = erase.show(connection, erasure_id)
        assert (shown.status, shown.finished_at) == ("done", exported[0].finished_at)

    again.work_for(HOUR, step=60)
    assert again.desk.statuses == []
    assert (statuses(again, T1), statuses(again, T2)) == ("active", "removed")  # what was saved since is here
    assert names(again) == []
    assert erase_again(again.engine, exported).known == 1
    assert statuses(again, T1) == "active"
    with again.engine.connect() as connection:
        assert receipts.verify(connection).broken_at is None


def test_an_erasure_that_was_open_is_held_with_its_deletions(
    back_up: Callable[[], Restore], shop: DeletingShop
) -> None:
    shop.stock(T1)
    begun = erase.begin(shop.worker, erase.Wish("cust-1", "support"))
    restore = back_up()
    again = restore()
    counts = begin(again)
    assert (counts.erasures_held, counts.deletions_held) == (1, 1)
    for _ in range(5):
        again.work_for(600, step=60)
        assert erase.advance(again.worker, 10) == []
    assert again.desk.statuses == []
    with again.engine.connect() as connection:
        shown, _ = erase.show(connection, begun.erasure_id)
        assert (shown.status, shown.error) == ("blocked", HELD_SINCE_RESTORE)
        held = restores.held(connection)
        assert held is not None
        assert (held.erasures, held.deletions, bool(held)) == (1, 1, True)
    erase.begin(again.worker, erase.Wish("cust-1", "support"))  # it is still wanted
    with again.engine.connect() as connection:
        assert erase.show(connection, begun.erasure_id)[0].status == "pending"


def test_an_erasure_that_was_under_way_at_the_export_is_named_and_left_to_a_person(
    back_up: Callable[[], Restore], shop: DeletingShop
) -> None:
    shop.stock(T1)
    restore = back_up()
    erase.begin(shop.worker, erase.Wish("cust-1", "support"))
    with shop.engine.connect() as connection:
        exported = list(erasures_again.receipts(connection, None))
    again = restore()
    begin(again)
    done = erase_again(again.engine, exported)
    assert (done.erased, [one.customer_id for one in done.open]) == (0, ["cust-1"])
    assert statuses(again) == "active"


def test_a_rehearsal_changes_nothing(back_up: Callable[[], Restore], shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    shop.ask(card)
    with shop.engine.begin() as connection:
        keys.create(connection, "billing", keys.key_hash(KEY), ["cards:read"])
    again = back_up()()
    before = again.everything()
    rehearsed = begin(again, rehearse=True)
    assert again.everything() == before
    done = begin(again)
    assert (rehearsed.keys_held, rehearsed.deletions_held) == (done.keys_held, done.deletions_held) == (1, 1)
