"""Making a sealed chain again: what each way of changing it does to the reader, without a database."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from dataclasses import replace

import pytest

from cardsync.store.sealed_chains import BEFORE_THE_FIRST, ChainReader, Link, Verified
from cardsync.store.seals import Seal

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
KEY = b"a key that the database does not hold"


def seal(number: int, digest: bytes, key: bytes = KEY) -> Seal:
    said = f"{number}\n{digest.hex()}\n{NOON.strftime('%Y-%m-%dT%H:%M:%S.%fZ')}"
    return Seal(number, digest, NOON, hmac.digest(key, said.encode(), "sha256"))


def chain(length: int, *, sealed: int = 0) -> list[Link]:
    """A chain that fits, with a seal at that number."""
    links, before = [], BEFORE_THE_FIRST
    for number in range(1, length + 1):
        said = f"step {number}".encode()
        before = hashlib.sha256(before + said).digest()
        at = NOON + dt.timedelta(seconds=number)
        links.append(Link(number, before, said, at, seal(number, before) if number == sealed else None))
    return links


def fitting(links: list[Link], *keys: bytes) -> int:
    """How many links fit, from the first on."""
    reader = ChainReader(None, keys)
    return next((at for at, link in enumerate(links) if not reader.fits(link)), len(links))


def test_a_whole_chain_is_read_to_its_head_with_its_seal_and_the_hash_that_was_noted() -> None:
    links = chain(3, sealed=2)
    reader = ChainReader(links[0].hash, [KEY])
    assert all(reader.fits(link) for link in links)
    assert reader.whole() == Verified(3, links[2].hash, None, 1, 2, links[2].at)
    assert reader.broken(at=2) == Verified(3, links[2].hash, 2, 1, 2, links[2].at)


def test_an_empty_chain_is_whole() -> None:
    assert ChainReader(None, ()).whole() == Verified(0, BEFORE_THE_FIRST, None)
    assert ChainReader(None, [KEY]).whole() == Verified(0, BEFORE_THE_FIRST, None, None, 0, None)


@pytest.mark.parametrize(
    "changed",
    [
        {"said": b"another step"},
        {"said": None},
        {"hash": bytes(32)},
        {"number": 3},
    ],
    ids=["text", "no row", "hash", "number"],
)
def test_a_changed_link_does_not_fit(changed: dict[str, object]) -> None:
    links = chain(3)
    links[1] = replace(links[1], **changed)  # type: ignore[arg-type]
    assert fitting(links) == 1


def test_a_link_that_was_taken_out_or_moved_does_not_fit() -> None:
    one, two, three = chain(3)
    assert fitting([one, three]) == 1
    assert fitting([two, one, three]) == 0


def test_a_chain_that_was_made_again_fits_no_seal_and_only_whoever_has_the_key_sees_it() -> None:
    links = chain(2)
    links[1] = replace(links[1], seal=seal(2, links[1].hash, b"another key"))
    assert fitting(links) == 2
    assert fitting(links, KEY) == 1
    assert fitting(links, KEY, b"another key") == 2
    links[1] = replace(links[1], seal=seal(2, bytes(32)))
    assert fitting(links, KEY) == 1


def test_a_reader_that_met_a_link_that_does_not_fit_names_it() -> None:
    links = chain(3)
    reader = ChainReader(links[2].hash, ())
    assert reader.fits(links[0])
    assert not reader.fits(links[2])
    assert reader.broken() == Verified(1, links[0].hash, 2)
