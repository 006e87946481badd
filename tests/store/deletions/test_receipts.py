"""The receipts' chain: whole as it is written, broken by whatever is changed afterwards."""

from __future__ import annotations

import threading
import uuid

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from cardsync.store import seals
from cardsync.store.deletions import receipts, requests
from cardsync.store.sealed_chains import BEFORE_THE_FIRST, Verified
from cardsync.stories.seal import Sealer
from tests.factories import CustomerFactory, make_card
from tests.waiting import WAIT_SECONDS

WRITERS, EACH = 4, 25


@pytest.fixture
def asked(engine: Engine) -> list[uuid.UUID]:
    """Three deletions, with a few steps each."""
    found = []
    for number in range(3):
        card = make_card(CustomerFactory()).card_id
        with engine.begin() as connection:
            found.append(requests.request(connection, card_id=card, requested_by=f"é {number}").deletion_id)
        with engine.begin() as connection:
            receipts.add(connection, found[-1], "called", attempt=1, call_no=7)
            receipts.add(connection, found[-1], "answered", status_code=400, error='a "quoted"\nword — é', nothing=None)
    return found


def verify(engine: Engine, noted: bytes | None = None) -> Verified:
    with engine.connect() as connection:
        return receipts.verify(connection, noted=noted)


def tamper(engine: Engine, *statements: str) -> None:
    """What the database's owner can do: no trigger stops him."""
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in statements:
            connection.execute(text(statement))


def test_an_empty_chain_is_whole(engine: Engine) -> None:
    assert verify(engine) == Verified(0, BEFORE_THE_FIRST, None)


def test_what_was_written_verifies_and_is_shown_in_order(engine: Engine, asked: list[uuid.UUID]) -> None:
    found = verify(engine)
    assert (found.length, found.broken_at) == (9, None)
    with engine.connect() as connection:
        steps = receipts.steps(connection, asked[1])
    assert [(s.step_no, s.step) for s in steps] == [(4, "asked"), (5, "called"), (6, "answered")]
    assert steps[2].detail == {"status_code": 400, "error": 'a "quoted"\nword — é'}
    assert steps[0].detail["requested_by"] == "é 1"


def test_a_head_that_was_noted_is_found_again(engine: Engine, asked: list[uuid.UUID]) -> None:
    head = verify(engine).head
    with engine.begin() as connection:
        receipts.add(connection, asked[0], "listed", observation_no=9)
    later = verify(engine, noted=head)
    assert (later.length, later.noted_at, later.broken_at) == (10, 9, None)
    assert verify(engine, noted=b"x" * 32).noted_at is None


STEP_OF_ANOTHER = "(SELECT deletion_id FROM cardsync.deletion_steps WHERE step_id = {})"
DONE = "phase = 'done', due_at = NULL, finished_at = now(), proof_no = since_no + 1"


@pytest.mark.parametrize(
    ("statement", "broken_at"),
    [
        ("UPDATE cardsync.deletion_steps SET detail = '{}' WHERE step_id = 5", 5),
        ("UPDATE cardsync.deletion_steps SET detail = detail || '{\"x\": 1}' WHERE step_id = 1", 1),
        ("UPDATE cardsync.deletion_steps SET step = 'done' WHERE step_id = 2", 2),
        ("UPDATE cardsync.deletion_steps SET at = at + interval '1 microsecond' WHERE step_id = 9", 9),
        (f"UPDATE cardsync.deletion_steps SET deletion_id = {STEP_OF_ANOTHER.format(1)} WHERE step_id = 4", 4),
        ("DELETE FROM cardsync.deletion_steps WHERE step_id = 4", 4),
        ("DELETE FROM cardsync.receipt_chain WHERE step_no = 4", 4),
        ("DELETE FROM cardsync.receipt_chain WHERE step_no = 9", 9),
        ("UPDATE cardsync.receipt_chain SET hash = sha256(hash) WHERE step_no = 3", 3),
        ("UPDATE cardsync.receipt_chain SET step_id = 17 WHERE step_no = 3", 3),
        ("UPDATE cardsync.receipt_head SET hash = sha256(hash)", 10),
        ("UPDATE cardsync.receipt_head SET step_no = 8", 9),
        (f"INSERT INTO cardsync.deletion_steps (deletion_id, step) SELECT {STEP_OF_ANOTHER.format(1)}, 'done'", 10),
        (
            f"UPDATE cardsync.deletions SET requested_by = 'x' WHERE deletion_id = {STEP_OF_ANOTHER.format(4)}",
            4,
        ),
        (f"UPDATE cardsync.deletions SET {DONE}", 1),
    ],
)
def test_any_later_change_is_seen(engine: Engine, asked: list[uuid.UUID], statement: str, broken_at: int) -> None:
    tamper(engine, statement)
    assert verify(engine).broken_at == broken_at


def test_an_end_that_was_cut_off_cleanly_is_seen_by_whoever_noted_the_head(
    engine: Engine, asked: list[uuid.UUID]
) -> None:
    head = verify(engine).head
    tamper(
        engine,
        "DELETE FROM cardsync.receipt_chain WHERE step_no > 6",
        "DELETE FROM cardsync.deletion_steps WHERE step_id > 6",
        "UPDATE cardsync.receipt_head SET step_no = 6, "
        "hash = (SELECT hash FROM cardsync.receipt_chain WHERE step_no = 6)",
    )
    found = verify(engine, noted=head)
    assert (found.length, found.broken_at, found.noted_at) == (6, None, None)


@pytest.mark.parametrize("table", ["deletion_steps", "receipt_chain"])
@pytest.mark.parametrize(
    "statement",
    ["UPDATE cardsync.{} SET step_id = step_id", "DELETE FROM cardsync.{}", "TRUNCATE cardsync.{} CASCADE"],
)
def test_receipts_are_append_only(engine: Engine, asked: list[uuid.UUID], table: str, statement: str) -> None:
    with pytest.raises(DBAPIError, match=r"append-only|can only be updated to DEFAULT"), engine.begin() as connection:
        connection.execute(text(statement.format(table)))


def test_the_chain_is_in_commit_order_and_whole_while_many_write(engine: Engine) -> None:
    cards = [make_card(CustomerFactory()).card_id for _ in range(WRITERS)]
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            with engine.begin() as connection:
                mine = requests.request(connection, card_id=cards[number], requested_by="x").deletion_id
            for n in range(EACH):
                with engine.connect() as connection:
                    brand = text("UPDATE cardsync.cards SET brand = :brand WHERE card_id = :card_id")
                    # Both heads in either order: neither may wait for the other for ever.
                    if n % 2:
                        receipts.add(connection, mine, "listed", observation_no=n)
                        connection.execute(brand, {"brand": str(n), "card_id": cards[number]})
                    else:
                        connection.execute(brand, {"brand": str(n), "card_id": cards[number]})
                        receipts.add(connection, mine, "listed", observation_no=n)
                    if n % 5 == 0:
                        connection.rollback()
                    else:
                        connection.commit()
        except BaseException as error:  # noqa: BLE001  (a thread's border)
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert errors == []
    found = verify(engine)
    assert (found.length, found.broken_at) == (WRITERS * (1 + EACH * 4 // 5), None)


RECHAINED = """
    DO $$
    DECLARE
        head bytea := decode(repeat('00', 32), 'hex');
        link record;
    BEGIN
        FOR link IN SELECT c.step_no, s.* FROM cardsync.receipt_chain AS c
                    JOIN cardsync.deletion_steps AS s USING (step_id) ORDER BY c.step_no LOOP
            head := sha256(head || convert_to(
                link.step_no || E'\\n' || link.deletion_id || E'\\n'
                    || to_char(link.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') || E'\\n'
                    || link.step || E'\\n' || link.detail::text, 'UTF8'));
            UPDATE cardsync.receipt_chain SET hash = head WHERE step_no = link.step_no;
        END LOOP;
        UPDATE cardsync.receipt_head SET hash = head;
    END $$
"""
SECRET = b"a secret that the owner of the database has not"
KEYS = [seals.RECEIPTS.key(SECRET)]
LIE = "UPDATE cardsync.deletion_steps SET detail = '{\"status_code\": 204}' WHERE step_id = 3"


def verify_sealed(engine: Engine, keys: list[bytes] = KEYS) -> Verified:
    with engine.connect() as connection:
        return receipts.verify(connection, keys=keys)


def test_an_owner_who_makes_the_chain_again_is_found_out_by_the_seals(engine: Engine, asked: list[uuid.UUID]) -> None:
    assert Sealer(seals.RECEIPTS, SECRET).seal(engine)
    found = verify_sealed(engine)
    assert (found.broken_at, found.sealed_to, found.unsealed_since) == (None, 9, None)
    tamper(engine, LIE, RECHAINED)
    assert verify(engine).broken_at is None  # this is what a chain without a key cannot see
    assert verify_sealed(engine).broken_at == 9


def test_a_seal_of_another_key_counts_for_nothing_and_an_older_key_of_ours_still_counts(
    engine: Engine, asked: list[uuid.UUID]
) -> None:
    Sealer(seals.RECEIPTS, b"x" * 32).seal(engine)
    assert verify_sealed(engine).broken_at == 9
    assert verify_sealed(engine, [*KEYS, seals.RECEIPTS.key(b"x" * 32)]).sealed_to == 9


@pytest.mark.parametrize(
    "change", ["hash = sha256(hash)", "sealed_at = sealed_at - interval '1 day'", "seal = sha256(seal)"]
)
def test_no_part_of_a_seal_can_be_changed(engine: Engine, asked: list[uuid.UUID], change: str) -> None:
    Sealer(seals.RECEIPTS, SECRET).seal(engine)
    with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(text(f"UPDATE cardsync.receipt_seals SET {change}"))
    tamper(engine, f"UPDATE cardsync.receipt_seals SET {change}")
    assert verify_sealed(engine).broken_at == 9


def test_an_end_that_is_cut_off_leaves_its_seal_behind(engine: Engine, asked: list[uuid.UUID]) -> None:
    Sealer(seals.RECEIPTS, SECRET).seal(engine)
    tamper(
        engine,
        "DELETE FROM cardsync.receipt_chain WHERE step_no > 6",
        "DELETE FROM cardsync.deletion_steps WHERE step_id > 6",
        "UPDATE cardsync.receipt_head SET step_no = 6, hash = (SELECT hash FROM cardsync.receipt_chain WHERE step_no = 6)",
    )
    assert verify_sealed(engine).broken_at == 7


def test_steps_after_the_last_seal_are_told_apart(engine: Engine, asked: list[uuid.UUID]) -> None:
    sealer = Sealer(seals.RECEIPTS, SECRET)
    assert sealer.seal(engine)
    assert not sealer.seal(engine)  # nothing has moved
    with engine.begin() as connection:
        receipts.add(connection, asked[0], "listed", observation_no=9)
    found = verify_sealed(engine)
    assert (found.length, found.sealed_to, found.broken_at) == (10, 9, None)
    assert found.unsealed_since is not None
    assert Sealer(seals.RECEIPTS, SECRET).seal(engine)
    assert verify_sealed(engine).sealed_to == 10


@pytest.mark.parametrize("statements", [(LIE, RECHAINED), ("DELETE FROM cardsync.receipt_seals",)])
def test_a_worker_seals_nothing_over_what_it_can_see_was_changed(
    engine: Engine, asked: list[uuid.UUID], statements: tuple[str, ...]
) -> None:
    sealer = Sealer(seals.RECEIPTS, SECRET)
    sealer.seal(engine)
    tamper(engine, *statements)
    with engine.begin() as connection:
        receipts.add(connection, asked[0], "listed", observation_no=9)
    with capture_logs() as lines:
        assert not sealer.seal(engine)
        assert not sealer.seal(engine)  # at each tick
    assert [(line["event"], line["log_level"]) for line in lines] == [("receipts_not_sealed", "error")]
    assert verify_sealed(engine).sealed_to != 10


def test_the_worker_may_seal_and_the_web_may_not(
    worker_engine: Engine, web_engine: Engine, asked: list[uuid.UUID]
) -> None:
    with pytest.raises(DBAPIError, match="permission denied"):
        Sealer(seals.RECEIPTS, SECRET).seal(web_engine)
    assert Sealer(seals.RECEIPTS, SECRET).seal(worker_engine)
