"""A row that waits outside the database comes back as it was, bounded and whole, or is told to be none."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync.ciphers import KeyRing, encrypted
from cardsync.core.cards import AGREEMENTS_MAX, CardFacts, Token
from cardsync.core.events import body_hash, event_id, event_id_text
from cardsync.core.spool_format import (
    ROW_BYTES,
    WaitingRow,
    as_json,
    checked,
    named_customer,
    read_record,
    read_row,
    write_record,
)
from cardsync.errors import MalformedBody

NOW = dt.datetime(2026, 11, 24, 10, 0, tzinfo=dt.UTC)
HASH = body_hash(b"a body")
CLEAR = WaitingRow(
    body_hash=HASH,
    received_at=NOW,
    status="pending",
    kind="payment",
    scheme="standard",
    key_id="0123456789ab",
    signature_hash=body_hash(b"a signature"),
    environment="sandbox",
    customer_id="مرحبا 💳",
    session_id="a\nsession",
    agreement_id="agreement-1",
    token=Token("9999000000000001"),
    facts=CardFacts(brand="VISA", is_preferred=True, agreements=("agreement-1",), name_on_card="FAKE SHOPPER"),
)
RING = KeyRing(b"a secret of the tests, 32 bytes.")
ROW = encrypted(RING, CLEAR)
# As the releases before encryption wrote it: the token and all facts in the clear.
VERSION_2 = {
    **as_json(ROW),
    "version": 2,
    "token": "9999000000000001",
    "facts": {**dataclasses.asdict(CLEAR.facts), "agreements": ["agreement-1"]},  # type: ignore[type-var,arg-type]
}
# As the release before segments wrote it: one file, its row in a field of its own, ASCII alone.
VERSION_1 = {
    "version": 1,
    "received_at": NOW.isoformat(),
    "row": {
        "event_id": str(event_id(HASH)),
        **{k: v for k, v in VERSION_2.items() if k not in ("received_at", "version")},
    },
}


def record(content: object) -> bytes:
    """A line with a right checksum."""
    text = json.dumps(content).encode()
    return f"{zlib.crc32(text):08x} ".encode() + text + b"\n"


def fields(**changes: object) -> dict[str, object]:
    return {"version": 3, **as_json(ROW), **changes}


def test_a_row_comes_back_as_it_was_on_one_line() -> None:
    written = write_record(ROW)
    assert written.count(b"\n") == 1
    assert written.endswith(b"\n")
    assert read_record(written) == ROW


def test_other_scripts_take_their_own_bytes_and_no_escapes() -> None:
    assert "مرحبا 💳".encode() in write_record(ROW)
    assert b"\\u" not in write_record(ROW)


def test_the_id_is_a_uuid_of_version_8_that_follows_from_the_body() -> None:
    made = event_id(HASH)
    assert ROW.event_id == made
    assert (made.version, made.variant) == (8, "specified in RFC 4122")
    assert made == event_id(body_hash(b"a body")) != event_id(body_hash(b"another"))
    assert made.hex[:12] == HASH.hex()[:12]


@given(st.binary(min_size=32, max_size=32))
def test_the_text_of_an_id_is_that_of_the_id(found: bytes) -> None:
    assert event_id_text(found) == str(event_id(found))


def test_a_row_without_a_time_of_arrival_is_not_written() -> None:
    with pytest.raises(ValueError, match="arrived"):
        write_record(dataclasses.replace(ROW, received_at=None))


@pytest.mark.parametrize("older", [VERSION_1, VERSION_2], ids=["1", "2"])
def test_the_row_of_an_older_release_is_read(older: dict[str, object]) -> None:
    assert read_row(json.dumps(older).encode()) == CLEAR


def test_a_token_in_the_clear_is_neither_written_to_disk_nor_made_a_row() -> None:
    for write in (write_record, as_json):
        with pytest.raises(ValueError, match="encrypted"):
            write(CLEAR)


def test_a_record_tells_neither_the_token_nor_the_name_on_the_card() -> None:
    written = write_record(ROW)
    assert not any(secret in written for secret in (b"9999000000000001", b"FAKE SHOPPER", b"VISA"))


def test_a_field_of_a_newer_release_is_passed_over() -> None:
    facts = {**as_json(ROW)["facts"], "of_tomorrow": [1]}  # type: ignore[dict-item]
    assert read_record(record(fields(of_tomorrow={"a": 1}, facts=facts))) == ROW


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"[" * 100_000,
        json.dumps({**VERSION_1, "row": None}).encode(),
        json.dumps({**VERSION_1, "row": {**VERSION_1["row"], "event_id": str(event_id(b"1" * 32))}}).encode(),  # type: ignore[dict-item]
        *(
            json.dumps(fields(**changes)).encode()
            for changes in (
                {"version": 4},
                {"version": None},
                {"received_at": "yesterday"},
                {"received_at": 7},
                {"received_at": None},
                {"received_at": "2026-11-24T10:00:00"},
                {"body_hash": "00" * 31},
                {"body_hash": 7},
                {"signature_hash": "zz"},
                {"status": None},
                {"customer_id": 7},
                {"customer_id": "a\x00b"},
                {"customer_id": "\ud800"},
                {"token": ["9999"]},
                {"token": "9" * 51},
                {"facts": []},
                {"facts": {"brand": 7}},
                {"facts": {"is_expired": "no"}},
                {"facts": {"agreements": "one"}},
                {"facts": {"agreements": [7]}},
                {"facts": {"number": "9999123412341234"}},
            )
        ),
    ],
    ids=lambda content: repr(content[-40:]),
)
def test_what_is_not_a_row_is_told(content: bytes) -> None:
    with pytest.raises(MalformedBody):
        read_row(content)


def test_a_torn_or_altered_record_is_told() -> None:
    written = write_record(ROW)
    for damaged in (
        written[:-10],
        written[1:],
        b"",
        written.replace(b"agreement-1", b"agreement-2"),
        b"0" * 8 + written[8:],
    ):
        assert checked(damaged) is None
        with pytest.raises(MalformedBody):
            read_record(damaged)


words = st.none() | st.text(st.sampled_from('\x01"\\a💳م'), max_size=128)


@given(
    row=st.builds(
        WaitingRow,
        body_hash=st.just(HASH),
        received_at=st.just(NOW),
        status=st.just("pending"),
        kind=st.just("payment"),
        scheme=st.just("subscription"),
        key_id=st.just("0123456789ab"),
        signature_hash=st.just(HASH),
        environment=st.just("production"),
        customer_id=st.text(st.sampled_from("\x01💳"), min_size=64, max_size=64),
        session_id=words,
        reference_number=words,
        order_no=words,
        result=st.just("\x01" * 32),
        state=st.just("\x01" * 32),
        payment_type=st.just("\x01" * 32),
        agreement_id=words,
        token=st.just(Token("\x01" * 50)),
        facts=st.builds(
            CardFacts,
            **dict.fromkeys(
                ("pg_code", "pg_name", "brand", "number", "expiry_month", "expiry_year", "name_on_card"), words
            ),
            agreements=st.lists(words.filter(bool), max_size=AGREEMENTS_MAX).map(tuple),
        ),
    )
)
def test_no_record_is_over_eight_kilobytes_and_each_still_says_which_card_it_is(row: WaitingRow) -> None:
    row = encrypted(RING, row)
    written = write_record(row)
    assert len(written) <= ROW_BYTES
    found = read_record(written)
    for name in ("body_hash", "received_at", "environment", "customer_id", "agreement_id", "token", "signature_hash"):
        assert getattr(found, name) == getattr(row, name)
    if len(written) < ROW_BYTES // 2:
        assert found == row


def test_agreements_are_clipped_and_the_payments_own_is_kept() -> None:
    many = (*(f"{n:04d}-{'م' * 100}" for n in range(99)), "zzz")
    row = dataclasses.replace(ROW, agreement_id="zzz", facts=CardFacts(agreements=many))
    found = read_record(write_record(row))
    assert found.facts is not None
    kept = found.facts.agreements or ()
    assert kept[0] == "zzz"
    assert 20 < len(kept) < len(many)


def test_the_customer_of_a_row_that_cannot_be_read_may_still_be_told() -> None:
    assert named_customer(write_record(ROW)) == ROW.customer_id
    assert named_customer(json.dumps(VERSION_1).encode()) == ROW.customer_id
    assert named_customer(record(fields(version=9))) == ROW.customer_id
    assert named_customer(b"0" * 8 + write_record(ROW)[8:]) == ROW.customer_id
    for nothing in (b"", b"{", b"[]", write_record(ROW)[:50], record([]), record({"customer_id": 7}), record(7)):
        assert named_customer(nothing) is None
